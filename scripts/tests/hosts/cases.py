"""
What the tests of hosts share: a database server that's watched, and a site
that's started under whatever runs it.
"""

import functools
import http.client
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import unittest
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pooltools.processes import free_port, stop_group, wait_until
from pooltools.server_mariadb import MariaDB
from pooltools.server_postgresql import PostgreSQL

TESTS = Path(__file__).resolve().parent.parent
BUILD = TESTS.parent.parent / "build"

MAX_SIZE = 3

# What a server logs about a client that went without a word.
IMPOLITE = re.compile(
    r"unexpected EOF|Connection reset|could not receive|Aborted connection"
)

# What no part of the pool may print.
COMPLAINTS = re.compile(
    r"Traceback|Exception ignored|Error|ResourceWarning|django.db.pool|"
    r"closed the connection"
)


def needs(*modules):
    """Skip a test without these modules."""
    missing = [name for name in modules if not importlib.util.find_spec(name)]
    return unittest.skipIf(missing, f"{', '.join(missing)} isn't installed")


@functools.cache
def shared_server(name):
    """Return a server that runs until the tests end, None if there's none."""
    if name == "postgresql":
        # Below that, the end of a client that is in no transaction is silent.
        server = PostgreSQL(options=["log_min_messages=debug1"])
    else:
        server = MariaDB(options=["log-warnings=4"])
    return None if server.find_programs() else server.start()


@needs("asgiref", "sqlparse", "psycopg")
@unittest.skipUnless((BUILD / "django" / "db" / "pool").is_dir(), "no tree in build/")
class HostTestCase(unittest.TestCase):
    database = "postgresql"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = shared_server(cls.database)
        if cls.server is None:
            raise unittest.SkipTest(f"{cls.database} isn't installed")

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.parent_file = self.directory / "parent"
        self.log_start = self.server.log.stat().st_size
        self.process = None

    # ##### Starting #####

    def start(self, *arguments, warm=False, pool=None, urls="hosts.site", **changes):
        """
        Start a Python that has the site on its path. Return its process.

        warm: whether the site opens a connection when it's imported.
        pool: options of the pool.
        urls: the root URLconf. More arguments change DATABASES.
        """
        settings = {
            **self.server.settings,
            "POOL": {"max_size": MAX_SIZE, "timeout": 10, **(pool or {})},
            **changes,
        }
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(BUILD), str(TESTS)]),
            "DJANGO_SETTINGS_MODULE": "hosts.settings",
            "HOSTS_DATABASE": json.dumps(settings),
            "HOSTS_URLS": urls,
            "HOSTS_PARENT": str(self.parent_file) if warm else "",
        }
        with open(self.directory / "errors", "a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.directory,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                universal_newlines=True,
                start_new_session=True,
            )
        self.addCleanup(self.process.stdin.close)
        self.addCleanup(self.process.stdout.close)
        self.addCleanup(stop_group, self.process, signal.SIGKILL)
        return self.process

    @property
    def errors(self):
        return (self.directory / "errors").read_text()

    # ##### Requests #####

    def serve(self, *arguments, **kwargs):
        """Start a server of the site. Return its answers to requests."""
        port = free_port()
        self.address = f"http://127.0.0.1:{port}/"
        self.start(*(arg.format(port=port) for arg in arguments), **kwargs)
        self.assertTrue(self.wait_for_answer(), self.errors)
        with ThreadPoolExecutor(8) as clients:
            return list(clients.map(self.ask, range(80)))

    def ask(self, _=None, path=""):
        """Return the ids of the process and the session that answer."""
        with urllib.request.urlopen(self.address + path, timeout=20) as response:
            return tuple(json.load(response))

    def wait_for_answer(self, path="", wanted=lambda answer: True):
        """Return whether an answer came that is as wanted."""

        def answers():
            try:
                return wanted(self.ask(path=path))
            except (OSError, http.client.HTTPException):
                return False

        return wait_until(answers, 30, self.process)

    # ##### What must hold #####

    def check_workers(self, answers, workers):
        """Each session belongs to one process, and no process has too many."""
        sessions = {}
        for pid, session in answers:
            sessions.setdefault(pid, set()).add(session)
        for pid, own in sessions.items():
            self.assertLessEqual(len(own), MAX_SIZE)
            self.assertNotEqual(pid, self.process.pid if workers else None)
        everything = [session for own in sessions.values() for session in own]
        self.assertEqual(len(everything), len(set(everything)))
        if self.parent_file.exists():
            parent = int(self.parent_file.read_text())
            self.assertNotIn(parent, everything)
            self.assertIn(parent, self.server.sessions())

    def check_end(self, number=signal.SIGTERM, statuses=(0,), complaints=COMPLAINTS):
        """It ends soon; nothing is left, and nobody complains."""
        if number is not None:
            self.process.send_signal(number)
        try:
            status = self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.fail(f"It doesn't end. {self.errors}")
        self.assertIn(status, statuses, self.errors)
        self.check_sessions_are_gone()
        self.assertNotRegex(self.errors, complaints)

    def check_sessions_are_gone(self):
        """No session is left, and all of them were closed properly."""
        gone = wait_until(lambda: not self.server.sessions(), 5)
        self.assertTrue(gone, f"Sessions are left: {self.server.sessions()}")
        self.assertEqual(self.impolite_ends(), [])

    def impolite_ends(self):
        with open(self.server.log, errors="replace") as log:
            log.seek(self.log_start)
            return [line for line in log if IMPOLITE.search(line)]
