"""How database wrappers borrow from a pool, and what that costs."""

import threading
import unittest
from unittest import mock

from django.db import (
    OperationalError,
    connection,
    connections,
    transaction,
)
from django.db.backends.signals import connection_created
from django.db.pool import PoolTimeout

from .utils import ALIAS, PooledTestCase, run_in_thread, wait_until

is_sqlite = connection.vendor == "sqlite"


class BorrowTests(PooledTestCase):
    def test_borrowed_on_connect_given_back_on_close(self):
        self.assertEqual(self.stats().size, 0)
        self.wrapper.ensure_connection()
        slot = self.slot()
        self.assertEqual(self.stats().in_use, 1)
        self.wrapper.close()
        self.assertIsNone(self.wrapper.connection)
        stats = self.stats()
        self.assertEqual((stats.in_use, stats.idle, stats.opened), (0, 1, 1))
        self.assertEqual(self.query("SELECT 1"), (1,))
        self.assertIs(self.slot(), slot)
        self.assertEqual(self.stats().opened, 1)

    def test_two_wrappers_have_two_connections(self):
        other = self.copy()
        self.wrapper.ensure_connection()
        other.ensure_connection()
        self.assertIsNot(self.wrapper.connection, other.connection)
        self.assertEqual(self.stats().in_use, 2)

    def test_timeout(self):
        self.use_pool(max_size=1, timeout=0.01)
        self.wrapper.ensure_connection()
        pool = self.wrapper.pool

        def borrow():
            # Nobody waits in the thread that holds the connection: the wait
            # could end.
            other = connections[ALIAS]
            msg = f"The pool '{ALIAS}' had no connection within 0.01 s."
            with self.assertRaisesMessage(PoolTimeout, msg):
                other.connect()
            # As code written before there was a pool expects it.
            with self.assertRaises(OperationalError):
                other.cursor()

        run_in_thread(borrow)
        self.wrapper.close()
        self.assertEqual(pool.stats().timeouts, 2)
        self.assertEqual(self.query("SELECT 1", wrapper=self.copy()), (1,))

    def test_a_waiting_thread_gets_what_is_given_back(self):
        self.use_pool(max_size=1, timeout=10)
        self.wrapper.ensure_connection()
        slot = self.slot()
        pool = self.wrapper.pool
        got = []

        def borrow():
            wrapper = connections[ALIAS]
            wrapper.ensure_connection()
            got.append(self.slot(wrapper))
            wrapper.close()

        thread = threading.Thread(target=borrow)
        thread.start()
        wait_until(lambda: pool.stats().waiting)
        self.wrapper.close()
        thread.join()
        self.assertEqual(got, [slot])

    def test_connection_created_once_per_connection(self):
        sent = []

        def receiver(sender, connection, **kwargs):
            if connection.alias == ALIAS:
                # It can be used, as always.
                with connection.cursor() as cursor:
                    cursor.execute("SELECT 1")
                sent.append(id(connection.connection))

        connection_created.connect(receiver)
        self.addCleanup(connection_created.disconnect, receiver)
        for _ in range(3):
            self.wrapper.ensure_connection()
            self.wrapper.close()
        self.wrapper.ensure_connection()
        self.assertEqual(sent, [id(self.wrapper.connection)])
        other = self.copy()
        other.ensure_connection()
        self.assertEqual(sent, [id(self.wrapper.connection), id(other.connection)])

    def test_connection_created_for_connections_opened_in_advance(self):
        sent = []

        def receiver(sender, connection, **kwargs):
            if connection.alias == ALIAS:
                # As receivers do that know an alias.
                with connections[ALIAS].cursor() as cursor:
                    cursor.execute("SELECT 1")
                sent.append(id(connection.connection))

        self.use_pool(min_size=2, max_size=2, timeout=10)
        connection_created.connect(receiver)
        self.addCleanup(connection_created.disconnect, receiver)
        pool = self.wrapper.pool
        wait_until(lambda: pool.stats().idle == 2)
        wrappers = [self.copy(), self.copy()]
        for wrapper in wrappers:
            wrapper.ensure_connection()
        self.assertCountEqual(sent, [id(wrapper.connection) for wrapper in wrappers])

    def test_error_in_connection_created(self):
        """It counts as a failure to connect, as without a pool."""

        def receiver(connection, **kwargs):
            if connection.alias == ALIAS:
                raise ZeroDivisionError

        connection_created.connect(receiver)
        try:
            with self.assertRaises(ZeroDivisionError):
                self.wrapper.connect()
        finally:
            connection_created.disconnect(receiver)
        self.assertIsNone(self.wrapper.connection)
        self.assertEqual(self.stats().size, 0)
        self.assertEqual(self.query("SELECT 1"), (1,))

    def test_attributes_set_while_opening_reach_every_borrower(self):
        if connection.vendor == "postgresql":
            from django.db.backends.postgresql.psycopg_any import IsolationLevel

            options, name = {"isolation_level": IsolationLevel.SERIALIZABLE}, (
                "isolation_level"
            )
        elif connection.vendor == "mysql":
            options, name = {"isolation_level": "serializable"}, "isolation_level"
        else:
            options, name = {"transaction_mode": "IMMEDIATE"}, "transaction_mode"
        self.settings_dict["OPTIONS"].update(options)
        self.wrapper.ensure_connection()
        self.wrapper.close()
        other = self.copy()
        other.ensure_connection()
        self.assertEqual(self.stats().reused, 1)
        self.assertEqual(getattr(other, name), options[name])

    @unittest.skipUnless(is_sqlite, "SQLite tests")
    def test_init_command_runs_once_per_connection(self):
        self.settings_dict["OPTIONS"]["init_command"] = "PRAGMA cache_size = 77"
        self.wrapper.ensure_connection()
        self.wrapper.connection.execute("PRAGMA cache_size = 78")
        self.wrapper.close()
        self.assertEqual(self.query("PRAGMA cache_size"), (78,))

    @unittest.skipUnless(is_sqlite, "SQLite tests")
    def test_transaction_mode(self):
        self.settings_dict["OPTIONS"]["transaction_mode"] = "IMMEDIATE"
        self.create_table()
        self.query("SELECT 1")
        self.wrapper.close()
        with transaction.atomic(ALIAS):
            other = self.unpooled()
            other.settings_dict["OPTIONS"]["timeout"] = 0
            with self.assertRaisesMessage(OperationalError, "locked"):
                self.insert(other)


