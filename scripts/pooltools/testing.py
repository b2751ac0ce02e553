"""The command line of scripts/test."""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from . import ToolError, servers
from .envs import Environment, build_environment
from .processes import exit_on_signals, run
from .pythons import find_python
from .testing_docs import check_docs
from .testing_plan import (
    DATABASES,
    DRIVERS,
    LEASES,
    TIME_LIMIT,
    TIME_LIMIT_FULL,
    variants,
)
from .testing_report import Outcome, Report
from .testing_run import Runner

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = ROOT / "scripts"


def main(arguments=None):
    options = parse(arguments)
    steps = plan(options)
    if options.list:
        for step in steps:
            print(step.title)
        return 0
    exit_on_signals()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Started by a shell in the background. What the tests start inherits
        # that, and is interrupted in vain.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return run_steps(steps, options)
    except ToolError as error:
        print(f"scripts/test: {error}", file=sys.stderr, flush=True)
        # Nothing was run: whoever reads only the last line must see that.
        print("0 passed, 1 failed, 0 skipped", flush=True)
        return 1
    except KeyboardInterrupt:
        return 130


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="scripts/test",
        description="Run the tests. Without options: everything that CI runs.",
    )
    parser.add_argument(
        "labels",
        nargs="*",
        metavar="LABEL",
        help="labels for tests/runtests.py, in place of the usual ones",
    )
    parser.add_argument(
        "--database",
        action="append",
        default=[],
        choices=DATABASES,
        help="run on this database only (may be repeated)",
    )
    parser.add_argument(
        "--driver",
        action="append",
        default=[],
        choices=[*dict.fromkeys(name for names in DRIVERS.values() for name in names)],
        help="run with this driver only (may be repeated)",
    )
    parser.add_argument(
        "--pool", choices=["on", "off", "both"], help="run with or without the pool"
    )
    parser.add_argument(
        "--lease",
        choices=LEASES,
        default=LEASES[0],
        help="what the pool lends connections for (default: request)",
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="run the whole of Django's tests, with and without the pool",
    )
    parser.add_argument(
        "--list", action="store_true", help="only say what would be run"
    )
    parser.add_argument(
        "--build",
        metavar="DIR",
        type=Path,
        default=ROOT / "build",
        help="the directory of the assembled tree (default: build/)",
    )
    parser.add_argument(
        "--logs", metavar="DIR", type=Path, help="keep the logs of the runs there"
    )
    parser.add_argument(
        "--parallel", type=int, default=2, metavar="N", help="test processes"
    )
    parser.add_argument("--python", metavar="PATH", help="the Python to test with")
    return parser.parse_args(arguments)


class Step:
    """One line of the report; run(context) returns its outcome."""

    def __init__(self, title, run, database=None):
        self.title = title
        self.run = run
        # The server that it needs.
        self.database = database


def plan(options):
    """Return the steps that the options ask for."""
    pools = {"on": [True], "off": [False], "both": [True, False]}.get(options.pool, [])
    chosen = variants(options.database, options.driver, pools, options.lease)
    if not chosen:
        raise SystemExit("scripts/test: no database has the drivers that were given.")
    if options.full:
        # With other drivers only if they were asked for.
        chosen = [v for v in chosen if v.is_primary or v.driver in options.driver]
    selected = (
        options.labels
        or options.database
        or options.driver
        or options.pool
        or options.lease != LEASES[0]
    )
    steps = []
    if not (selected or options.full):
        steps.append(Step("patches, tree and style", check_tree))
        steps.append(Step("tests of the tools", test_tools))
        steps.append(Step("documentation", check_docs))
    for variant in chosen:
        steps.append(django_step(variant, options))
    return steps


def django_step(variant, options):
    if options.labels:
        labels = options.labels
    else:
        labels = variant.labels(options.full)
    limit = TIME_LIMIT_FULL if options.full else TIME_LIMIT

    def run_variant(context):
        return context.runner.run(variant, labels, limit)

    return Step(str(variant), run_variant, variant.database)


class Context:
    """What the steps work with."""

    def __init__(self, options, python, directory):
        self.build = options.build.resolve()
        self.python = python
        self.directory = directory
        self.runner = None


def run_steps(steps, options):
    with contextlib.ExitStack() as stack:
        python = find_python(options.python)
        assemble(options.build)
        environment = Environment(ROOT, ".venvs/test", python)
        missing = build_environment(environment, options.build)
        for name in missing:
            print(f"Not installed, so its tests are skipped: {name}", flush=True)
        scratch = Path(stack.enter_context(temporary_directory()))
        context = Context(options, environment.python, scratch)
        names = {step.database for step in steps} - {None, "sqlite"}
        if names:
            print(f"Starting {', '.join(sorted(names))} ...", flush=True)
        running = servers.start(names, stack, time_zones=True)
        context.runner = Runner(
            context.python, context.build, scratch, running, options.parallel
        )
        if options.logs:
            options.logs.mkdir(parents=True, exist_ok=True)
            context.runner.logs = options.logs.resolve()
        report = Report(len(steps))
        for step in steps:
            report.begin(step.title)
            report.end(run_step(step, context))
        return report.finish()


def temporary_directory():
    return tempfile.TemporaryDirectory(prefix="django-pool-test-")


def run_step(step, context):
    """A step that breaks has failed, and the others are run nevertheless."""
    try:
        return step.run(context)
    except ToolError as error:
        return Outcome(failed={step.title: str(error)})
    except Exception:
        return Outcome(failed={step.title: traceback.format_exc()})


def assemble(build):
    print("Assembling the tree ...", flush=True)
    command = [sys.executable, SCRIPTS / "tree", "assemble", f"--build={build}"]
    run(command, "The tree could not be assembled.")


# The steps that don't run Django's tests.


def check_tree(context):
    command = [context.python, SCRIPTS / "tree", "check", f"--build={context.build}"]
    output = run(command, "The check failed.")
    return Outcome(passed=output.splitlines())


def test_tools(context):
    results = context.directory / "tools.xml"
    command = [
        context.python,
        "-m",
        "pytest",
        "--quiet",
        "-p",
        "no:cacheprovider",
        f"--junit-xml={results}",
        SCRIPTS / "tests",
    ]
    process = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(SCRIPTS)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        timeout=TIME_LIMIT,
    )
    if not results.exists():
        raise ToolError("pytest failed:", process.stdout.splitlines()[-20:])
    return read_junit(results)


def read_junit(file):
    outcome = Outcome()
    for case in ElementTree.parse(file).iter("testcase"):
        test = f"{case.get('classname')}.{case.get('name')}"
        problems = [*case.iter("failure"), *case.iter("error")]
        if problems:
            outcome.failed[test] = "\n".join(x.text or "" for x in problems)
        elif case.find("skipped") is not None:
            outcome.skipped.add(test)
        else:
            outcome.passed.add(test)
    return outcome
