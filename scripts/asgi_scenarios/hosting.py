"""The site, served by an ASGI server in a process group of its own."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from pooltools import ToolError
from pooltools.processes import (
    answers,
    free_port,
    run,
    start_logged,
    stop_group,
    tail,
    wait_until,
)

SCRIPTS = Path(__file__).resolve().parent.parent
APPLICATION = "asgi_scenarios.site.asgi:application"
# Each serves with one process and one event loop.
SERVERS = {
    "uvicorn": ["--port={port}", "--log-level=warning", "--no-access-log"],
    "hypercorn": ["--bind=127.0.0.1:{port}", "--workers=1", "--log-level=critical"],
    "daphne": ["--port={port}", "--verbosity=0"],
    "granian": ["--interface=asgi", "--port={port}", "--log-level=critical"],
}
# What no part of Django may print.
COMPLAINTS = re.compile(
    r"Exception ignored|ResourceWarning|never retrieved|was never awaited|"
    r"Task was destroyed|PoolTimeout|PoolDeadlock|django\.db\.pool"
)


class Site:
    def __init__(self, name, database, driver, pause, size, directory, build):
        self.name = name
        self.pause = pause
        self.size = size
        self.port = free_port()
        self.log = directory / "site.log"
        self.directory = directory
        self.process = None
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(build), str(SCRIPTS)]),
            "DJANGO_SETTINGS_MODULE": "asgi_scenarios.site.settings",
            "MATRIX_DATABASE": json.dumps(database),
            "MATRIX_DRIVER": driver,
            "MATRIX_PAUSE": str(pause),
        }

    def fill(self):
        run(
            [sys.executable, "-m", "asgi_scenarios.site.fill"],
            "The database could not be filled.",
            cwd=self.directory,
            env=self.environment,
            timeout=60,
        )

    def start(self):
        arguments = [arg.format(port=self.port) for arg in SERVERS[self.name]]
        self.process = start_logged(
            [sys.executable, "-m", self.name, *arguments, APPLICATION],
            self.log,
            cwd=self.directory,
            env=self.environment,
        )
        if not wait_until(self.is_ready, 60, self.process):
            raise ToolError("The site doesn't answer. Its log:", tail(self.log))

    def is_ready(self):
        return answers(self.port, "/statistics/")

    def end(self):
        """Ask it to end. Return whether it did."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self):
        if self.process is not None:
            stop_group(self.process, signal.SIGKILL)

    def complaints(self):
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if COMPLAINTS.search(line)]
