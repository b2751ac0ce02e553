"""What the tests of pooled database wrappers share."""

import contextlib
import copy
import os
import pickle
import select
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path
from unittest import mock

from django.db import connection, connections
from django.db.pool import maintenance
from django.test import SimpleTestCase

ALIAS = "pooled"

# How long a test waits for what happens in a moment.
SOON = 10


# Guarded because a process started by multiprocessing may import it.
SCRIPT = """\
import pickle
import sys

sys.path[:] = {paths!r}
if {driver!r} == "psycopg2":
    sys.modules["psycopg"] = None
elif {driver!r} == "pymysql":
    import pymysql

    pymysql.version_info = max(pymysql.version_info, (2, 2, 1, "final", 0))
    pymysql.install_as_MySQLdb()

import django
from django.conf import settings

settings.configure(DATABASES=pickle.loads({databases!r}), USE_TZ=False)
django.setup()

from django.db import connection, connections, transaction


def query(sql, params=None, wrapper=connection):
    with wrapper.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchone()


def session_id(wrapper=connection):
    if connection.vendor == "sqlite":
        return query("SELECT 0", wrapper=wrapper)[0]
    return query(
        "SELECT CONNECTION_ID()"
        if connection.vendor == "mysql"
        else "SELECT pg_backend_pid()",
        wrapper=wrapper,
    )[0]


if __name__ == "__main__":
{body}
"""


def run_in_thread(function, *args):
    """Return what a function returns, or raise what it raises, in a thread."""
    outcome = {}

    def run():
        try:
            outcome["result"] = function(*args)
        except BaseException as e:
            outcome["error"] = e

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(SOON)
    if thread.is_alive():
        raise AssertionError("A thread didn't end.")
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]


def unpooled_settings():
    """Return a copy of the settings of the test database, without a pool."""
    settings_dict = copy.deepcopy(connection.settings_dict)
    settings_dict["POOL"] = None
    settings_dict["OPTIONS"].pop("pool", None)
    settings_dict["CONN_MAX_AGE"] = 0
    settings_dict["CONN_HEALTH_CHECKS"] = False
    return settings_dict


def wait_until(condition):
    """Wait for what another thread or process is about to do."""
    deadline = time.monotonic() + SOON
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("It didn't happen.")
        time.sleep(0)


@contextlib.contextmanager
def busy_maintenance():
    """
    Keep the maintenance thread in a step during the block. The value is a
    list that isn't empty any more after the step.
    """
    begun, go_on, ended = threading.Event(), threading.Event(), []

    def step():
        begun.set()
        go_on.wait(SOON)
        ended.append(True)

    maintenance.put_and_wake(step)
    try:
        if not begun.wait(SOON):
            raise AssertionError("The maintenance thread doesn't come to it.")
        yield ended
    finally:
        go_on.set()


