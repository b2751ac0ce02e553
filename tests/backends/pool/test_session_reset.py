"""When and how sessions are reset."""

import contextlib
import itertools
import os
import tempfile
import threading
import time
import unittest
from unittest import mock

from django.db import connection, connections, transaction

from ..models import Square
from .session_cases import SessionTestCase
from .session_kinds import (
    is_mysqlclient,
    is_postgresql,
    is_psycopg2,
    is_psycopg3,
    is_pymysql,
    is_sqlite,
    run,
    run_by_driver,
)
from .utils import ALIAS, SOON


class ResetCostTests(SessionTestCase):
    """A clean lease sends nothing when it ends, a dirty one very little."""

    def setUp(self):
        super().setUp()
        self.sent = 0

    def count(self, *args):
        self.sent += 1

    @unittest.skipUnless(is_psycopg3, "psycopg tests")
    def test_psycopg(self):
        """By the messages that libpq sends."""
        from psycopg import pq

        with tempfile.TemporaryFile() as trace:
            self.wrapper.ensure_connection()
            try:
                self.wrapper.connection.pgconn.trace(trace.fileno())
                self.wrapper.connection.pgconn.set_trace_flags(
                    pq.Trace.SUPPRESS_TIMESTAMPS
                )
            except self.wrapper.Database.NotSupportedError:
                self.skipTest("libpq can't trace.")
            self.wrapper.close()

            def messages():
                """Return what was sent since it was asked for last."""
                # libpq writes when its buffer is full, or tracing ends.
                trace.seek(0)
                lines = trace.read().decode().splitlines()
                return [line for line in lines if line.startswith("F")]

            with transaction.atomic(ALIAS):
                run(self.wrapper, "SELECT 1")
            self.wrapper.close()
            run(self.wrapper, "SET statement_timeout = 54321")
            self.wrapper.close()
            self.wrapper.ensure_connection()
            self.wrapper.connection.pgconn.untrace()
            sent = [line.split("\t")[2] for line in messages()]
            self.assertEqual(sent, ["Query"] * 5)
            self.assertIn("SET SESSION AUTHORIZATION DEFAULT", messages()[-1])

    @unittest.skipUnless(is_psycopg2, "psycopg2 tests")
    def test_psycopg2(self):
        from psycopg2.extensions import cursor as Cursor

        test = self

        class CountingCursor(Cursor):
            def execute(self, *args):
                test.count()
                return super().execute(*args)

        for wrapper in (self.wrapper, self.other):
            wrapper.settings_dict["OPTIONS"]["cursor_factory"] = CountingCursor
        self.assertSent(clean=0, dirty=1)

    @unittest.skipUnless(is_mysqlclient, "mysqlclient tests")
    def test_mysqlclient(self):
        """
        A reset takes one call of the driver, and one more for all that's set
        when a connection is opened, if there's anything. Only statements that
        could have begun a transaction are rolled back before.
        """
        from MySQLdb.connections import Connection

        def counted(name):
            method = getattr(Connection, name)

            def count(connection, *args):
                self.count()
                return method(connection, *args)

            return mock.patch.object(Connection, name, count)

        with (
            counted("query"),
            counted("change_user"),
            counted("rollback"),
            counted("commit"),
            counted("ping"),
        ):
            self.assertSent(clean=0, dirty=2)
            self.assertSent(clean=0, dirty=2, sql="SET @pool_test = 1")
            self.assertSent(clean=0, dirty=3, sql="DO @pool_test := 1")
            for options, dirty in [
                ({"isolation_level": None}, 1),
                ({"sql_mode": "ANSI_QUOTES", "init_command": "SET @a = 1;"}, 2),
                ({"init_command": "SET @a = 1 -- one"}, 2),
                # Then there's one for each.
                ({"init_command": "SET @a = 1", "multi_statements": False}, 3),
            ]:
                with self.subTest(options=options):
                    for wrapper in (self.wrapper, self.other):
                        wrapper.settings_dict["OPTIONS"] = options
                    self.start()
                    self.assertSent(clean=0, dirty=dirty)
                    self.assertEqual(self.stats().closed, {})
                    self.start()

    @unittest.skipUnless(is_sqlite, "SQLite tests")
    def test_sqlite(self):
        self.wrapper.ensure_connection()
        self.wrapper.connection.set_trace_callback(self.count)
        self.assertSent(clean=0, dirty=0)

    def assertSent(self, clean, dirty, sql=None):
        run(self.wrapper, "SELECT 1")
        self.sent = 0
        self.wrapper.close()
        self.assertEqual(self.sent, clean)
        with transaction.atomic(ALIAS):
            run(self.wrapper, "SELECT 1")
        self.sent = 0
        self.wrapper.close()
        self.assertEqual(self.sent, clean)
        run(
            self.wrapper,
            sql
            or {
                "postgresql": "SET statement_timeout = 54321",
                "mysql": "SELECT @pool_test := 1",
                "sqlite": "PRAGMA cache_size = 1",
            }[connection.vendor],
        )
        self.sent = 0
        self.wrapper.close()
        self.assertEqual(self.sent, dirty)

    def test_the_orm_is_clean(self):
        """Reading, writing, and transactions with savepoints."""
        if is_sqlite:
            with self.wrapper.schema_editor() as editor:
                editor.create_model(Square)
        else:
            self.addCleanup(
                self.execute_unpooled, f"DELETE FROM {Square._meta.db_table}"
            )
        self.start()
        manager = Square.objects.using(ALIAS)
        with mock.patch.object(
            type(self.wrapper.pool), "release_dirty", side_effect=AssertionError
        ):
            with transaction.atomic(ALIAS):
                with transaction.atomic(ALIAS):
                    manager.bulk_create(Square(root=n, square=n) for n in range(3))
                with self.assertRaises(ZeroDivisionError):
                    with transaction.atomic(ALIAS):
                        manager.create(root=7, square=49)
                        raise ZeroDivisionError
            square = manager.filter(root=1).get()
            square.square = 2
            square.save()
            manager.update_or_create(root=2, defaults={"square": 4})
            list(manager.iterator(chunk_size=1))
            manager.filter(root=1).union(manager.filter(root=2)).count()
            manager.filter(root__in=manager.values("square")).delete()
            manager.in_bulk()
            manager.aggregate()
            with transaction.atomic(ALIAS):
                list(manager.select_for_update())
            self.wrapper.close()
        stats = self.stats()
        self.assertEqual((stats.opened, stats.closed), (1, {}))