class CostTests(PooledTestCase):
    """To borrow and to give back a connection sends nothing to the server."""

    def cycle(self):
        for _ in range(3):
            self.wrapper.ensure_connection()
            self.wrapper.close()

    def test_nothing_is_sent(self):
        getattr(self, f"count_on_{connection.vendor}")()

    def count_on_postgresql(self):
        self.query("SELECT 1")
        session_id = self.session_id()
        observer = self.unpooled()
        sql = (
            "SELECT query, query_start, state_change FROM pg_stat_activity "
            "WHERE pid = %s"
        )
        # The answer may come before the server has noted it.
        while (before := self.query(sql, [session_id], observer))[2] < before[1]:
            pass
        self.wrapper.close()
        self.cycle()
        self.assertEqual(self.query(sql, [session_id], observer), before)

    def count_on_mysql(self):
        sql = "SHOW SESSION STATUS LIKE 'Questions'"
        before = int(self.query(sql)[1])
        self.wrapper.close()
        self.cycle()
        self.assertEqual(int(self.query(sql)[1]), before + 1)

    def count_on_sqlite(self):
        statements = []
        self.wrapper.ensure_connection()
        self.wrapper.connection.set_trace_callback(statements.append)
        self.query("SELECT 1")
        self.wrapper.close()
        self.cycle()
        self.assertEqual(statements, ["SELECT 1"])

    def test_no_parameters_rebuilt(self):
        self.wrapper.ensure_connection()
        self.wrapper.close()
        with mock.patch.object(
            self.wrapper, "get_connection_params", side_effect=AssertionError
        ):
            self.cycle()


