"""Database wrappers that borrow from a pool, and give back."""

import gc
import threading
import unittest
from unittest import mock

from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.core.signals import request_finished, request_started
from django.db import (
    DatabaseError,
    Error,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    close_old_connections,
    connection,
    connections,
    transaction,
)
from django.db.backends.signals import connection_created
from django.db.pool import PoolTimeout

from ..models import Square
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
        other = self.copy()
        msg = f"The pool '{ALIAS}' had no connection within 0.01 s."
        with self.assertRaisesMessage(PoolTimeout, msg):
            other.connect()
        # As code written before there was a pool expects it.
        with self.assertRaises(OperationalError):
            other.cursor()
        self.wrapper.close()
        self.assertEqual(self.query("SELECT 1", wrapper=other), (1,))

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


class HandlesTests(PooledTestCase):
    """
    What the old borrower still holds can't reach the connection any more.
    """

    def setUp(self):
        super().setUp()
        self.use_pool(max_size=1, timeout=1)
        self.other = self.copy()

    def assertNotReached(self, *attempts):
        """
        Attempts to use a handle fail, under the connection's next borrower.
        """
        self.other.ensure_connection()
        with self.other.cursor() as cursor:
            cursor.execute("SELECT 7")
            for attempt in attempts:
                with self.assertRaises((Error, self.wrapper.Database.Error)):
                    attempt()
            self.assertEqual(cursor.fetchone(), (7,))

    def test_cursor(self):
        cursor = self.wrapper.cursor()
        cursor.execute("SELECT 1")
        self.wrapper.close()
        msg = (
            f"The cursor is closed: its connection was given back to the pool "
            f"'{ALIAS}' and may belong to another borrower now."
        )
        for attempt in [
            lambda: cursor.execute("SELECT 2"),
            lambda: cursor.executemany("SELECT %s", [(1,)]),
            lambda: cursor.fetchone(),
            lambda: cursor.fetchmany(2),
            lambda: cursor.fetchall(),
            lambda: list(cursor),
            lambda: cursor.description,
        ]:
            with self.assertRaisesMessage(InterfaceError, msg):
                attempt()
        self.assertNotReached(lambda: cursor.execute("SELECT 2"))
        # That's always fine.
        cursor.close()
        # And it cost nothing.
        self.assertEqual(self.stats().opened, 1)

    def test_cursor_in_a_with_block(self):
        with self.assertRaises(InterfaceError):
            with self.wrapper.cursor() as cursor:
                self.wrapper.close()
                self.assertNotReached(lambda: cursor.execute("SELECT 2"))
                cursor.execute("SELECT 2")
        # Leaving the block didn't harm the borrower.
        self.assertEqual(self.query("SELECT 1", wrapper=self.other), (1,))

    def test_method_of_a_cursor(self):
        cursor = self.wrapper.cursor()
        cursor.execute("SELECT 1")
        execute = cursor.execute
        self.wrapper.close()
        self.assertNotReached(lambda: execute("SELECT 2"))

    def test_cursor_of_the_driver(self):
        cursor = self.wrapper.cursor()
        driver_cursor = cursor.cursor
        self.wrapper.close()
        self.assertNotReached(lambda: driver_cursor.execute("SELECT 2"))

    def test_cursor_of_the_driver_without_the_one_of_django(self):
        driver_cursor = self.wrapper.cursor().cursor
        # MySQL's has one more.
        driver_cursor = getattr(driver_cursor, "cursor", driver_cursor)
        gc.collect()
        self.wrapper.close()
        self.assertNotReached(lambda: driver_cursor.execute("SELECT 2"))

    def test_cursor_made_by_the_connection_of_the_driver(self):
        self.wrapper.ensure_connection()
        driver_cursor = self.wrapper.connection.cursor()
        self.wrapper.close()
        self.assertNotReached(lambda: driver_cursor.execute("SELECT 2"))

    def test_connection_of_the_driver(self):
        self.wrapper.ensure_connection()
        driver_connection = self.wrapper.connection
        self.wrapper.close()
        self.assertNotReached(lambda: driver_connection.cursor().execute("SELECT 2"))

    def test_cursor_with_debugging(self):
        self.wrapper.force_debug_cursor = True
        cursor = self.wrapper.cursor()
        self.wrapper.close()
        self.assertNotReached(lambda: cursor.execute("SELECT 2"))

    def test_chunked_cursor(self):
        self.create_table(rows=300)
        cursor = self.wrapper.chunked_cursor()
        cursor.execute(f"SELECT number FROM {self.table} ORDER BY number")
        self.assertEqual(cursor.fetchone(), (0,))
        self.wrapper.close()
        self.assertNotReached(lambda: cursor.fetchone(), lambda: cursor.fetchmany(10))
        if connection.vendor == "postgresql":
            sql = "SELECT COUNT(*) FROM pg_cursors"
            self.assertEqual(self.query(sql, wrapper=self.other), (0,))

    @unittest.skipUnless(connection.vendor == "postgresql", "PostgreSQL tests")
    def test_chunked_cursor_in_a_transaction(self):
        self.create_table(rows=300)
        with self.assertRaises(InterfaceError):
            with transaction.atomic(ALIAS):
                cursor = self.wrapper.chunked_cursor()
                cursor.execute(f"SELECT number FROM {self.table}")
                cursor.fetchone()
                self.wrapper.close()
                cursor.fetchone()
        self.assertNotReached(lambda: cursor.fetchone())
        sql = "SELECT COUNT(*) FROM pg_cursors"
        self.assertEqual(self.query(sql, wrapper=self.other), (0,))

    @unittest.skipUnless(connection.vendor == "postgresql", "PostgreSQL tests")
    def test_server_side_cursor_in_a_failed_transaction(self):
        self.create_table(rows=300)
        with self.assertRaises(InterfaceError):
            with transaction.atomic(ALIAS):
                cursor = self.wrapper.chunked_cursor()
                cursor.execute(f"SELECT number FROM {self.table}")
                cursor.fetchone()
                with self.assertRaises(ProgrammingError):
                    self.query("SELECT no_such_column")
                self.wrapper.close()
                cursor.fetchone()
        self.query("SELECT 1", wrapper=self.other)

    def test_iterator_half_read(self):
        if is_sqlite:
            with self.unpooled().schema_editor() as editor:
                editor.create_model(Square)
        else:
            self.addCleanup(Square.objects.using("default").all().delete)
        manager = Square.objects.using(ALIAS)
        manager.bulk_create(Square(root=n, square=n * n) for n in range(1, 250))
        self.wrapper.close()
        opened = self.stats().opened
        squares = manager.iterator(chunk_size=10)
        next(squares)
        self.wrapper.close()
        self.other.ensure_connection()
        with self.assertRaises(InterfaceError):
            list(squares)
        self.assertEqual(self.query("SELECT 7", wrapper=self.other), (7,))
        self.other.close()
        # Server-side cursors have names, which may come back.
        for _ in range(2):
            squares = manager.iterator(chunk_size=10)
            next(squares)
            self.wrapper.close()
        del squares
        self.assertEqual(self.stats().opened, opened)

    def test_many_cursors_are_not_kept(self):
        self.wrapper.ensure_connection()
        for _ in range(1000):
            self.query("SELECT 1")
        self.assertLess(len(self.wrapper._borrower.handles), 200)

    def test_wrapper_closed_twice(self):
        self.wrapper.ensure_connection()
        self.wrapper.close()
        self.other.ensure_connection()
        self.wrapper.close()
        self.assertEqual(self.query("SELECT 1", wrapper=self.other), (1,))
        self.assertEqual(self.stats().in_use, 1)

    def test_connection_set_to_none(self):
        """As tests and packages do that want a new one."""
        self.wrapper.ensure_connection()
        slot = self.slot()
        self.wrapper.connection = None
        self.wrapper.ensure_connection()
        self.assertIsNot(self.slot(), slot)
        self.assertEqual(self.stats().size, 1)