def fail(connection):
    raise ZeroDivisionError


@unittest.skipUnless(is_postgresql or is_mysqlclient, "Others are closed.")
class OwnInitializationTests(SessionTestCase):
    def test_done_again_after_a_reset(self):
        """What a backend's subclass initializes is there again."""
        dirty, own, look = {
            "postgresql": (
                "SET statement_timeout = 12345",
                "SET work_mem = '7777kB'",
                "SHOW work_mem",
            ),
            "mysql": ("SET @dirty = 1", "SET @own = '7777kB'", "SELECT @own"),
        }[connection.vendor]

        class DatabaseWrapper(type(self.wrapper)):
            def init_connection_state(self):
                super().init_connection_state()
                with self.cursor() as cursor:
                    cursor.execute(own)

        wrapper = DatabaseWrapper(self.wrapper.settings_dict, ALIAS)
        self.addCleanup(wrapper.close_pool)
        self.addCleanup(self.close, wrapper)
        for _ in range(2):
            self.query(dirty, wrapper=wrapper)
            wrapper.close()
            self.assertEqual(self.query(look, wrapper=wrapper), ("7777kB",))
        stats = wrapper.pool.stats()
        self.assertEqual((stats.opened, stats.closed), (1, {}))


class ResetCallableTests(SessionTestCase):
    """reset=callable, and where a reset is done."""

    def setUp(self):
        super().setUp()
        self.threads = []
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.addCleanup(self.go_on.set)

    def note(self, connection):
        self.threads.append(threading.current_thread().name)

    def block(self, connection):
        self.note(connection)
        self.entered.set()
        if not self.go_on.wait(SOON):
            raise AssertionError("Nobody let it go on.")

    def test_called_with_the_connection_of_the_driver(self):
        found = []
        self.start(reset=lambda connection: found.append(type(connection)))
        for _ in range(2):
            run(self.wrapper, "SELECT 1")
            expected = type(self.wrapper.connection)
            self.wrapper.close()
        self.assertEqual(found, [expected] * 2)
        self.assertEqual(self.stats().opened, 1)

    def test_what_it_does_is_all_that_is_done(self):
        if not is_postgresql:
            self.skipTest("PostgreSQL tests")

        def reset(connection):
            run_by_driver(mock.Mock(connection=connection), "RESET statement_timeout")

        self.start(reset=reset)
        run(self.wrapper, "SET statement_timeout = 54321")
        run(self.wrapper, "SET lock_timeout = 54321")
        self.wrapper.close()
        self.assertEqual(run(self.other, "SHOW statement_timeout"), ("0",))
        self.assertEqual(run(self.other, "SHOW lock_timeout"), ("54321ms",))

    def test_transaction_that_it_leaves_open(self):
        """It's rolled back, and isn't the next borrower's."""
        self.create_table()

        def reset(connection):
            for sql in ["BEGIN", f"INSERT INTO {self.table} VALUES (1)"]:
                run_by_driver(mock.Mock(connection=connection), sql)

        for autocommit in [True, False]:
            with self.subTest(autocommit=autocommit):
                for wrapper in (self.wrapper, self.other):
                    wrapper.settings_dict["AUTOCOMMIT"] = autocommit
                self.start(reset=reset)
                run(self.wrapper, "SELECT 1")
                self.wrapper.close()
                # Nor does it lock anybody out meanwhile.
                self.assertEqual(self.count(), 0)
                self.insert(self.other)
                if not autocommit:
                    self.other.commit()
                self.assertEqual(self.count(), 1)
                self.other.close()
                self.assertEqual(self.stats().opened, 1)
                self.assertEqual(self.count(), 1)
                self.start()
                self.query(f"DELETE FROM {self.table}", wrapper=self.unpooled())

    def test_at_once_if_nothing_else_is_idle(self):
        self.start(reset=lambda connection: self.note(connection), max_size=2)
        self.wrapper.ensure_connection()
        self.wrapper.close()
        self.assertEqual(self.threads, [threading.current_thread().name])

    def test_in_the_background_if_something_is_idle(self):
        self.start(reset=lambda connection: self.note(connection), max_size=2)
        self.wrapper.ensure_connection()
        self.other.ensure_connection()
        spare = self.slot()
        self.wrapper.close()
        self.threads.clear()
        self.start_blocking()
        slot = self.slot(self.other)
        self.other.close()
        self.assertIs(self.entered.wait(SOON), True)
        self.assertEqual(self.threads, ["django-db-pool-maintenance"])
        stats = self.stats()
        self.assertEqual((stats.resetting, stats.idle, stats.in_use), (1, 1, 0))
        self.assertEqual(stats.size, 2)
        # The other one is served meanwhile.
        self.wrapper.ensure_connection()
        self.assertIs(self.slot(), spare)
        self.go_on.set()
        # Waits for it: there may be no third.
        self.other.ensure_connection()
        self.assertIs(self.slot(self.other), slot)
        self.assertEqual(self.stats().resetting, 0)
        self.assertEqual(self.stats().opened, 2)

    def start_blocking(self):
        """From now on, a reset blocks."""
        self.enterContext(
            mock.patch.object(
                type(self.wrapper.pool.pooling),
                "reset_in_time",
                lambda pooling, connection, session, how=None, left=None: (
                    self.block(connection) or True
                ),
            )
        )

    def test_at_once_if_somebody_waits(self):
        self.start(reset=lambda connection: self.block(connection), max_size=1)
        run(self.wrapper, "SELECT 1")
        pool = self.wrapper.pool
        threads = []

        def borrow():
            run(connections[ALIAS], "SELECT 1")
            threads.append(list(self.threads))
            connections[ALIAS].close()

        thread = threading.Thread(target=borrow)
        thread.start()
        while not pool.stats().waiting:
            self.assertIs(thread.is_alive(), True)
        self.go_on.set()
        self.wrapper.close()
        thread.join(SOON)
        # When it was served, the reset had been done.
        self.assertEqual(threads, [[threading.current_thread().name]])
        self.assertEqual(pool.stats().opened, 1)

    def test_failure(self):
        """The connection is closed. Its slot serves the next waiter."""
        self.start(reset=fail)
        run(self.wrapper, "SELECT 1")
        pool = self.wrapper.pool
        thread = threading.Thread(target=lambda: run(connections[ALIAS], "SELECT 1"))
        thread.start()
        while not pool.stats().waiting:
            self.assertIs(thread.is_alive(), True)
        self.wrapper.close()
        thread.join(SOON)
        self.assertIs(thread.is_alive(), False)
        stats = pool.stats()
        self.assertEqual(stats.opened, 2)
        # The thread has ended, and its connection failed as well.
        self.assertEqual(stats.closed, {"not reset": 2})
        self.assertEqual((stats.waiting, stats.timeouts), (0, 0))

    def test_failure_in_the_background(self):
        self.start(max_size=2)
        self.wrapper.ensure_connection()
        self.other.ensure_connection()
        self.wrapper.close()
        closed = threading.Event()
        pooling = self.wrapper.pool.pooling
        close = pooling.close

        def closing(connection):
            close(connection)
            closed.set()

        with (
            mock.patch.object(pooling, "reset_in_time", side_effect=ZeroDivisionError),
            mock.patch.object(pooling, "close", closing),
        ):
            self.mark_dirty(self.other)
            self.other.close()
            self.assertIs(closed.wait(SOON), True)
        self.wrapper.ensure_connection()
        # There's room for another.
        self.other.ensure_connection()
        self.assertEqual(self.stats().closed, {"not reset": 1})
        self.assertEqual(self.stats().opened, 3)

    def mark_dirty(self, wrapper):
        wrapper._borrower.observe("SET a = 1")

    def test_killed_before_the_reset(self):
        if is_sqlite:
            self.skipTest("SQLite has no server.")
        self.start()
        session_id = self.session_id()
        self.mark_dirty(self.wrapper)
        self.kill(session_id, self.wrapper.connection)
        self.wrapper.close()
        self.assertEqual(sum(self.stats().closed.values()), 1)
        self.assertEqual(run(self.other, "SELECT 1"), (1,))

    def test_interrupted(self):
        """No slot is lost when Ctrl-C comes during a reset."""
        self.start()
        self.wrapper.ensure_connection()
        self.mark_dirty(self.wrapper)
        with mock.patch.object(
            self.wrapper.pool.pooling, "reset_in_time", side_effect=KeyboardInterrupt
        ):
            with self.assertRaises(KeyboardInterrupt):
                self.wrapper.close()
        stats = self.stats()
        self.assertEqual(stats.closed, {"not reset": 1})
        self.assertEqual((stats.size, stats.resetting), (0, 0))
        self.assertEqual(run(self.other, "SELECT 1"), (1,))

    def test_pool_closed_during_a_reset(self):
        self.start(reset=lambda connection: self.block(connection))
        self.wrapper.ensure_connection()
        pool = self.wrapper.pool

        def close():
            self.assertIs(self.entered.wait(SOON), True)
            pool.close()
            self.go_on.set()

        thread = threading.Thread(target=close)
        thread.start()
        self.wrapper.close()
        thread.join(SOON)
        stats = pool.stats()
        self.assertEqual(stats.closed, {"pool closed": 1})
        self.assertEqual(stats.size, 0)


