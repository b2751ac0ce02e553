"""What the tests of pooled database wrappers share."""

import copy
import os
import select
import tempfile
import threading
from pathlib import Path
from unittest import mock

from django.db import connection, connections
from django.test import SimpleTestCase

ALIAS = "pooled"

# How long a test waits for what happens in a moment.
SOON = 10


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
        return self.copy(POOL=None)

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