class CleanTests(PooledTestCase):
    """An open transaction is rolled back, or the connection is closed."""

    def setUp(self):
        super().setUp()
        self.use_pool(max_size=1, timeout=1)

    def assertClean(self, opened=1):
        """The next borrower has the same connection, in no transaction."""
        self.assertEqual(self.count(), 0)
        other = self.copy()
        self.insert(other)
        self.assertIs(other.get_autocommit(), self.settings_dict["AUTOCOMMIT"])
        self.assertIs(other.in_atomic_block, False)
        self.assertEqual(self.count(), 1)
        other.close()
        self.assertEqual(self.stats().opened, opened)

    def test_atomic_interrupted_by_close(self):
        self.create_table()
        with transaction.atomic(ALIAS):
            self.insert()
            self.wrapper.close()
        self.assertClean()

    def test_nested_atomic_interrupted_by_close(self):
        self.create_table()
        with transaction.atomic(ALIAS):
            with transaction.atomic(ALIAS):
                self.insert()
                self.wrapper.close()
        self.assertClean()

    def test_error_after_close_in_atomic(self):
        self.create_table()
        with self.assertRaises(ZeroDivisionError):
            with transaction.atomic(ALIAS):
                self.insert()
                self.wrapper.close()
                raise ZeroDivisionError
        self.assertClean()

    def test_use_after_close_in_atomic(self):
        """The rest of the block doesn't run on another connection."""
        self.create_table()
        with transaction.atomic(ALIAS):
            self.insert()
            self.wrapper.close()
            with self.assertRaises((InterfaceError, ProgrammingError)):
                self.insert()
            with self.assertRaises((InterfaceError, ProgrammingError)):
                self.wrapper.commit()
            self.wrapper.close()
        self.assertClean()

    def test_close_old_connections_in_atomic(self):
        self.create_table()
        with transaction.atomic(ALIAS):
            self.insert()
            close_old_connections()
            self.assertIs(self.wrapper.closed_in_transaction, True)
        self.assertClean()

    def test_begin(self):
        self.create_table()
        for sql in ["BEGIN", "begin", "  -- x\n BEGIN", "/* x */ BEGIN"]:
            with self.subTest(sql=sql):
                self.query(sql)
                self.insert()
                self.wrapper.close()
                self.assertEqual(self.count(), 0)
        self.assertClean()

    def test_savepoint_without_a_transaction(self):
        if connection.vendor == "postgresql":
            self.skipTest("PostgreSQL refuses it.")
        self.create_table()
        self.query("SAVEPOINT x")
        self.wrapper.close()
        self.assertClean()

    @unittest.skipUnless(connection.vendor == "mysql", "MySQL tests")
    def test_begin_after_a_semicolon(self):
        self.create_table()
        try:
            with self.wrapper.cursor() as cursor:
                cursor.execute("SELECT 1; BEGIN")
        except ProgrammingError:
            self.skipTest("The driver doesn't take several statements.")
        self.insert()
        self.wrapper.close()
        self.assertClean()

    @unittest.skipUnless(connection.vendor == "mysql", "MySQL tests")
    def test_begin_by_other_words(self):
        self.create_table()
        for sql in ["START TRANSACTION", "XA START 'x'"]:
            with self.subTest(sql=sql):
                self.query(sql)
                self.insert()
                self.wrapper.close()
                self.assertEqual(self.count(), 0)

    def test_begin_by_executemany(self):
        if connection.vendor == "mysql":
            self.skipTest("MySQL")
        self.create_table()
        with self.wrapper.cursor() as cursor:
            if not is_sqlite:
                cursor.executemany("BEGIN", [()])
            else:
                cursor.execute("BEGIN")
        self.insert()
        self.wrapper.close()
        self.assertClean()

    def test_set_autocommit_false(self):
        self.create_table()
        self.wrapper.set_autocommit(False)
        self.insert()
        self.wrapper.close()
        self.assertClean()

    def test_autocommit_setting_false(self):
        self.settings_dict["AUTOCOMMIT"] = False
        self.create_table()
        self.insert()
        self.wrapper.close()
        self.assertEqual(self.count(), 0)
        self.assertIs(self.wrapper.pool.stats().idle == 1, True)
        self.wrapper.ensure_connection()
        self.assertIs(self.wrapper.get_autocommit(), False)
        self.insert()
        self.wrapper.commit()
        self.wrapper.close()
        self.assertEqual(self.count(), 1)
        # And back.
        self.wrapper.set_autocommit(True)
        self.wrapper.close()
        self.wrapper.ensure_connection()
        self.assertIs(self.wrapper.get_autocommit(), False)
        self.insert()
        self.wrapper.close()
        self.assertEqual(self.count(), 1)

    def test_failed_transaction(self):
        self.create_table()
        self.query("BEGIN")
        self.insert()
        with self.assertRaises(DatabaseError):
            self.query("SELECT no_such_column")
        self.wrapper.close()
        self.assertClean()

    def test_an_error_does_not_cost_a_connection(self):
        self.create_table()
        with self.assertRaises(DatabaseError):
            self.query("SELECT no_such_column")
        self.wrapper.close()
        self.assertClean()

    def test_committed_work_stays(self):
        self.create_table()
        with transaction.atomic(ALIAS):
            self.insert()
        self.wrapper.close()
        self.assertEqual(self.count(), 1)

    def assertDiscarded(self, reason="unclean"):
        """It was closed. Its slot serves the next at once."""
        stats = self.stats()
        self.assertEqual(stats.closed, {reason: 1})
        self.assertEqual(stats.size, 0)
        self.assertClean(opened=2)

    def test_rollback_fails(self):
        self.create_table()
        self.query("BEGIN")
        self.insert()
        with mock.patch.object(
            type(self.wrapper.pool.pooling), "make_clean", side_effect=ValueError
        ):
            self.wrapper.close()
        self.assertDiscarded()

    def test_closed_by_the_borrower(self):
        self.create_table()
        self.query("SELECT 1")
        self.wrapper.connection.close()
        self.wrapper.close()
        self.assertDiscarded()

    @unittest.skipIf(is_sqlite, "SQLite has no server.")
    def test_killed_in_use(self):
        self.create_table()
        session_id = self.session_id()
        self.kill(session_id, self.wrapper.connection)
        with self.assertRaises(DatabaseError):
            self.query("SELECT 1")
        self.wrapper.close()
        self.assertDiscarded()

    @unittest.skipIf(is_sqlite, "SQLite has no server.")
    def test_killed_in_a_transaction(self):
        self.create_table()
        with self.assertRaises(DatabaseError):
            with transaction.atomic(ALIAS):
                self.insert()
                self.kill(self.session_id(), self.wrapper.connection)
                self.insert()
        self.assertEqual(self.stats().closed, {"unclean": 1})
        # Leaving the block has opened another, as without a pool.
        self.wrapper.close()
        self.assertClean(opened=2)

    @unittest.skipUnless(connection.vendor == "postgresql", "PostgreSQL tests")
    def test_copy_in_progress(self):
        """An answer still to be read."""
        self.create_table()
        self.wrapper.ensure_connection()
        if hasattr(self.wrapper.connection, "pgconn"):
            self.wrapper.connection.pgconn.send_query(b"SELECT pg_sleep(0)")
            self.wrapper.close()
            self.assertDiscarded()

    def test_interrupted_query(self):
        """What came back after an interrupt isn't the next one's answer."""
        self.create_table()
        cursor = self.wrapper.cursor()
        with mock.patch.object(cursor, "cursor") as driver_cursor:
            driver_cursor.execute.side_effect = KeyboardInterrupt
            with self.assertRaises(KeyboardInterrupt):
                cursor.execute("SELECT 1")
        self.wrapper.close()
        if connection.vendor == "mysql":
            # The driver can't tell.
            self.assertDiscarded()
        else:
            self.assertClean()