@unittest.skipUnless(is_postgresql, "PostgreSQL tests")
class TwoPhaseTests(SessionTestCase):
    """
    Once prepared, a transaction isn't the session's any more, but the driver
    goes on to refuse everything else.
    """

    def setUp(self):
        super().setUp()
        if run(self.wrapper, "SHOW max_prepared_transactions") == ("0",):
            self.skipTest("The server has no two-phase transactions.")

    def begin(self):
        self.wrapper.set_autocommit(False)
        connection = self.wrapper.connection
        connection.tpc_begin(connection.xid(1, f"pool_test_{os.getpid()}", "x"))
        run(self.wrapper, "SELECT 1")

    def assertClosed(self, reset):
        self.wrapper.close()
        self.assertEqual(self.stats().closed, {"unclean": 1})
        self.assertEqual(run(self.other, "SELECT 1"), (1,))
        self.start(reset=reset)

    def test_begun(self):
        for reset in ["auto", "never"]:
            with self.subTest(reset=reset):
                self.start(reset=reset)
                self.begin()
                self.assertClosed(reset)

    def test_prepared(self):
        for reset, autocommit in itertools.product(["auto", "never"], [True, False]):
            with self.subTest(reset=reset, autocommit=autocommit):
                for wrapper in (self.wrapper, self.other):
                    wrapper.settings_dict["AUTOCOMMIT"] = autocommit
                self.start(reset=reset)
                self.begin()
                self.wrapper.connection.tpc_prepare()
                sql = (
                    "SELECT gid FROM pg_prepared_xacts "
                    "WHERE database = current_database()"
                )
                unpooled = self.unpooled()
                (gid,) = run(unpooled, sql)
                run(unpooled, f"ROLLBACK PREPARED '{gid}'")
                self.assertClosed(reset)