@unittest.skipIf(is_sqlite, "SQLite has no server.")
class ServerDownTests(PooledTestCase):
    def setUp(self):
        super().setUp()
        self.settings_dict["HOST"] = "127.0.0.1"
        self.settings_dict["PORT"] = "1"

    def test_the_error_of_the_driver_at_once(self):
        self.use_pool(max_size=1, timeout=30)
        for _ in range(3):
            with self.assertRaises(OperationalError) as caught:
                self.wrapper.ensure_connection()
            self.assertNotIsInstance(caught.exception, PoolTimeout)
            self.assertIsInstance(
                caught.exception.__cause__, self.wrapper.Database.OperationalError
            )
        stats = self.stats()
        self.assertEqual((stats.size, stats.open_failures), (0, 3))
        self.assertIsNone(self.wrapper.connection)

    def test_borrowers_in_line_get_it_too(self):
        """A failed connect wakes the next, which sees for itself."""
        self.use_pool(max_size=1, timeout=30)

        def connect():
            with self.assertRaises(OperationalError) as caught:
                connections[ALIAS].ensure_connection()
            return caught.exception

        errors = []
        threads = [
            threading.Thread(target=lambda: errors.append(connect())) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        self.assertEqual(len(errors), 8)
        self.assertEqual({type(error) for error in errors}, {OperationalError})
        self.assertEqual(self.stats().size, 0)

    def test_serves_when_the_server_is_back(self):
        real = type(self.wrapper).get_new_connection
        down = [True, True, False]

        def get_new_connection(wrapper, conn_params):
            if down.pop(0):
                return real(wrapper, conn_params)
            wrapper = self.unpooled()
            wrapper.settings_dict.update(
                {key: connection.settings_dict[key] for key in ("HOST", "PORT")}
            )
            return real(wrapper, wrapper.get_connection_params())

        self.use_pool(max_size=1, timeout=5)
        with mock.patch.object(
            type(self.wrapper), "get_new_connection", get_new_connection
        ):
            for _ in range(2):
                with self.assertRaises(OperationalError):
                    self.wrapper.ensure_connection()
            self.assertEqual(self.query("SELECT 1"), (1,))

    def test_a_timeout_names_the_last_connect_error(self):
        self.use_pool(max_size=1, timeout=0.01)
        with self.assertRaises(OperationalError):
            self.wrapper.ensure_connection()
        lease = self.wrapper.pool.acquire()
        try:
            with self.assertRaises(PoolTimeout) as timeout:
                self.wrapper.connect()
        finally:
            self.wrapper.pool.failed(lease, ZeroDivisionError())
        self.assertIsInstance(
            timeout.exception.__cause__, self.wrapper.Database.OperationalError
        )


class InterruptedConnectTests(PooledTestCase):
    def test_no_slot_is_lost(self):
        """Whatever happens at whatever point of connecting."""
        self.use_pool(max_size=1, timeout=1)
        for method in [
            "get_connection_params",
            "get_new_connection",
            "_set_autocommit",
            "init_connection_state",
        ]:
            for error in [KeyboardInterrupt, SystemExit, ZeroDivisionError]:
                with self.subTest(method=method, error=error):
                    with mock.patch.object(
                        type(self.wrapper), method, side_effect=error
                    ):
                        with self.assertRaises(error):
                            self.wrapper.connect()
                    self.assertIsNone(self.wrapper.connection)
                    self.assertEqual(self.stats().size, 0)
                    self.assertEqual(self.query("SELECT 1"), (1,))
                    self.wrapper.close()
                    self.wrapper.close_pool()

    def test_just_opened(self):
        """Before or after the pool knows that it was opened."""
        self.use_pool(max_size=1, timeout=1)
        pool = self.wrapper.pool
        for step in ("state.PoolState.opened", "maintenance.wake"):
            with self.subTest(step=step):
                with (
                    mock.patch(f"django.db.pool.{step}", side_effect=SystemExit),
                    self.assertRaises(SystemExit),
                ):
                    self.wrapper.connect()
                # It would be one beyond max_size otherwise.
                self.assertIsNone(self.wrapper.connection)
                pool.reclaim_lost()
                self.assertEqual(self.stats().size, 0)
                self.assertEqual(self.query("SELECT 1"), (1,))
                pool.discard(self.wrapper._borrower.lease)
                self.wrapper.close()

    def test_interrupted_test_of_an_idle_connection(self):
        self.use_pool(max_size=1, timeout=1, check=True)
        self.wrapper.ensure_connection()
        slot = self.slot()
        self.wrapper.close()
        with mock.patch.object(
            type(self.wrapper), "is_usable", side_effect=KeyboardInterrupt
        ):
            with self.assertRaises(KeyboardInterrupt):
                self.wrapper.connect()
        self.assertIsNone(self.wrapper.connection)
        # Its answer may be still to come.
        self.wrapper.ensure_connection()
        self.assertIsNot(self.slot(), slot)