class DeadBorrowerTests(PooledTestCase):
    """Who dies without giving back takes nothing along."""

    def setUp(self):
        super().setUp()
        self.use_pool(max_size=1, timeout=10)

    def test_thread_that_ends(self):
        def use():
            self.query("SELECT 1", wrapper=connections[ALIAS])
            return self.slot(connections[ALIAS])

        slot = run_in_thread(use)
        self.wrapper.ensure_connection()
        self.assertIs(self.slot(), slot)

    def test_thread_that_ends_in_a_transaction(self):
        self.create_table()

        def use():
            connections[ALIAS].set_autocommit(False)
            self.insert(connections[ALIAS])

        run_in_thread(use)
        self.assertEqual(self.count(), 0)
        self.insert()
        self.assertEqual(self.count(), 1)

    def test_thread_that_raises(self):
        def use():
            with transaction.atomic(ALIAS):
                self.query("SELECT 1", wrapper=connections[ALIAS])
                raise ZeroDivisionError

        for _ in range(3):
            with self.assertRaises(ZeroDivisionError):
                run_in_thread(use)
        self.assertEqual(self.query("SELECT 1"), (1,))

    def test_many_threads(self):
        self.use_pool(max_size=3, timeout=10)
        threads = [
            threading.Thread(
                target=lambda: self.query("SELECT 1", wrapper=connections[ALIAS])
            )
            for _ in range(30)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = self.stats()
        self.assertEqual(stats.acquired, 30)
        self.assertLessEqual(stats.opened, 3)
        self.assertEqual(stats.timeouts, 0)

    def test_wrapper_collected(self):
        wrapper = self.copy()
        # Not by the cleanup either.
        self._cleanups.pop()
        self.query("SELECT 1", wrapper=wrapper)
        pool = wrapper.pool
        del wrapper
        gc.collect()
        # Waits until it was taken back.
        self.assertEqual(self.query("SELECT 1"), (1,))
        self.assertEqual(pool.stats().abandoned, 1)
        self.assertIs(self.wrapper.pool, pool)

    def test_wrapper_collected_in_a_transaction(self):
        self.create_table()
        wrapper = self.copy()
        self._cleanups.pop()
        wrapper.set_autocommit(False)
        self.insert(wrapper)
        del wrapper
        gc.collect()
        self.insert()
        self.assertEqual(self.count(), 1)

    def test_cursor_that_outlives_its_wrapper(self):
        wrapper = self.copy()
        self._cleanups.pop()
        cursor = wrapper.cursor().cursor
        del wrapper
        gc.collect()
        self.query("SELECT 1")
        with self.assertRaises(Exception):
            cursor.execute("SELECT 2")

    def test_shared_wrapper_survives_the_thread_that_made_its_borrower(self):
        self.wrapper.inc_thread_sharing()
        self.addCleanup(self.wrapper.dec_thread_sharing)
        run_in_thread(self.wrapper.ensure_connection)
        self.assertIsNotNone(self.wrapper.connection)
        self.assertEqual(self.query("SELECT 1"), (1,))
        self.assertEqual(self.stats().in_use, 1)


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
                with mock.patch.object(
                    connections, "all", return_value=[self.wrapper]
                ):
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
