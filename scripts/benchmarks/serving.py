"""A site under load: its process, its tables, and wrk."""

import json
import re
import shutil
import signal

from pooltools import ToolError, packages
from pooltools.processes import (
    answers,
    free_port,
    run,
    start_logged,
    stop_group,
    tail,
    wait_until,
)

from .cases import clean_environment
from .environments import ROOT, STOCK

SITE = ROOT / "scripts" / "benchmarks" / "site"


def fill_once(lab, database):
    """Have the tables and rows of the site in a database, by stock Django."""
    place = (database.get("HOST"), database["NAME"])
    if place in lab.filled:
        return
    plain = {
        key: value
        for key, value in database.items()
        if key not in ("POOL", "POOL_OPTIONS", "OPTIONS", "CONN_MAX_AGE")
    }
    plain["ENGINE"] = plain["ENGINE"].replace("dj_db_conn_pool", "django.db")
    run(
        [lab.python(STOCK), "fill.py"],
        "The site's database could not be filled.",
        cwd=SITE,
        env=site_environment(plain),
    )
    lab.filled.add(place)


def site_environment(database):
    return clean_environment(
        BENCH_DATABASE=json.dumps(database), DJANGO_SETTINGS_MODULE="config"
    )


class Site:
    """The site, served by a process of its own."""

    def __init__(self, python, case, directory):
        self.python = python
        self.interface = case.interface
        self.page = case.page
        self.database = case.database
        self.threads = case.threads
        self.port = free_port()
        self.log = directory / "site.log"
        self.process = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/{self.page}/"

    def command(self):
        if self.interface == "wsgi":
            return [
                *("-m", "gunicorn", "--workers=1", f"--threads={self.threads}"),
                *(f"--bind=127.0.0.1:{self.port}", "serve:wsgi"),
            ]
        return [
            *("-m", "uvicorn", "--host=127.0.0.1", f"--port={self.port}"),
            *("--no-access-log", "--log-level=warning", "serve:asgi"),
        ]

    def start(self):
        self.process = start_logged(
            [self.python, *self.command()],
            self.log,
            cwd=SITE,
            env=site_environment(self.database),
        )
        if not wait_until(self.is_ready, 30, self.process):
            raise ToolError("The site doesn't answer. Its log:", tail(self.log))

    def is_ready(self):
        return answers(self.port, "/ready/")

    def stop(self):
        if self.process is not None:
            stop_group(self.process, signal.SIGTERM)


UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


def load(url, seconds, clients):
    """Return what wrk found out. It loads with all clients without a pause."""
    output = run(
        [
            find_wrk(),
            "--threads=1",
            f"--connections={clients}",
            f"--duration={seconds}s",
            "--timeout=30s",
            "--latency",
            url,
        ],
        "wrk failed.",
        timeout=seconds + 60,
    )
    return parse(output)


def find_wrk():
    if shutil.which("wrk") is None:
        packages.install(["wrk"], "wrk makes the load.")
    return shutil.which("wrk")


def parse(output):
    """Read wrk's output. Failed are answers other than 200, and no answers."""
    requests = int(re.search(r"(\d+) requests in", output).group(1))
    failed = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", output)))
    if errors := re.search(r"Socket errors: (.*)", output):
        failed += sum(map(int, re.findall(r"\d+", errors.group(1))))
    figures = {
        "rate": float(re.search(r"Requests/sec:\s*([\d.]+)", output).group(1)),
        "requests": requests,
        "failed": failed,
    }
    for percent in (50, 99):
        number, unit = re.search(rf"{percent}%\s+([\d.]+)(\w+)", output).groups()
        figures[f"p{percent}"] = float(number) * UNITS[unit]
    return figures
