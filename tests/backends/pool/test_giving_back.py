"""What becomes of a connection, and of its cursors, that is given back."""

import gc
import threading
import unittest
from itertools import product
from unittest import mock

from django.db import (
    DatabaseError,
    Error,
    IntegrityError,
    InterfaceError,
    ProgrammingError,
    close_old_connections,
    connection,
    connections,
    transaction,
)

from ..models import Square
from .utils import ALIAS, PooledTestCase, run_in_thread

is_sqlite = connection.vendor == "sqlite"


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
        # Not with assertRaises(), which clears the traceback's frames: no
        # cycle may keep them, and the driver's cursor, alive.
        try:
            self.query("SELECT no_such_column")
        except DatabaseError:
            pass
        else:
            self.fail("It succeeded.")
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

    def interrupted_cursor(self):
        self.create_table()
        cursor = self.wrapper.cursor()
        with mock.patch.object(cursor, "cursor") as driver_cursor:
            driver_cursor.execute.side_effect = KeyboardInterrupt
            with self.assertRaises(KeyboardInterrupt):
                cursor.execute("SELECT 1")
        return cursor

    def assertNotTrusted(self):
        if connection.vendor == "mysql":
            # The driver can't tell.
            self.assertDiscarded()
        else:
            self.assertClean()

    def test_interrupted_query(self):
        """What came back after an interrupt isn't the next one's answer."""
        cursor = self.interrupted_cursor()
        self.wrapper.close()
        cursor.close()
        self.assertNotTrusted()

    def test_interrupted_query_of_a_closed_cursor(self):
        """Nobody holds anything that would have the return look closer."""
        self.interrupted_cursor().close()
        self.wrapper.close()
        self.assertNotTrusted()

    def test_rows_left_unread(self):
        """Not to read on interrupts nothing."""
        self.create_table()
        sql = "SELECT 1 UNION ALL SELECT 2"
        with self.wrapper.cursor() as cursor:
            cursor.execute(sql)
            for _ in cursor:
                break
        with self.wrapper.cursor() as cursor:
            cursor.execute(sql)
            with self.assertRaises(ZeroDivisionError):
                for _ in cursor:
                    raise ZeroDivisionError
        self.wrapper.close()
        self.assertClean()

    def fail_in_atomic(self):
        # Not with assertRaises(), which clears the traceback's frames.
        try:
            # As Model.save() does it.
            with (
                transaction.atomic(ALIAS),
                transaction.mark_for_rollback_on_error(ALIAS),
            ):
                self.query("SELECT no_such_column")
        except DatabaseError:
            pass
        else:
            self.fail("It succeeded.")

    def test_error_in_an_atomic_block(self):
        """The wrapper doesn't keep it longer than the block lasts."""
        for lease, autocommit in product(["request", "transaction"], [True, False]):
            with self.subTest(lease=lease, autocommit=autocommit):
                self.wrapper.close()
                self.wrapper.close_pool()
                self.settings_dict["AUTOCOMMIT"] = autocommit
                self.use_pool(max_size=1, timeout=1, lease=lease)
                self.fail_in_atomic()
                self.query("SELECT 1")
                with transaction.atomic(ALIAS):
                    self.fail_in_atomic()
                    self.query("SELECT 1")
                if lease == "transaction" and autocommit:
                    self.assertEqual(self.stats().in_use, 0)
                self.wrapper.close()
                stats = self.stats()
                self.assertEqual((stats.opened, stats.closed), (1, {}))

    def test_interrupted_return(self):
        """
        Closing once more ends the lease of a wrapper that has lost its
        connection.
        """
        for close in ("close", "close_if_unusable_or_obsolete"):
            with self.subTest(close=close):
                self.wrapper.ensure_connection()
                with (
                    mock.patch.object(
                        self.wrapper._borrower, "give_back", side_effect=SystemExit
                    ),
                    self.assertRaises(SystemExit),
                ):
                    self.wrapper.close()
                self.assertEqual(self.stats().in_use, 1)
                getattr(self.wrapper, close)()
                self.assertEqual(self.stats().size, 0)

    @unittest.skipUnless(connection.vendor == "mysql", "MySQL tests")
    def test_error_that_the_backend_translates(self):
        """A driver's error that the backend raises as one of Django's."""
        self.create_table()
        sql = f"ALTER TABLE {self.table} ADD CHECK (number < 5)"
        self.query(sql, wrapper=self.unpooled())
        with self.assertRaises(IntegrityError):
            self.query(f"INSERT INTO {self.table} VALUES (5)")
        self.wrapper.close()
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
        # A pool that nobody has is closed.
        pool = self.wrapper.pool
        self.assertIs(wrapper.pool, pool)
        del wrapper
        gc.collect()
        # Waits until it was taken back.
        self.assertEqual(self.query("SELECT 1"), (1,))
        self.assertEqual(pool.stats().abandoned, 1)

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
