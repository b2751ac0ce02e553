"""Reads the command line, starts what's needed, runs the scenarios."""

import argparse
import asyncio
import importlib.util
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

from chaos_campaign.cli import DRIVERS as SERVER_DRIVERS
from chaos_campaign.cli import modules_of

from pooltools.command import run_tool
from pooltools.processes import wait_until
from pooltools.provide import provide

from . import report
from .databases import make_database
from .hosting import SERVERS, Site
from .scenarios import LEAK, SCENARIOS, run

ROOT = Path(__file__).resolve().parent.parent.parent
DRIVERS = {"sqlite": {"sqlite3": "sqlite3"}, **SERVER_DRIVERS}
WEBSOCKET_MODULES = ("channels", "websockets")
SIZE = 4


def main(arguments=None):
    return run_tool("scripts/asgi_matrix", run_matrix, parse(arguments))


def parse(arguments):
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(
        prog="scripts/asgi_matrix",
        description="Run what asynchronous code does to a pool of four connections "
        "on an ASGI server, and count. Ends with status 1 if a connection is lost "
        "or left behind, or if there's an error that no scenario wants.",
        epilog=f"Scenarios: {', '.join(names)}.",
    )
    parser.add_argument("--server", choices=SERVERS, default="uvicorn")
    parser.add_argument("--database", choices=DRIVERS, default="sqlite")
    parser.add_argument(
        "--driver",
        choices=[name for names in DRIVERS.values() for name in names],
        help="default: the one that Django prefers",
    )
    parser.add_argument("--count", type=int, default=1000, help="requests of each")
    parser.add_argument("--clients", type=int, default=8, help="at a time")
    parser.add_argument(
        "--seconds", type=float, default=300, help="no more requests after that time"
    )
    parser.add_argument(
        "--pause",
        type=float,
        default=0.3,
        help="seconds of a long query; a short one takes a thirtieth of it, and a "
        "wait a third",
    )
    parser.add_argument("--scenarios", help="names with commas in between")
    parser.add_argument(
        "--pool", type=json.loads, default={}, help="more of POOL, as JSON"
    )
    parser.add_argument("--rst", type=Path, metavar="FILE", help="for the table")
    parser.add_argument("--build", type=Path, default=ROOT / "build")
    options = parser.parse_args(arguments)
    drivers = DRIVERS[options.database]
    if options.driver is None:
        options.driver = next(iter(drivers))
    elif options.driver not in drivers:
        parser.error(f"{options.driver} is no driver for {options.database}.")
    known = {scenario.name: scenario for scenario in [*SCENARIOS, LEAK]}
    chosen = options.scenarios.split(",") if options.scenarios else names
    if unknown := set(chosen) - set(known):
        parser.error(f"There's no scenario {', '.join(sorted(unknown))}.")
    options.scenarios = [known[name] for name in chosen]
    return options


def find_modules(options):
    """Have what can't be done without, if need be in another environment."""
    wanted = [options.server, *modules_of(options, DRIVERS)]
    provide(ROOT / "scripts" / "asgi_matrix", options.build, wanted)


def run_matrix(stack, options):
    options.build = options.build.resolve()
    find_modules(options)
    if not all(map(importlib.util.find_spec, WEBSOCKET_MODULES)):
        print(f"Without WebSockets: they need {' and '.join(WEBSOCKET_MODULES)}.")
        options.scenarios = [s for s in options.scenarios if "websocket" not in s.name]
    print(
        f"{options.server}, {options.database} with {options.driver}, at most "
        f"{options.count} requests of each, {options.clients} at a time, long "
        f"queries of {options.pause:g} s, max_size {SIZE}",
        flush=True,
    )
    temporary = tempfile.TemporaryDirectory(prefix="django-pool-asgi-")
    directory = Path(stack.enter_context(temporary))
    database = stack.enter_context(make_database(options.database, directory))
    pool = {"max_size": SIZE, "concurrent_async": True, **options.pool}
    site = Site(
        options.server,
        {**database.settings, "POOL": pool},
        options.driver,
        options.pause,
        SIZE,
        directory,
        options.build,
    )
    stack.callback(site.kill)
    site.fill()
    site.start()
    database.group = site.process.pid
    outcomes = asyncio.run(run_all(options, site, database))
    problems = find_problems(options, outcomes)
    if not site.end():
        problems.append("The server didn't end within 20 seconds.")
    if not wait_until(lambda: not database.left(), 5):
        problems.append(f"Left when the server had ended: {database.left()}")
    problems += [f"Logged: {line}" for line in site.complaints()]
    print(report.as_text(outcomes))
    print("\n" + report.EXPLANATION)
    if options.rst:
        options.rst.write_text(report.as_rst(outcomes))
    return print_problems(problems)


async def run_all(options, site, database):
    outcomes = []
    for scenario in options.scenarios:
        outcome = await run(
            scenario,
            site,
            database,
            options.count,
            options.clients,
            options.seconds,
            Progress(options.count),
        )
        outcomes.append(outcome)
        print(f"\r{scenario.name}: {outcome.count}".ljust(40), file=sys.stderr)
    return outcomes


class Progress:
    """A line that says how far a scenario has come, now and then."""

    def __init__(self, count):
        self.step = max(1, count // 20)

    def __call__(self, scenario, done):
        if done % self.step == 0:
            print(f"\r{scenario.name}: {done}", end="", file=sys.stderr, flush=True)


def find_problems(options, outcomes):
    problems = []
    # A query is canceled on the server by a connection of its own.
    limit = None if pool_cancels(options) else SIZE
    for outcome in outcomes:
        name = outcome.scenario.name
        for error, times in Counter(outcome.errors).most_common(5):
            problems.append(f"{name}: {times} times {error}")
        if outcome.lost:
            problems.append(f"{name}: {outcome.lost} slots lost")
        if outcome.stray:
            problems.append(f"{name}: {outcome.stray} sessions too many")
        if limit is not None and outcome.peak > limit:
            problems.append(f"{name}: {outcome.peak} sessions at a time")
    return problems


def pool_cancels(options):
    return bool(options.pool.get("cancel_queries"))


def print_problems(problems):
    if not problems:
        print("\nNothing was lost or left.")
        return 0
    print(f"\nPROBLEMS: {len(problems)}")
    for problem in problems[:40]:
        print(f"- {problem}")
    return 1
