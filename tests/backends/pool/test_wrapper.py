"""Database wrappers with a pool, and the rest of Django."""

import unittest
from unittest import mock

from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.core.signals import request_finished, request_started
from django.db import (
    DatabaseError,
    ProgrammingError,
    close_old_connections,
    connection,
    connections,
    transaction,
)

from .utils import ALIAS, PooledTestCase, run_in_thread

is_sqlite = connection.vendor == "sqlite"


class DjangoTests(PooledTestCase):
    """Requests, transactions and threads work as documented."""

    def test_connections_close_all(self):
        self.wrapper.ensure_connection()
        connections.close_all()
        self.assertIsNone(self.wrapper.connection)
        self.assertEqual(self.stats().idle, 1)

    def test_close_old_connections(self):
        self.wrapper.ensure_connection()
        close_old_connections()
        self.assertIsNone(self.wrapper.connection)
        self.assertEqual(self.stats().idle, 1)

    def test_request_signals(self):
        for signal in (request_started, request_finished):
            with self.subTest(signal=signal):
                self.query("SELECT 1")
                # The default database is under the care of the test runner.
                with mock.patch.object(connections, "all", return_value=[self.wrapper]):
                    close_old_connections(signal=signal)
                self.assertIsNone(self.wrapper.connection)
        self.assertEqual(self.stats().opened, 1)

    def test_atomic(self):
        self.create_table()
        with transaction.atomic(ALIAS):
            self.insert()
            with self.assertRaises(ZeroDivisionError), transaction.atomic(ALIAS):
                self.insert()
                raise ZeroDivisionError
        self.assertEqual(self.count(), 1)
        with self.assertRaises(ZeroDivisionError), transaction.atomic(ALIAS):
            self.insert()
            raise ZeroDivisionError
        self.assertEqual(self.count(), 1)
        self.assertIs(self.wrapper.get_autocommit(), True)

    def test_durable_atomic(self):
        self.create_table()
        with transaction.atomic(ALIAS, durable=True):
            self.insert()
        self.assertEqual(self.count(), 1)

    def test_on_commit(self):
        called = []
        with transaction.atomic(ALIAS):
            self.query("SELECT 1")
            transaction.on_commit(lambda: called.append(1), using=ALIAS)
            self.assertEqual(called, [])
        self.assertEqual(called, [1])

    def test_on_commit_does_not_reach_the_next_borrower(self):
        called = []
        self.use_pool(max_size=1, timeout=1)
        with transaction.atomic(ALIAS):
            self.query("SELECT 1")
            transaction.on_commit(lambda: called.append(1), using=ALIAS)
            self.wrapper.close()
        with transaction.atomic(ALIAS):
            self.query("SELECT 1")
        self.assertEqual(called, [])

    def test_on_commit_may_use_the_connection(self):
        self.create_table()
        with transaction.atomic(ALIAS):
            transaction.on_commit(self.insert, using=ALIAS)
        self.assertEqual(self.count(), 1)

    def test_set_autocommit(self):
        self.create_table()
        self.wrapper.set_autocommit(False)
        self.insert()
        self.wrapper.rollback()
        self.insert()
        self.wrapper.commit()
        self.wrapper.set_autocommit(True)
        self.assertEqual(self.count(), 1)

    def test_connecting_in_atomic_block(self):
        self.wrapper.in_atomic_block = True
        try:
            msg = "Cannot open a new connection in an atomic block."
            with self.assertRaisesMessage(ProgrammingError, msg):
                self.wrapper.closed_in_transaction = True
                self.wrapper.ensure_connection()
        finally:
            self.wrapper.in_atomic_block = False
            self.wrapper.closed_in_transaction = False

    def test_temporary_connection(self):
        with self.wrapper.temporary_connection() as cursor:
            cursor.execute("SELECT 1")
        self.assertIsNone(self.wrapper.connection)
        self.assertEqual(self.stats().idle, 1)

    def test_other_threads_may_not_use_a_wrapper(self):
        self.wrapper.ensure_connection()
        with self.assertRaisesMessage(DatabaseError, "DatabaseWrapper objects created"):
            run_in_thread(self.wrapper.cursor)
        with self.assertRaisesMessage(DatabaseError, "DatabaseWrapper objects created"):
            run_in_thread(self.wrapper.close)
        self.assertEqual(self.query("SELECT 1"), (1,))

    def test_thread_sharing(self):
        self.query("SELECT 1")
        slot = self.slot()
        self.wrapper.inc_thread_sharing()
        try:

            def use():
                connections[ALIAS] = self.wrapper
                self.assertEqual(self.query("SELECT 1"), (1,))
                connections.close_all()

            run_in_thread(use)
        finally:
            self.wrapper.dec_thread_sharing()
        self.assertIsNone(self.wrapper.connection)
        self.wrapper.ensure_connection()
        self.assertIs(self.slot(), slot)

    def test_schema_editor(self):
        with self.wrapper.schema_editor() as editor:
            editor.execute("SELECT 1")
        self.wrapper.close()
        self.assertEqual(self.stats().in_use, 0)
        self.assertEqual(self.query("SELECT 1"), (1,))

    def test_health_checks(self):
        """They are the pool's affair."""
        self.settings_dict["CONN_HEALTH_CHECKS"] = True
        self.wrapper.ensure_connection()
        self.wrapper.close()
        with mock.patch.object(
            type(self.wrapper), "is_usable", return_value=True
        ) as is_usable:
            self.query("SELECT 1")
            self.query("SELECT 1")
        # It was used a moment ago.
        is_usable.assert_not_called()

    def test_checks(self):
        self.use_pool(max_sise=3)
        with self.assertRaisesMessage(SystemCheckError, "max_sise") as caught:
            call_command("check", tags=["database"], databases=[ALIAS])
        message = str(caught.exception)
        self.assertIn(f"DATABASES['{ALIAS}']: POOL['max_sise'] (3)", message)
        self.assertIn("Did you mean 'max_size'?", message)
        with self.assertRaises(ImproperlyConfigured):
            self.wrapper.pool
        self.use_pool(max_size=3)
        with mock.patch("sys.stderr"), mock.patch("sys.stdout"):
            call_command("check", tags=["database"], databases=[ALIAS])

    @unittest.skipUnless(is_sqlite, "SQLite tests")
    def test_check_of_an_in_memory_database(self):
        wrapper = self.copy(NAME=":memory:")
        (issue,) = wrapper.validation.check_pool()
        self.assertEqual(issue.id, "database.W001")
        self.assertIn(ALIAS, issue.msg)