class FakeClock:
    """A clock that stands still between calls of advance()."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


class PooledTestCase(SimpleTestCase):
    """
    Adds an alias with a pool on the test database, on a file if that's in
    memory, whether the default database has a pool or not.
    """

    databases = {"default"}

    # What POOL is unless a test calls use_pool().
    pool_options = {"max_size": 4, "timeout": SOON}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.databases = {*cls.databases, ALIAS}

    def setUp(self):
        self.settings_dict = unpooled_settings()
        self.settings_dict["POOL"] = self.pool_options
        if connection.vendor == "sqlite":
            directory = tempfile.TemporaryDirectory()
            self.addCleanup(directory.cleanup)
            self.directory = Path(directory.name)
            self.settings_dict["NAME"] = str(self.directory / "pooled.sqlite3")
        # Runs last, after the connections that could block it were closed.
        self.table = None
        self.addCleanup(self.drop_table)
        self.enterContext(
            mock.patch.dict(connections.settings, {ALIAS: self.settings_dict})
        )
        self.wrapper = connections[ALIAS]
        self.addCleanup(delattr, connections._connections, ALIAS)
        self.addCleanup(self.close, self.wrapper)

    def use_pool(self, **options):
        """Set POOL. Only before the pool is used."""
        self.settings_dict["POOL"] = options

    def close(self, wrapper):
        # A transaction that a failed test left open.
        if wrapper.in_atomic_block:
            wrapper.in_atomic_block = wrapper.closed_in_transaction = False
            wrapper.connection = wrapper.connection and None
        wrapper.close()
        wrapper.close_pool()

    def copy(self, **settings):
        """
        Return another wrapper of the alias, with other settings if given.
        """
        wrapper = self.wrapper.copy()
        wrapper.settings_dict.update(settings)
        self.addCleanup(self.close, wrapper)
        return wrapper

    def unpooled(self):
        """Return a wrapper of the same database without a pool."""
        return self.copy(POOL=None, AUTOCOMMIT=True)

    def slot(self, wrapper=None):
        """
        Return the pool's slot of a wrapper's connection, which stands for it:
        a reference to the driver's connection would keep it out of the pool.
        """
        return (wrapper or self.wrapper)._borrower.lease.slot

    def query(self, sql, params=None, wrapper=None):
        """Return the first row, None if the statement returns no rows."""
        with (wrapper or self.wrapper).cursor() as cursor:
            cursor.execute(sql, params)
            return cursor.fetchone() if cursor.description else None

    def create_table(self, rows=0):
        """Create a table of numbers that is dropped in the end."""
        self.table = f"pool_test_{os.getpid()}"
        wrapper = self.unpooled()
        self.query(f"DROP TABLE IF EXISTS {self.table}", wrapper=wrapper)
        self.query(f"CREATE TABLE {self.table} (number integer)", wrapper=wrapper)
        with wrapper.cursor() as cursor:
            cursor.executemany(
                f"INSERT INTO {self.table} VALUES (%s)",
                [(number,) for number in range(rows)],
            )
        wrapper.close()

    def drop_table(self):
        if self.table is not None:
            wrapper = self.wrapper.copy()
            wrapper.settings_dict["POOL"] = None
            # A transaction that a failed test left open mustn't hang this.
            if connection.vendor == "postgresql":
                self.query(f"SET lock_timeout = '{SOON}s'", wrapper=wrapper)
            elif connection.vendor == "mysql":
                self.query(f"SET lock_wait_timeout = {SOON}", wrapper=wrapper)
            self.query(f"DROP TABLE {self.table}", wrapper=wrapper)
            wrapper.close()

    def count(self):
        """Return the number of rows of the table that others see."""
        wrapper = self.unpooled()
        try:
            return self.query(f"SELECT COUNT(*) FROM {self.table}", None, wrapper)[0]
        finally:
            wrapper.close()

    def insert(self, wrapper=None):
        self.query(f"INSERT INTO {self.table} VALUES (1)", wrapper=wrapper)

    def stats(self):
        return self.wrapper.pool.stats()

    # ##### Other processes #####

    def start_script(self, body, *options):
        """
        Start a process that runs some code, on Django with the pooled
        database as its default.
        """
        script = SCRIPT.format(
            paths=sys.path,
            driver=self.wrapper.Database.__name__,
            databases=pickle.dumps({"default": self.settings_dict}),
            body=textwrap.indent(textwrap.dedent(body).strip(), "    "),
        )
        directory = self.enterContext(tempfile.TemporaryDirectory())
        path = Path(directory, "script.py")
        path.write_text(script)
        process = subprocess.Popen(
            [sys.executable, *options, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # However the test ends.
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def run_script(self, body, *options, returncode=0, stderr=""):
        """Run some code as start_script() does. Return its output's lines."""
        process = self.start_script(body, *options)
        out, err = process.communicate(timeout=6 * SOON)
        if stderr is not None:
            self.assertEqual(err, stderr)
        self.assertEqual(process.returncode, returncode, err)
        self.stderr = err
        return out.splitlines()

    # ##### Servers #####

    def session_id(self, wrapper=None):
        """Return the server's name for a wrapper's session."""
        sql = {
            "postgresql": "SELECT pg_backend_pid()",
            "mysql": "SELECT CONNECTION_ID()",
        }[connection.vendor]
        return self.query(sql, wrapper=wrapper)[0]

    def live_sessions(self, session_ids):
        """Return those of some sessions that the server still has."""
        sql = {
            "postgresql": "SELECT pid FROM pg_stat_activity WHERE pid = ANY(%s)",
            "mysql": "SELECT id FROM information_schema.processlist WHERE id IN %s",
        }[connection.vendor]
        if connection.vendor == "postgresql":
            params = [list(session_ids)]
        else:
            params = [tuple(session_ids)]
        wrapper = self.unpooled()
        try:
            with wrapper.cursor() as cursor:
                cursor.execute(sql, params)
                return {row[0] for row in cursor.fetchall()}
        finally:
            wrapper.close()

    def kill(self, session_id, driver_connection):
        """
        End a session on the server, and wait until the client could know.
        """
        wrapper = self.unpooled()
        try:
            if connection.vendor == "postgresql":
                sql = "SELECT pg_terminate_backend(%s, %s)"
                self.query(sql, [session_id, SOON * 1000], wrapper)
            else:
                self.query("KILL %s", [session_id], wrapper)
        finally:
            wrapper.close()
        # PyMySQL has no fileno().
        socket = getattr(driver_connection, "_sock", driver_connection)
        self.assertTrue(select.select([socket], [], [], SOON)[0])
