"""Backends of third parties, which know nothing of pooling."""

import gc
import tempfile
import threading
from pathlib import Path
from unittest import mock

from django.db import (
    Error,
    IntegrityError,
    OperationalError,
    connections,
    transaction,
)
from django.db.backends.base.pooling import BaseDatabasePooling
from django.test import SimpleTestCase

from .plain_backend.base import CursorWrapper, calls
from .utils import run_in_thread, wait_until

ALIAS = "third_party"


class ThirdPartyTestCase(SimpleTestCase):
    engine = "backends.pool.plain_backend"
    pool = {"max_size": 2, "timeout": 10}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.databases = {*cls.databases, ALIAS}

    def setUp(self):
        directory = self.enterContext(tempfile.TemporaryDirectory())
        settings_dict = {
            "ENGINE": self.engine,
            "NAME": str(Path(directory, "third_party.sqlite3")),
            "POOL": self.pool,
        }
        # Fills in the defaults.
        connections.configure_settings({"default": settings_dict})
        self.enterContext(mock.patch.dict(connections.settings, {ALIAS: settings_dict}))
        self.wrapper = connections[ALIAS]
        self.addCleanup(delattr, connections._connections, ALIAS)
        self.addCleanup(self.close, self.wrapper)
        self.query("CREATE TABLE numbers (number integer UNIQUE)")
        self.wrapper.close()
        self.wrapper.close_pool()
        calls.clear()

    def close(self, wrapper):
        wrapper.close()
        wrapper.close_pool()

    def copy(self):
        wrapper = self.wrapper.copy()
        self.addCleanup(self.close, wrapper)
        return wrapper

    def query(self, sql, params=None, wrapper=None):
        with (wrapper or self.wrapper).cursor() as cursor:
            cursor.execute(sql, params)
            return cursor.fetchone() if cursor.description else None

    def count(self):
        wrapper = self.copy()
        try:
            return self.query("SELECT COUNT(*) FROM numbers", wrapper=wrapper)[0]
        finally:
            wrapper.close()

    def stats(self):
        return self.wrapper.pool.stats()


