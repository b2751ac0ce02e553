"""Tests of the private servers. Those that aren't installed are skipped."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import unittest
import unittest.mock
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pooltools import ToolError, processes  # NOQA: E402
from pooltools.server_mariadb import MariaDB  # NOQA: E402
from pooltools.server_pgbouncer import PgBouncer  # NOQA: E402
from pooltools.server_postgresql import PostgreSQL  # NOQA: E402

SCRIPTS = Path(__file__).resolve().parent.parent


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class ServerTestsMixin:
    """What holds for every server that understands SQL."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = cls.server_class()
        if cls.server.find_programs():
            raise unittest.SkipTest(f"{cls.server.name} isn't installed")
        cls.addClassCleanup(cls.server.close)
        cls.server.start()

    def open_session(self):
        """Start a client that has a session until it's told to end."""
        known = set(self.server.sessions())
        client = self.client()
        self.addCleanup(processes.stop_process, client)
        opened = processes.wait_until(
            lambda: set(self.server.sessions()) - known, timeout=30, process=client
        )
        self.assertTrue(opened)
        return client

    def test_sql(self):
        self.assertEqual(self.server.sql("SELECT 1 + 1"), ["2"])
        with self.assertRaisesRegex(ToolError, "nonsense"):
            self.server.sql("nonsense")

    def test_kill_sessions_kills_every_session(self):
        clients = [self.open_session(), self.open_session()]
        self.assertEqual(self.server.kill_sessions(), 2)
        for client in clients:
            self.assertNotEqual(client.wait(30), 0)
        self.assertEqual(self.server.sessions(), [])
        self.assertEqual(self.server.kill_sessions(), 0)

    def test_restart_keeps_data_and_address(self):
        settings = self.server.settings
        name = f"kept_{self.id()[-8:]}"
        for immediate in (False, True):
            with self.subTest(immediate=immediate):
                self.server.sql(f"CREATE DATABASE {name}_{immediate}")
                pid = self.server.process.pid
                self.server.restart(immediate=immediate)
                self.assertNotEqual(self.server.process.pid, pid)
                self.assertEqual(self.server.settings, settings)
                # Fails unless it's there.
                self.server.sql(f"DROP DATABASE {name}_{immediate}")

    def test_others_can_not_enter_its_directory(self):
        self.assertEqual(self.server.directory.stat().st_mode & 0o077, 0)

    def test_close_leaves_nothing(self):
        with self.server_class() as server:
            pid, directory = server.process.pid, server.directory
            self.assertTrue(is_alive(pid))
        self.assertFalse(is_alive(pid))
        self.assertFalse(directory.exists())

    def test_failed_start_shows_the_log_and_leaves_nothing(self):
        server = self.server_class(options=["nonsense=1"])
        with self.assertRaisesRegex(ToolError, "nonsense"):
            server.start()
        self.assertIsNone(server.directory)

    def test_child_does_not_stop_the_server(self):
        pid = os.fork()
        if pid == 0:
            self.server.close()
            os._exit(0)
        os.waitpid(pid, 0)
        self.assertTrue(self.server.running)
        self.assertEqual(self.server.sql("SELECT 1"), ["1"])


class PostgreSQLTests(ServerTestsMixin, unittest.TestCase):
    server_class = PostgreSQL

    def client(self):
        command = [self.server.bin / "psql", "-h", self.server.directory]
        command += ["-p", self.server.port, "-U", "django", "-d", "django"]
        return subprocess.Popen(
            [*map(str, command), "-c", "SELECT pg_sleep(60)"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def test_tcp_asks_for_the_password(self):
        settings = self.server.tcp_settings
        url = "host={HOST} port={PORT} user={USER} dbname={NAME}".format(**settings)
        command = [str(self.server.bin / "psql"), "--no-password", "-c", "SELECT 1"]
        for password, works in ((settings["PASSWORD"], True), ("wrong", False)):
            with self.subTest(works=works):
                result = subprocess.run(
                    [*command, url],
                    env={**os.environ, "PGPASSWORD": password},
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                self.assertEqual(result.returncode == 0, works)

    def test_pgbouncer(self):
        for mode in ("session", "transaction"):
            with self.subTest(mode=mode):
                bouncer = PgBouncer(self.server, mode=mode)
                if bouncer.find_programs():
                    self.skipTest("pgbouncer isn't installed")
                with bouncer:
                    command = [str(self.server.bin / "psql"), "-At", "-c", "SELECT 7"]
                    url = "host={HOST} port={PORT} user={USER} dbname={NAME}"
                    output = subprocess.check_output(
                        [*command, url.format(**bouncer.settings)],
                        env={**os.environ, "PGPASSWORD": self.server.password},
                    )
                    self.assertEqual(output, b"7\n")
                    databases = bouncer.sql("SHOW DATABASES")
                    self.assertTrue(any(x.startswith("django|") for x in databases))


class MariaDBTests(ServerTestsMixin, unittest.TestCase):
    server_class = MariaDB

    def client(self):
        return subprocess.Popen(
            self.server.client("--execute=SELECT SLEEP(60)"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def test_temporary_tables_are_its_own(self):
        (directory,) = self.server.sql("SELECT @@tmpdir")
        self.assertEqual(directory, str(self.server.directory))

    def test_charset(self):
        self.assertEqual(
            self.server.sql(
                "SELECT @@character_set_server, @@character_set_connection"
            ),
            ["utf8mb4\tutf8mb4"],
        )


class RunTests(unittest.TestCase):
    """The command line."""

    def setUp(self):
        if PostgreSQL().find_programs():
            self.skipTest("postgresql isn't installed")

    def start(self, *command):
        process = subprocess.Popen(
            [sys.executable, str(SCRIPTS / "servers"), "postgresql", "--", *command],
            stdout=subprocess.PIPE,
            universal_newlines=True,
        )
        self.addCleanup(process.stdout.close)
        self.addCleanup(processes.stop_process, process)
        return process

    def test_command_gets_the_address_and_gives_the_status(self):
        code = "import os; print(os.environ['POOL_PG_PORT']); raise SystemExit(7)"
        process = self.start(sys.executable, "-c", code)
        output = process.communicate(timeout=60)[0]
        self.assertTrue(output.strip().isdigit())
        self.assertEqual(process.returncode, 7)

    def run_until_signal(self, number):
        code = (
            "import os, time; "
            "print(os.environ['POOL_PG_PID'], os.environ['POOL_PG_HOST'], flush=True); "
            "time.sleep(60)"
        )
        process = self.start(sys.executable, "-c", code)
        pid, directory = process.stdout.readline().split()
        self.assertTrue(is_alive(int(pid)))
        process.send_signal(number)
        process.wait(60)
        return int(pid), Path(directory)

    def test_signal_stops_the_server(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            with self.subTest(number=number):
                pid, directory = self.run_until_signal(number)
                self.assertFalse(is_alive(pid))
                self.assertFalse(directory.exists())

    @unittest.skipUnless(shutil.which("setpriv"), "needs setpriv")
    def test_server_does_not_outlive_a_killed_parent(self):
        pid, directory = self.run_until_signal(signal.SIGKILL)
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        ended = processes.wait_until(lambda: not is_alive(pid), timeout=30)
        self.assertTrue(ended)


class InstallTests(unittest.TestCase):
    def test_message_names_the_packages(self):
        server = PostgreSQL()
        server.find_programs = lambda: ["postgres"]
        with contextlib.ExitStack() as stack:
            patch = unittest.mock.patch
            stack.enter_context(patch("os.getuid", return_value=1000))
            with self.assertRaisesRegex(ToolError, "apt-get install postgresql"):
                server.start()