@unittest.skipIf(is_sqlite, "SQLite has no server.")
class SlowResetTests(SessionTestCase):
    """A reset that takes too long is given up, along with its connection."""

    def setUp(self):
        super().setUp()
        self.enterContext(
            mock.patch.object(self.wrapper.pooling_class, "reset_timeout", 0.05)
        )

    def assertGivenUp(self):
        run(self.wrapper, "SELECT 1")
        session_id = self.session_id()
        # The server doesn't notice that nobody is there any more.
        self.addCleanup(self.end_session, session_id)
        with self.assertNotLasting():
            self.wrapper.close()
        self.assertEqual(self.stats().closed, {"not reset": 1})
        self.assertEqual(run(self.other, "SELECT 1"), (1,))
        self.assertNotEqual(self.session_id(self.other), session_id)

    @contextlib.contextmanager
    def assertNotLasting(self):
        """It doesn't wait for a server that sleeps for long."""
        since = time.monotonic()
        yield
        self.assertLess(time.monotonic() - since, SOON)

    def test_callable(self):
        calls = []

        def reset(connection):
            calls.append(1)
            if len(calls) == 1:
                run_by_driver(mock.Mock(connection=connection), self.sleep)

        self.start(reset=reset)
        self.assertGivenUp()

    @unittest.skipIf(is_pymysql, "PyMySQL can't reset a session.")
    def test_receiver(self):
        calls = []

        def receiver(wrapper):
            calls.append(1)
            if len(calls) == 2:
                run(wrapper, self.sleep)

        with self.receiver(receiver):
            self.start(reset="always")
            self.assertGivenUp()
            self.other.close()
            self.start()

    @unittest.skipUnless(is_postgresql, "PostgreSQL tests")
    def test_server_that_waits_for_a_lock(self):
        """To drop a temporary table, it needs a lock of its own."""
        self.addCleanup(self.end_session, self.session_id())
        run(self.wrapper, "CREATE TEMP TABLE pool_test (a int)")
        (name,) = run(
            self.wrapper,
            "SELECT format('%I.pool_test', pg_my_temp_schema()::regnamespace::text)",
        )
        blocker = self.unpooled()
        blocker.set_autocommit(False)
        run(blocker, f"LOCK TABLE {name} IN ACCESS SHARE MODE")
        try:
            with self.assertNotLasting():
                self.wrapper.close()
        finally:
            blocker.rollback()
            blocker.close()
        self.assertEqual(self.stats().closed, {"not reset": 1})
        self.assertEqual(run(self.other, "SELECT 1"), (1,))