class PlainBackendTests(ThirdPartyTestCase):
    def test_pooled_by_the_defaults(self):
        self.assertIs(type(self.wrapper.pool.pooling), BaseDatabasePooling)

    def test_opened_once_borrowed_often(self):
        for _ in range(3):
            self.assertEqual(self.query("SELECT 1"), (1,))
            self.wrapper.close()
        self.assertEqual(calls.count("get_new_connection"), 1)
        self.assertEqual(calls.count("init_connection_state"), 1)
        self.assertEqual(calls.count("_close"), 0)
        # Its own connect() was called every time, as documented.
        self.assertEqual(self.wrapper.connects, 4)

    def test_attributes_set_on_opening(self):
        """They reach the wrappers that borrow the connection later."""
        self.wrapper.ensure_connection()
        self.wrapper.close()
        other = self.copy()
        self.assertIsNone(other.dialect)
        other.ensure_connection()
        self.assertEqual(self.stats().reused, 1)
        self.assertEqual(other.dialect, "plain")
        self.assertEqual(other.server_encoding, "UTF-8")

    def test_attributes_follow_the_connection(self):
        """Also to a wrapper that has opened another one meanwhile."""
        self.wrapper.settings_dict["POOL"] = {"max_size": 2, "order": "fifo"}
        other = self.copy()
        new = type(other).get_new_connection

        def get_new_connection(wrapper, conn_params):
            connection = new(wrapper, conn_params)
            wrapper.dialect = "other"
            return connection

        with mock.patch.object(type(other), "get_new_connection", get_new_connection):
            other.ensure_connection()
        other.close()
        self.wrapper.ensure_connection()
        self.assertEqual(self.wrapper.dialect, "other")
        self.wrapper.close()
        other.ensure_connection()
        self.wrapper.ensure_connection()
        self.assertEqual(self.wrapper.dialect, "plain")
        other.close()
        self.wrapper.close()
        for expected in ("other", "plain", "other"):
            self.wrapper.ensure_connection()
            self.assertEqual(self.wrapper.dialect, expected)
            self.wrapper.close()
        self.assertEqual(self.stats().opened, 2)

    def test_attributes_of_the_wrapper_stay_its_own(self):
        """What opening doesn't set isn't the connection's."""
        self.wrapper.schema_name = "tenant"
        self.wrapper.ensure_connection()
        self.wrapper.close()
        other = self.copy()
        other.ensure_connection()
        self.assertEqual(self.stats().reused, 1)
        self.assertEqual(other.schema_name, "public")
        self.assertEqual(other.connects, 1)

    def test_its_own_close(self):
        self.wrapper.ensure_connection()
        self.wrapper.close()
        self.wrapper.close_pool()
        self.assertEqual(calls.count("_close"), 1)

    def test_its_own_is_usable(self):
        self.wrapper.settings_dict["POOL"] = {"check": True}
        for _ in range(2):
            self.query("SELECT 1")
            self.wrapper.close()
        self.assertEqual(calls.count("is_usable"), 1)
        self.assertEqual(self.stats().opened, 1)

    def test_unusable(self):
        self.wrapper.settings_dict["POOL"] = {"check": True}
        self.query("SELECT 1")
        self.wrapper.close()
        with mock.patch.object(type(self.wrapper), "is_usable", return_value=False):
            self.assertEqual(self.query("SELECT 1"), (1,))
        self.assertEqual(self.stats().closed, {"dead": 1})
        self.assertIn("_close", calls)

    def test_its_own_cursor(self):
        cursor = self.wrapper.cursor()
        self.assertIsInstance(cursor.cursor, CursorWrapper)
        own = cursor.cursor
        self.wrapper.close()
        self.assertIn("cursor.close", calls)
        for held in (cursor, own):
            with self.assertRaises((Error, self.wrapper.Database.Error)):
                held.execute("SELECT 1")

    def test_transaction_rolled_back(self):
        for start in [
            lambda: self.query("BEGIN"),
            lambda: self.wrapper.set_autocommit(False),
        ]:
            start()
            self.query("INSERT INTO numbers VALUES (1)")
            self.wrapper.close()
            self.assertEqual(self.count(), 0)
        with transaction.atomic(ALIAS):
            self.query("INSERT INTO numbers VALUES (1)")
            self.wrapper.close()
        self.assertEqual(self.count(), 0)
        with transaction.atomic(ALIAS):
            self.query("INSERT INTO numbers VALUES (1)")
        self.assertEqual(self.count(), 1)

    def test_error(self):
        self.query("INSERT INTO numbers VALUES (1)")
        with self.assertRaises(IntegrityError):
            self.query("INSERT INTO numbers VALUES (1)")
        with self.assertRaises(OperationalError):
            self.query("SELECT no_such_column")
        self.wrapper.close()
        self.assertEqual(self.count(), 1)

    def test_error_on_opening(self):
        with mock.patch.object(
            type(self.wrapper), "init_connection_state", side_effect=ZeroDivisionError
        ):
            with self.assertRaises(ZeroDivisionError):
                self.wrapper.connect()
        self.assertIsNone(self.wrapper.connection)
        self.assertEqual(self.stats().size, 0)
        # What was open already was closed in the backend's way.
        self.assertEqual(calls.count("_close"), 1)
        self.assertEqual(self.query("SELECT 1"), (1,))

    def test_threads(self):
        def use():
            self.query("SELECT 1", wrapper=connections[ALIAS])

        for _ in range(5):
            run_in_thread(use)
        threads = [threading.Thread(target=use) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = self.stats()
        self.assertEqual(stats.acquired, 15)
        self.assertLessEqual(stats.opened, 2 + sum(stats.closed.values()))
        self.assertEqual(stats.timeouts, 0)

    def test_dropped(self):
        wrapper = self.wrapper.copy()
        wrapper.ensure_connection()
        pool = wrapper.pool
        del wrapper
        gc.collect()
        wait_until(lambda: pool.stats().in_use == 0)

    def test_min_size(self):
        self.wrapper.settings_dict["POOL"] = {"min_size": 2, "max_size": 2}
        pool = self.wrapper.pool
        wait_until(lambda: pool.stats().idle == 2)
        self.wrapper.ensure_connection()
        self.assertEqual(self.wrapper.dialect, "plain")
        self.assertEqual(calls.count("get_new_connection"), 2)

    def test_without_a_pool(self):
        self.wrapper.settings_dict["POOL"] = None
        self.query("SELECT 1")
        self.wrapper.close()
        self.assertEqual(calls.count("_close"), 1)


class ConnectingBackendTests(ThirdPartyTestCase):
    """One that doesn't call Django's connect() isn't pooled, but works."""

    engine = "backends.pool.connecting_backend"

    def test_works(self):
        for _ in range(3):
            self.assertEqual(self.query("SELECT 1"), (1,))
            self.wrapper.close()
            self.assertIsNone(self.wrapper.connection)
        with transaction.atomic(ALIAS):
            self.query("INSERT INTO numbers VALUES (1)")
        self.assertEqual(self.count(), 1)

    def test_nothing_is_borrowed(self):
        self.query("SELECT 1")
        self.assertEqual(self.stats().acquired, 0)
        self.wrapper.close()
        self.assertEqual(self.stats().size, 0)

    def test_closed_for_good(self):
        self.wrapper.ensure_connection()
        driver_connection = self.wrapper.connection
        self.wrapper.close()
        with self.assertRaises(self.wrapper.Database.ProgrammingError):
            driver_connection.execute("SELECT 1")

    def test_after_the_pool_was_looked_at(self):
        self.wrapper.pool
        self.query("SELECT 1")
        self.query("SELECT 1")
        self.wrapper.close()
        self.wrapper.close_pool()
        self.assertEqual(self.query("SELECT 1"), (1,))
