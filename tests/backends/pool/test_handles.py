"""What outlives a lease, where two threads or two borrowers come together."""

import importlib
import logging
import select
import threading
import unittest
import warnings
from contextlib import ExitStack
from functools import partial
from unittest import mock

from django.db import (
    Error,
    InterfaceError,
    ProgrammingError,
    connection,
    connections,
    transaction,
)
from django.db.backends.base.pooling import BaseDatabasePooling
from django.db.pool.borrower import Borrower

from .utils import ALIAS, SOON, PooledTestCase, run_in_thread


def only(vendor, psycopg=None):
    """Skip a test with other drivers."""
    matches = connection.vendor == vendor
    if matches and psycopg:
        matches = connection.Database.__version__.startswith(f"{psycopg}.")
    return unittest.skipUnless(matches, f"It's about a handle of {vendor}.")


def next_or_none(iterator):
    return next(iterator, None)


class GiveBackTests(PooledTestCase):
    def setUp(self):
        super().setUp()
        self.use_pool(max_size=2, timeout=SOON)

    def test_a_lease_given_back_by_many_threads_at_once(self):
        """It ends once. Its connection isn't in the pool twice."""
        self.wrapper.ensure_connection()
        pool = self.wrapper.pool
        self.wrapper.close()
        number = 8
        for end in [pool.release, pool.discard]:
            lease = pool.acquire()
            if lease.connection is None:
                pool.failed(lease, ValueError())
                continue
            barrier = threading.Barrier(number)
            ended = []

            def give_back():
                barrier.wait(SOON)
                ended.append(end(lease))

            threads = [threading.Thread(target=give_back) for _ in range(number)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(SOON)
            self.assertEqual(sorted(ended), [False] * (number - 1) + [True])
        stats = pool.stats()
        self.assertEqual((stats.size, stats.in_use), (0, 0))

    def test_cursors_of_a_lease_that_was_ended_behind_the_wrappers_back(self):
        cursor = self.wrapper.cursor()
        cursor.execute("SELECT 1")
        self.wrapper.pool.discard(self.wrapper._borrower.lease)
        self.wrapper.close()
        with self.assertRaisesMessage(InterfaceError, "was given back"):
            cursor.fetchone()
        self.assertEqual(self.stats().size, 0)

    def test_a_wrapper_closed_by_two_threads_one_after_the_other(self):
        self.wrapper.ensure_connection()
        self.wrapper.inc_thread_sharing()
        self.addCleanup(self.wrapper.dec_thread_sharing)
        run_in_thread(self.wrapper.close)
        other = self.copy()
        other.ensure_connection()
        self.wrapper.close()
        run_in_thread(self.wrapper.close)
        self.assertEqual(self.query("SELECT 7", wrapper=other), (7,))
        self.assertEqual(self.stats().in_use, 1)

    def test_a_wrapper_closed_by_two_threads_at_once(self):
        """
        The slower one changes nothing, wherever it was when the other was
        done, nor for the next borrower.
        """
        self.create_table()
        self.use_pool(max_size=1, timeout=SOON)
        for owner, name in [
            (Borrower, "give_back"),
            (Borrower, "_make_clean"),
            (BaseDatabasePooling, "is_held"),
        ]:
            with self.subTest(name=name):
                self.wrapper.set_autocommit(False)
                self.insert()
                self.wrapper.inc_thread_sharing()
                self.assertClosedTwice(owner, name)
                self.wrapper.dec_thread_sharing()
                self.query(f"DELETE FROM {self.table}", wrapper=self.unpooled())

    def assertClosedTwice(self, owner, name):
        came, go, errors = threading.Event(), threading.Event(), []
        method = getattr(owner, name)

        def held_up(*args):
            if threading.current_thread() is thread:
                came.set()
                go.wait(SOON)
            return method(*args)

        def close():
            try:
                self.wrapper.close()
            except BaseException as e:
                errors.append(e)

        thread = threading.Thread(target=close)
        with mock.patch.object(owner, name, held_up):
            thread.start()
            self.assertTrue(came.wait(SOON))
            self.wrapper.close()
            other = self.copy()
            other.set_autocommit(False)
            self.insert(other)
            go.set()
            thread.join(SOON)
        self.assertEqual(errors, [])
        self.assertEqual(self.stats().in_use, 1)
        other.commit()
        other.close()
        self.assertEqual(self.count(), 1)
        stats = self.stats()
        self.assertEqual((stats.in_use, stats.idle), (0, 1))

    def test_a_connection_that_somebody_keeps_is_not_lent_again(self):
        self.wrapper.ensure_connection()
        kept = self.wrapper.connection
        self.wrapper.close()
        stats = self.stats()
        self.assertEqual(stats.closed, {"unclean": 1})
        self.assertEqual(stats.idle, 0)
        self.wrapper.ensure_connection()
        self.assertIsNot(self.wrapper.connection, kept)

    def test_on_commit_of_an_interrupted_transaction(self):
        """Neither the same borrower nor the next one runs it later."""
        called = []
        with transaction.atomic(ALIAS):
            self.query("SELECT 1")
            transaction.on_commit(lambda: called.append(1), using=ALIAS)
            self.wrapper.close()

        def use():
            with transaction.atomic(ALIAS):
                self.query("SELECT 1", wrapper=connections[ALIAS])

        run_in_thread(use)
        use()
        self.assertEqual(called, [])


@unittest.skipUnless(connection.vendor == "postgresql", "PostgreSQL tests")
class ServerSideCursorTests(PooledTestCase):
    sql = "SELECT generate_series(1, 1000)"

    def setUp(self):
        super().setUp()
        self.use_pool(max_size=1, timeout=SOON)

    def read_half(self, wrapper):
        cursor = wrapper.chunked_cursor()
        cursor.execute(self.sql)
        self.assertEqual(cursor.fetchone(), (1,))
        return cursor

    def test_names_never_collide(self):
        """Wrappers of one thread count their cursors from one each."""
        cursors = []
        for wrapper in [self.wrapper, self.copy(), self.copy()]:
            for _ in range(2):
                cursors.append(self.read_half(wrapper))
                wrapper.close()
        for cursor in cursors:
            with self.assertRaises(InterfaceError):
                cursor.fetchone()
        self.assertEqual(self.query("SELECT COUNT(*) FROM pg_cursors"), (0,))
        stats = self.stats()
        self.assertEqual((stats.opened, stats.closed), (1, {}))

    def test_dropped_without_being_closed(self):
        """The server doesn't notice."""
        for wrapper in [self.wrapper, self.copy()]:
            with warnings.catch_warnings():
                # The drivers'.
                warnings.simplefilter("ignore", ResourceWarning)
                self.read_half(wrapper)
            self.assertEqual(
                self.query("SELECT COUNT(*) FROM pg_cursors", wrapper=wrapper), (1,)
            )
            wrapper.close()
        self.assertEqual(self.query("SELECT COUNT(*) FROM pg_cursors"), (0,))
        stats = self.stats()
        self.assertEqual((stats.opened, stats.closed), (1, {}))

    def test_closed_ones_are_no_reason_for_a_reset(self):
        for use in [
            lambda cursor: cursor.close(),
            lambda cursor: cursor.__exit__(None, None, None),
        ]:
            cursor = self.read_half(self.wrapper)
            use(cursor)
            # Again, which is harmless.
            use(cursor)
            del cursor
            self.assertEqual(self.wrapper._borrower.traces, 0)
            self.assertEqual(self.query("SELECT COUNT(*) FROM pg_cursors"), (0,))

    def test_several_of_one_borrower_are_closed(self):
        cursors = [self.read_half(self.wrapper) for _ in range(3)]
        self.assertEqual(self.query("SELECT COUNT(*) FROM pg_cursors"), (3,))
        self.wrapper.close()
        self.assertEqual(self.query("SELECT COUNT(*) FROM pg_cursors"), (0,))
        for cursor in cursors:
            with self.assertRaises(InterfaceError):
                cursor.fetchall()
        self.assertEqual(self.stats().opened, 1)


class DriverHandleTests(PooledTestCase):
    """
    What the drivers hand out besides cursors: whoever keeps it can't reach
    the next borrower's connection.
    """

    def setUp(self):
        super().setUp()
        self.use_pool(max_size=1, timeout=SOON)
        self.other = self.copy()
        # It logs what it can't end properly any more.
        logger = logging.getLogger("psycopg")
        self.enterContext(mock.patch.object(logger, "disabled", True))

    def assertNotReached(self, handle, use):
        """
        Neither closing nor what's done with a handle afterwards disturbs the
        next borrower. There may be an error, or just nothing.
        """
        self.wrapper.close()
        with self.other.cursor() as cursor:
            cursor.execute("SELECT 7")
            before = self.other._borrower.lease.slot.connection
            try:
                use(handle)
            except (Error, self.wrapper.Database.Error, ValueError, AttributeError):
                # The last is how PyMySQL says that there's no socket.
                pass
            self.assertEqual(cursor.fetchone(), (7,))
            self.assertIs(self.other._borrower.lease.slot.connection, before)
            cursor.execute("SELECT 8")
            self.assertEqual(cursor.fetchone(), (8,))
        self.assertEqual(self.stats().in_use, 1)

    def raw(self):
        self.wrapper.ensure_connection()
        return self.wrapper.connection

    @only("sqlite")
    def test_blob(self):
        self.create_table()
        self.query(f"INSERT INTO {self.table} VALUES (zeroblob(10))")
        blob = self.raw().blobopen(self.table, "number", 1)
        self.assertNotReached(blob, lambda blob: blob.write(b"1"))
        sql = f"SELECT number FROM {self.table}"
        self.assertEqual(self.query(sql, wrapper=self.other), (bytes(10),))

    @only("mysql")
    def test_unbuffered_cursor(self):
        module = importlib.import_module(f"{self.wrapper.Database.__name__}.cursors")
        cursor = self.raw().cursor(module.SSCursor)
        cursor.execute("SELECT 1 UNION SELECT 2 UNION SELECT 3")
        self.assertEqual(cursor.fetchone(), (1,))
        self.assertNotReached(cursor, lambda cursor: cursor.fetchall())
        if self.wrapper.Database.__name__ == "pymysql":
            # Its destructors would print that they can't read the rest.
            cursor._result.unbuffered_active = False

    def test_rows_of_a_cursor_that_ended(self):
        """Whether they are in memory doesn't matter."""
        sql = "SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3"
        for begin in [
            lambda cursor: partial(next, iter(cursor)),
            lambda cursor: cursor.fetchone,
            lambda cursor: cursor.fetchall,
            lambda cursor: cursor.cursor.fetchone,
            lambda cursor: partial(next, iter(cursor.cursor)),
        ]:
            cursor = self.wrapper.cursor()
            cursor.execute(sql)
            go_on = begin(cursor)
            if isinstance(go_on, partial):
                self.assertEqual(go_on(), (1,))
            self.wrapper.close()
            drivers = self.wrapper.Database
            with self.assertRaises(
                # SQLite's way to say so.
                (ProgrammingError, drivers.ProgrammingError)
                if connection.vendor == "sqlite"
                else (InterfaceError, drivers.InterfaceError)
            ):
                go_on()

    @only("mysql")
    def test_answer_that_nobody_reads(self):
        """The next borrower's query isn't taken to be answered by it."""
        raw = self.raw()
        if hasattr(raw, "send_query"):
            raw.send_query("SELECT 1")
        else:
            # As PyMySQL does it itself. 3 is the number of a query.
            raw._execute_command(3, "SELECT 1")
        socket = getattr(raw, "_sock", raw)
        self.assertTrue(select.select([socket], [], [], SOON)[0])
        del raw, socket
        self.wrapper.close()
        self.assertEqual(self.query("SELECT 7", wrapper=self.other), (7,))
        self.assertEqual(self.stats().opened, 2)

    @only("postgresql", psycopg=3)
    def test_copy_from_the_server(self):
        with ExitStack() as stack:
            cursor = stack.enter_context(self.raw().cursor())
            sql = "COPY (SELECT generate_series(1, 100000)) TO STDOUT"
            copy = stack.enter_context(cursor.copy(sql))
            copy.read()
            self.assertNotReached(copy, lambda copy: copy.read())
            # Leaving the block raises what the driver thinks of it.
            stack.pop_all()

    @only("postgresql", psycopg=3)
    def test_stream(self):
        rows = self.raw().cursor().stream("SELECT generate_series(1, 100000)")
        self.assertEqual(next(rows), (1,))
        self.assertNotReached(rows, next)

    @only("postgresql", psycopg=3)
    def test_copy_to_the_server(self):
        self.create_table()
        stack = ExitStack()
        cursor = stack.enter_context(self.raw().cursor())
        copy = stack.enter_context(cursor.copy(f"COPY {self.table} FROM STDIN"))
        copy.write_row([1])
        self.assertNotReached(copy, lambda copy: copy.write_row([2]))
        stack.pop_all()
        self.assertEqual(self.count(), 0)

    @only("postgresql", psycopg=3)
    def test_pipeline(self):
        stack = ExitStack()
        raw = self.raw()
        pipeline = stack.enter_context(raw.pipeline())
        del raw
        self.query("SELECT 1")
        self.assertNotReached(pipeline, lambda pipeline: pipeline.sync())
        stack.pop_all()

    @only("postgresql", psycopg=3)
    def test_transaction_of_the_driver(self):
        self.create_table()
        stack = ExitStack()
        transaction = stack.enter_context(self.raw().transaction())
        self.insert()
        self.assertNotReached(
            transaction, lambda transaction: transaction.__exit__(None, None, None)
        )
        stack.pop_all()
        self.assertEqual(self.count(), 0)

    @only("postgresql", psycopg=3)
    def test_statement_prepared_by_the_driver(self):
        cursor = self.raw().cursor()
        cursor.execute("SELECT 7", prepare=True)
        self.assertNotReached(
            cursor, lambda cursor: cursor.execute("SELECT 7", prepare=True)
        )

    @only("postgresql", psycopg=3)
    def test_notifications(self):
        self.query("LISTEN pool_test")
        notifications = self.raw().notifies(timeout=0)
        self.assertNotReached(notifications, next_or_none)
        channels = "SELECT COUNT(*) FROM pg_listening_channels()"
        self.assertEqual(self.query(channels, wrapper=self.other), (0,))

    @only("postgresql", psycopg=2)
    def test_large_object(self):
        with transaction.atomic(ALIAS):
            large_object = self.raw().lobject(0, "wb")
            large_object.write("1")
            self.wrapper.set_rollback(True)
        self.assertNotReached(large_object, lambda large_object: large_object.read())
