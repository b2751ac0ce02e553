"""The command line of scripts/demo."""

import argparse
import http.client
import json
import os
import re
import secrets
import signal
import sys
import tempfile
import time
from pathlib import Path

from . import ToolError, demo_install, servers
from .command import add_python_option, run_tool
from .demo_report import print_comparison, print_pool
from .processes import (
    free_port,
    run,
    start_logged,
    stop_group,
    tail,
    wait_until,
)

ROOT = Path(__file__).resolve().parent.parent.parent
SITE = ROOT / "scripts" / "demo_site"
CLIENTS = 16
THREADS = 16
WARM_UP = 1


def main(arguments=None):
    return run_tool("scripts/demo", demonstrate, parse(arguments))


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="Install the patched Django, run a site with it under load, "
        "with the pool off and on, and show what difference it makes.",
    )
    parser.add_argument(
        "--database", choices=["sqlite", "postgresql", "mariadb"], default="sqlite"
    )
    parser.add_argument(
        "--seconds", type=float, default=10, help="how long each load lasts"
    )
    parser.add_argument(
        "--serve", action="store_true", help="keep the site up in the end"
    )
    parser.add_argument("--port", type=int, help="where to serve it")
    add_python_option(parser)
    return parser.parse_args(arguments)


def demonstrate(stack, options):
    start = time.monotonic()
    environment = demo_install.install(ROOT, options.database, options.python)
    directory = stack.enter_context(
        tempfile.TemporaryDirectory(prefix="django-pool-demo-")
    )
    names = {options.database} - {"sqlite"}
    if names:
        print(f"Starting {options.database} ...", flush=True)
    variables = {
        **servers.environment(servers.start(names, stack)),
        "DEMO_DATABASE": options.database,
        "DEMO_DIRECTORY": directory,
        "DEMO_SECRET_KEY": secrets.token_hex(),
    }
    site = Site(environment.python, Path(directory), variables, options.port)
    stack.callback(site.stop)
    site.manage("migrate", "--verbosity=0")
    off = measure(site, "off", options.seconds)
    on = measure(site, "on", options.seconds, keep=options.serve)
    print_comparison(off, on)
    print_pool(on["pool"])
    problems = [*off["problems"], *on["problems"]]
    print()
    for problem in problems:
        print(f"PROBLEM: {problem}", flush=True)
    print(f"Took {time.monotonic() - start:.0f} s.", flush=True)
    if options.serve:
        serve(site)
    return 1 if problems else 0


def measure(site, pool, seconds, keep=False):
    """Return what a load on the site showed."""
    site.manage("seed")
    print(f"Load from {CLIENTS} clients for {seconds:g} s, pool {pool} ...", flush=True)
    site.start(pool)
    load(site.port, WARM_UP)
    result = load(site.port, seconds)
    after = site.pool()
    result["opened"] = after["opened"]
    result["reused"] = after["pool"]["reused"] if after["pool"] else 0
    result["pool"] = after["pool"]
    result["problems"] = list(result["failures"])
    if not result["requests"]:
        result["problems"].append("no request was served")
    if (after["pool"] is not None) != (pool == "on"):
        result["problems"].append(f"the pool was to be {pool} and wasn't")
    if not keep:
        result["problems"] += site.stop()
    return result


def load(port, seconds):
    command = [sys.executable, "-m", "pooltools.demo_load"]
    output = run(
        [*command, str(port), str(seconds), str(CLIENTS)],
        "The load failed.",
        cwd=ROOT / "scripts",
        timeout=seconds + 60,
    )
    return json.loads(output)


class Site:
    """The site, served by threads of a process of its own."""

    def __init__(self, python, directory, variables, port=None):
        self.python = python
        self.port = port or free_port()
        self.log = directory / "site.log"
        self.variables = variables
        self.process = None

    def environment(self, pool="off"):
        unwanted = ("DJANGO_", "PYTHON", "POOL_", "PG")
        env = {k: v for k, v in os.environ.items() if not k.startswith(unwanted)}
        return {**env, **self.variables, "DEMO_POOL": pool}

    def manage(self, *args, **variables):
        run(
            [self.python, "manage.py", *args],
            f"manage.py {args[0]} failed.",
            cwd=SITE,
            env={**self.environment(), **variables},
        )

    def start(self, pool):
        command = [
            self.python,
            "-m",
            "waitress",
            f"--threads={THREADS}",
            f"--listen=127.0.0.1:{self.port}",
            "config.wsgi:application",
        ]
        self.process = start_logged(
            command, self.log, cwd=SITE, env=self.environment(pool)
        )
        if not wait_until(self.is_ready, 30, self.process):
            raise ToolError("The site doesn't answer. Its log:", tail(self.log))

    def is_ready(self):
        try:
            self.pool()
        except (OSError, http.client.HTTPException, ValueError):
            return False
        return True

    def pool(self):
        """Return what the site says of its pool."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/pool/")
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def stop(self):
        """Stop it; return what its log complains about."""
        if self.process is None:
            return []
        # As Ctrl-C does: it leaves in order, and closes its connections.
        stop_group(self.process, signal.SIGINT)
        self.process = None
        lines = self.log.read_text(errors="replace").splitlines()
        wrong = re.compile(r"ERROR|CRITICAL|Traceback|Exception|[Ww]arning")
        found = [line for line in lines if wrong.search(line)]
        if found:
            print("\n".join(["The end of the site's log:", *lines[-40:]]))
        return [f"in the site's log: {line}" for line in found[:10]]


def serve(site):
    password = secrets.token_urlsafe(8)
    site.manage(
        "createsuperuser",
        "--noinput",
        "--username=admin",
        "--email=admin@example.com",
        DJANGO_SUPERUSER_PASSWORD=password,
    )
    print(f"\nThe site is at http://127.0.0.1:{site.port}/ with the pool on.")
    print(f"Its admin takes the user admin with the password {password}")
    print("Ctrl-C stops it.", flush=True)
    site.process.wait()
    raise ToolError("The site ended. Its log:", tail(site.log))
