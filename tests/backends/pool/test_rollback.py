"""What a return leaves to the maintenance thread, besides resets."""

import threading
import unittest
from unittest import mock

from django.db import DatabaseError, connection, connections, transaction
from django.db.pool import maintenance

from .session_cases import SessionTestCase
from .session_kinds import is_postgresql, is_pymysql, run
from .utils import ALIAS, busy_maintenance, wait_until

MAINTENANCE = "django-db-pool-maintenance"


@unittest.skipIf(connection.vendor == "sqlite", "SQLite has no server.")
class RollbackTests(SessionTestCase):
    """
    A transaction is rolled back, and a connection tested after an error, by
    the thread that needn't wait if another connection is idle.
    """

    def setUp(self):
        super().setUp()
        self.create_table()
        self.threads = []

    def watch(self):
        """Note the threads that roll back."""
        pooling = self.wrapper.pool.pooling
        rollback = pooling.rollback

        def rolling_back(connection):
            self.threads.append(threading.current_thread().name)
            rollback(connection)

        self.enterContext(mock.patch.object(pooling, "rollback", rolling_back))

    def start_with_a_spare(self, **options):
        """Begin with two connections, one of which self.wrapper holds."""
        self.start(max_size=2, **options)
        self.other.ensure_connection()
        self.wrapper.ensure_connection()
        self.other.close()
        self.watch()

    def close(self, wrapper):
        super().close(wrapper)
        # Cleaning up waits for nobody's locks.
        wait_until(lambda: maintenance._begun is None)

    def begin(self):
        run(self.wrapper, "BEGIN")
        self.insert()

    def set_autocommit(self):
        self.wrapper.set_autocommit(False)
        self.insert()

    def enter_atomic(self):
        # Never left.
        transaction.atomic(using=ALIAS).__enter__()
        self.insert()

    def leave(self):
        """Give back a connection. Wait until it's idle."""
        self.wrapper.close()
        if self.wrapper.in_atomic_block:
            del connections[ALIAS]
            self.wrapper = connections[ALIAS]
        wait_until(lambda: self.stats().idle == 2)

    def test_in_the_background(self):
        self.start_with_a_spare()
        for begin in (self.begin, self.set_autocommit, self.enter_atomic):
            with self.subTest(begin=begin.__name__):
                self.threads.clear()
                begin()
                self.leave()
                self.assertEqual(self.threads, [MAINTENANCE])
                self.assertEqual(self.count(), 0)
                for wrapper in (self.wrapper, self.other):
                    self.assertIs(wrapper.get_autocommit(), True)
                    self.insert(wrapper)
                for wrapper in (self.wrapper, self.other):
                    wrapper.close()
                self.assertEqual(self.count(), 2)
                self.query(f"DELETE FROM {self.table}")
        stats = self.stats()
        self.assertEqual((stats.opened, stats.closed), (2, {}))

    def test_after_an_error(self):
        """Whether the connection works is found out there, too."""
        self.start_with_a_spare()
        threads = []
        is_usable = type(self.wrapper).is_usable

        def asking(wrapper):
            threads.append(threading.current_thread().name)
            return is_usable(wrapper)

        with mock.patch.object(type(self.wrapper), "is_usable", asking):
            with self.assertRaises(DatabaseError):
                self.query("SELECT no_such_column")
            self.leave()
        self.assertEqual(threads, [MAINTENANCE])
        stats = self.stats()
        self.assertEqual((stats.opened, stats.closed), (2, {}))

    @unittest.skipIf(is_pymysql, "PyMySQL can't reset a session.")
    def test_session_is_reset_as_well(self):
        """If, and only if, there's something to reset."""
        if is_postgresql:
            sql, look = "SET statement_timeout = 54321", "SHOW statement_timeout"
        else:
            sql, look = "SET @pool_test = 54321", "SELECT @pool_test"
        fresh = run(self.unpooled(), look)
        for reset, statements, count in [
            ("auto", [], 0),
            ("auto", [sql], 1),
            ("always", [], 1),
            ("never", [sql], 0),
        ]:
            with self.subTest(reset=reset, statements=statements):
                self.start_with_a_spare(reset=reset)
                self.threads.clear()
                for statement in statements:
                    run(self.wrapper, statement)
                self.begin()
                pooling = type(self.wrapper.pool.pooling)
                with mock.patch.object(
                    pooling, "reset", autospec=True, side_effect=pooling.reset
                ) as resetting:
                    self.wrapper.close()
                    wait_until(lambda: not self.stats().resetting)
                self.assertEqual(resetting.call_count, count)
                self.assertEqual(self.threads, [MAINTENANCE])
                self.assertEqual(self.stats().closed, {})
                if reset != "never":
                    for wrapper in (self.wrapper, self.other):
                        self.assertEqual(run(wrapper, look), fresh)

    def test_callable_for_reset(self):
        """It's called after the rollback."""
        found = []

        def reset(connection):
            found.append((threading.current_thread().name, list(self.threads)))

        self.start_with_a_spare(reset=reset)
        found.clear()
        self.begin()
        self.leave()
        self.assertEqual(found, [(MAINTENANCE, [MAINTENANCE])])

    def test_nothing_else_is_idle(self):
        self.start()
        self.wrapper.ensure_connection()
        self.watch()
        self.begin()
        self.wrapper.close()
        self.assertEqual(self.threads, [threading.current_thread().name])
        self.assertEqual(self.stats().idle, 1)

    def test_maintenance_is_late(self):
        """No lock is held while the thread waits for some other server."""
        self.start_with_a_spare()
        self.begin()
        with busy_maintenance(), mock.patch.object(maintenance, "LATE", 0.0):
            self.wrapper.close()
            self.assertEqual(self.threads, [threading.current_thread().name])
            self.assertEqual(self.stats().idle, 2)

    def test_failure(self):
        for error in (ValueError, DatabaseError):
            with self.subTest(error=error.__name__):
                self.start_with_a_spare()
                self.begin()
                with mock.patch.object(
                    self.wrapper.pool.pooling, "rollback", side_effect=error
                ):
                    self.wrapper.close()
                    wait_until(lambda: self.stats().size == 1)
                self.assertEqual(self.stats().closed, {"unclean": 1})
                self.assertEqual(self.count(), 0)

    def test_killed(self):
        self.start_with_a_spare()
        self.begin()
        session_id = self.session_id()
        self.kill(session_id, self.wrapper.connection)
        self.wrapper.close()
        wait_until(lambda: self.stats().size == 1)
        self.assertEqual(self.stats().closed, {"unclean": 1})
        self.assertEqual(self.query("SELECT 1"), (1,))

    def test_held_by_somebody(self):
        """Who refers to the driver's connection could use it meanwhile."""
        self.start_with_a_spare()
        self.begin()
        held = self.wrapper.connection
        self.wrapper.close()
        wait_until(lambda: self.stats().size == 1)
        self.assertEqual(self.stats().closed, {"unclean": 1})
        self.assertEqual(self.threads, [])
        with self.assertRaises(self.wrapper.Database.Error):
            held.cursor().execute("SELECT 1")
        self.assertEqual(self.count(), 0)

    def test_server_does_not_answer(self):
        """Nobody waits for longer than for a reset, with a spare or not."""
        pooling_class = self.wrapper.pooling_class
        for start in (self.start, self.start_with_a_spare):
            with self.subTest(start=start.__name__):
                start()
                self.begin()
                session_id = self.session_id()

                def rollback(connection):
                    with connection.cursor() as cursor:
                        cursor.execute(self.sleep)

                with (
                    mock.patch.object(pooling_class, "reset_timeout", 0.05),
                    mock.patch.object(self.wrapper.pool.pooling, "rollback", rollback),
                ):
                    self.wrapper.close()
                    wait_until(lambda: not self.stats().resetting)
                self.assertEqual(self.stats().closed, {"unclean": 1})
                self.end_session(session_id)
