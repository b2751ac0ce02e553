"""How connections of a pool end: killed, worn out, or not needed any more."""

import os
import sys
import threading
import unittest
from unittest import mock

from django.db import OperationalError, connection, connections
from django.db.backends.base.pooling import SHORTEST_LIMIT
from django.db.pool import PoolTimeout, maintenance
from django.db.pool import pool as pool_module
from django.db.pool import registry

from .utils import ALIAS, SOON, FakeClock, PooledTestCase, run_in_thread, wait_until

is_sqlite = connection.vendor == "sqlite"


class LifeTestCase(PooledTestCase):
    def wrappers(self, count):
        """Return as many wrappers that have a connection."""
        wrappers = [self.copy() for _ in range(count)]
        for wrapper in wrappers:
            self.query("SELECT 1", wrapper=wrapper)
        return wrappers


@unittest.skipIf(is_sqlite, "SQLite has no server.")
class KilledTests(LifeTestCase):
    def kill_and_give_back(self, wrappers):
        for wrapper in wrappers:
            session_id = self.session_id(wrapper)
            self.kill(session_id, wrapper.connection)
            wrapper.close()

    def kill_idle(self, count):
        """Leave idle connections in the pool, all of them dead."""
        wrappers = self.wrappers(count)
        session_ids = [self.session_id(wrapper) for wrapper in wrappers]
        for wrapper in wrappers:
            wrapper.close()
        self.assertEqual(self.stats().idle, count)
        slots = list(self.wrapper.pool._state.idle)
        self.assertEqual(len(slots), count)
        for session_id in session_ids:
            self.kill_one(session_id, slots)
        for slot in slots:
            # Not before the client could know.
            wait_until(lambda: slot.session.probe())

    def kill_one(self, session_id, slots):
        (slot,) = (slot for slot in slots if self.id_of(slot) == session_id)
        self.kill(session_id, slot.connection)

    def id_of(self, slot):
        driver_connection = slot.connection
        if connection.vendor == "mysql":
            return driver_connection.thread_id()
        if hasattr(driver_connection, "info"):
            return driver_connection.info.backend_pid
        return driver_connection.get_backend_pid()

    def test_killed_while_idle(self):
        self.kill_idle(1)
        self.assertEqual(self.query("SELECT 1"), (1,))
        stats = self.stats()
        self.assertEqual((stats.size, stats.opened), (1, 2))
        self.assertEqual(stats.closed, {"dead": 1})

    def test_all_killed(self):
        self.kill_idle(4)
        for wrapper in self.wrappers(4):
            wrapper.close()
        stats = self.stats()
        self.assertEqual((stats.size, stats.opened), (4, 8))

    def test_no_storm_of_connects(self):
        """As many as are needed, one borrower at a time: one."""
        self.kill_idle(4)
        for _ in range(5):
            self.assertEqual(self.query("SELECT 1"), (1,))
            self.wrapper.close()
        self.assertLessEqual(self.stats().opened, 5)

    def test_killed_in_use(self):
        """The borrower sees the error, the next one doesn't."""
        (wrapper,) = self.wrappers(1)
        self.kill(self.session_id(wrapper), wrapper.connection)
        with self.assertRaises(OperationalError):
            self.query("SELECT 1", wrapper=wrapper)
        wrapper.close()
        self.assertEqual(self.query("SELECT 1"), (1,))
        self.assertEqual(self.stats().size, 1)

    def test_killed_in_use_and_not_used_again(self):
        self.kill_and_give_back(self.wrappers(2))
        for wrapper in self.wrappers(2):
            wrapper.close()

    def test_killed_among_others(self):
        wrappers = self.wrappers(3)
        session_id = self.session_id(wrappers[1])
        self.kill(session_id, wrappers[1].connection)
        for wrapper in wrappers:
            wrapper.close()
        self.wrappers(3)
        self.assertEqual(self.stats().opened, 4)

    @unittest.skipUnless(connection.vendor == "postgresql", "PostgreSQL tests")
    def test_a_notification_is_no_death(self):
        (wrapper,) = self.wrappers(1)
        slot = self.slot(wrapper)
        probe = slot.session.probe
        self.query("LISTEN pool_test", wrapper=wrapper)
        self.query("NOTIFY pool_test", wrapper=self.unpooled())
        wait_until(probe)
        with mock.patch.object(self.wrapper.pool.pooling, "needs_reset", lambda *_: 0):
            wrapper.close()
        self.assertEqual(self.query("SELECT 1"), (1,))
        self.assertIs(self.slot(), slot)
        self.query("UNLISTEN *")


class CheckTests(LifeTestCase):
    def test_check(self):
        """The round trip, for what the socket doesn't tell."""
        for check, calls in [(False, 0), (True, 1), (0, 1), (3600, 0)]:
            with self.subTest(check=check):
                self.use_pool(check=check)
                self.query("SELECT 1")
                self.wrapper.close()
                with mock.patch.object(
                    type(self.wrapper), "is_usable", return_value=True
                ) as is_usable:
                    self.wrapper.ensure_connection()
                self.assertEqual(is_usable.call_count, calls)
                self.assertEqual((self.stats().opened, self.stats().closed), (1, {}))
                self.wrapper.close()

    def test_check_that_fails(self):
        self.use_pool(check=True)
        self.query("SELECT 1")
        self.wrapper.close()
        with mock.patch.object(type(self.wrapper), "is_usable", return_value=False):
            self.wrapper.ensure_connection()
        self.assertEqual(self.stats().closed, {"dead": 1})

    def test_callable_check(self):
        checked = []

        def check(driver_connection):
            checked.append(id(driver_connection))
            if len(checked) == 2:
                raise ZeroDivisionError

        self.use_pool(check=check)
        for opened in (1, 1, 2):
            self.query("SELECT 1")
            self.assertEqual(self.stats().opened, opened)
            self.wrapper.close()
        self.assertEqual(len(checked), 2)


class AgeTests(LifeTestCase):
    """max_lifetime and max_idle, on a clock that the test moves."""

    def setUp(self):
        super().setUp()
        self.clock = FakeClock()
        ConnectionPool = pool_module.ConnectionPool
        self.enterContext(
            mock.patch.object(
                registry,
                "ConnectionPool",
                lambda options, pooling: ConnectionPool(options, pooling, self.clock),
            )
        )

    def use(self):
        self.query("SELECT 1")
        slot = self.slot()
        self.wrapper.close()
        return slot

    def test_max_lifetime(self):
        self.use_pool(max_lifetime=100, max_idle=None)
        slot = self.use()
        self.clock.advance(74)
        self.assertIs(self.use(), slot)
        # It was made for 75 to 100 seconds.
        self.clock.advance(27)
        self.assertIsNot(self.use(), slot)
        self.assertEqual(self.stats().closed, {"max_lifetime": 1})

    def test_max_lifetime_on_return(self):
        self.use_pool(max_lifetime=100, max_idle=None)
        self.query("SELECT 1")
        self.clock.advance(101)
        # It isn't taken away.
        self.assertEqual(self.query("SELECT 1"), (1,))
        self.wrapper.close()
        self.assertEqual(self.stats().closed, {"max_lifetime": 1})
        self.assertEqual(self.stats().size, 0)

    def test_max_idle(self):
        self.use_pool(max_lifetime=None, max_idle=100)
        slot = self.use()
        self.clock.advance(99)
        self.assertIs(self.use(), slot)
        self.clock.advance(101)
        self.assertIsNot(self.use(), slot)
        self.assertEqual(self.stats().closed, {"max_idle": 1})

    def test_looking_for_a_live_connection_ends_at_the_deadline(self):
        for timeout, left, limit in (
            (30, None, 30),
            (0.5, None, SHORTEST_LIMIT),
            # As after a wait of 20 seconds.
            (30, 10, 10),
        ):
            with self.subTest(timeout=timeout, left=left):
                self.use_pool(timeout=timeout, check=True)
                for wrapper in self.wrappers(2):
                    wrapper.close()
                pooling = self.wrapper.pool.pooling
                borrower = self.wrapper._borrower
                deadline = left and self.clock() + left
                limits = []

                def is_fit(wrapper, slot, check, timeout):
                    limits.append(timeout)
                    self.clock.advance(timeout)
                    return False

                with (
                    mock.patch.object(borrower, "tells", True),
                    mock.patch.object(borrower, "_tell", return_value=deadline),
                    mock.patch.object(pooling, "is_fit", is_fit),
                    self.assertRaises(PoolTimeout),
                ):
                    self.wrapper.connect()
                self.assertEqual(limits, [limit])
                self.assertEqual(self.stats().idle, 1)

    def test_max_idle_is_not_for_those_in_use(self):
        self.use_pool(max_lifetime=None, max_idle=100)
        self.query("SELECT 1")
        slot = self.slot()
        self.clock.advance(1000)
        self.wrapper.close()
        self.assertIs(self.use(), slot)

    def test_maintenance_closes_them(self):
        self.use_pool(max_lifetime=None, max_idle=100)
        for wrapper in self.wrappers(3):
            wrapper.close()
        pool = self.wrapper.pool
        self.clock.advance(101)
        pool.maintain()
        # The maintenance thread may have been first, and close one still.
        wait_until(lambda: not pool.stats().size)


class CloseTests(LifeTestCase):
    def test_connections_in_use_are_closed_when_given_back(self):
        in_use, idle = self.wrappers(2)
        idle.close()
        pool = self.wrapper.pool
        pool.close()
        self.assertEqual(pool.stats().size, 1)
        self.assertEqual(self.query("SELECT 1", wrapper=in_use), (1,))
        in_use.close()
        self.assertEqual(pool.stats().size, 0)

    def test_closing_really_closes(self):
        (wrapper,) = self.wrappers(1)
        slot = self.slot(wrapper)
        wrapper.close()
        driver_connection = slot.connection
        self.wrapper.close_pool()
        with self.assertRaises(self.wrapper.Database.Error):
            driver_connection.cursor().execute("SELECT 1")

    def test_waiters_are_woken(self):
        self.use_pool(max_size=1, timeout=10)
        self.query("SELECT 1")
        pool = self.wrapper.pool
        errors = []

        def wait():
            try:
                connections[ALIAS].ensure_connection()
            except Exception as e:
                errors.append(type(e).__name__)

        thread = threading.Thread(target=wait)
        thread.start()
        wait_until(lambda: pool.stats().waiting)
        pool.close()
        thread.join()
        self.assertEqual(errors, ["PoolClosed"])

    def test_min_size_and_the_maintenance_thread(self):
        self.use_pool(min_size=2, max_size=4)
        pool = self.wrapper.pool
        wait_until(lambda: pool.stats().idle == 2)
        names = [thread.name for thread in threading.enumerate()]
        self.assertIn("django-db-pool-maintenance", names)
        self.query("SELECT 1")
        self.assertEqual(pool.stats().opened, 2)

    def test_min_size_after_a_loss(self):
        """What's closed is replaced before the next borrower comes."""
        self.use_pool(min_size=1, max_size=1)
        self.query("SELECT 1")
        held = self.wrapper.connection
        pool = self.wrapper.pool
        self.wrapper.close()
        wait_until(lambda: pool.stats().idle == 1)
        self.assertEqual(pool.stats().closed, {"unclean": 1})
        self.assertIsNot(pool.slots()[0].connection, held)

    def test_maintenance_thread_that_died(self):
        """As a callable of the project's may have it."""
        self.query("SELECT 1")
        thread = maintenance._thread
        maintenance.put(sys.exit)
        thread.join(SOON)
        self.assertIs(thread.is_alive(), False)
        called = threading.Event()
        maintenance.put(called.set)
        maintenance.wake()
        self.assertIs(called.wait(SOON), True)

    def test_maintenance_thread_that_did_not_start(self):
        # So that the thread that there is doesn't end meanwhile.
        self.query("SELECT 1")
        with (
            mock.patch.object(maintenance, "_thread", None),
            mock.patch.object(threading.Thread, "start", side_effect=SystemExit),
        ):
            with self.assertRaises(SystemExit):
                maintenance.wake()
            self.assertIsNone(maintenance._thread)

    def test_no_thread_can_be_started(self):
        """Which is no trouble of the borrower's that asks for it."""
        self.query("SELECT 1")
        with (
            mock.patch.object(maintenance, "_thread", None),
            mock.patch.object(threading.Thread, "start", side_effect=RuntimeError),
        ):
            maintenance.wake()
            self.assertIsNone(maintenance._thread)

    def test_trouble_with_one_pool_is_not_the_others(self):
        bad = mock.Mock(maintain=mock.Mock(side_effect=ZeroDivisionError))
        good = mock.Mock(maintain=mock.Mock(return_value=3.0))
        with (
            mock.patch.object(registry, "all_pools", return_value=[bad, good]),
            self.assertLogs("django.db.pool", "ERROR") as logs,
        ):
            # It's tried again soon.
            self.assertEqual(maintenance._maintain_all(), 1.0)
        # Perhaps by the thread, too.
        good.maintain.assert_called()
        self.assertIn("ZeroDivisionError", logs.output[0])

    def test_maintenance_has_no_connection_of_its_own(self):
        """What it opens isn't left in its thread's connections."""
        self.use_pool(min_size=1, max_size=1, timeout=10)
        pool = self.wrapper.pool
        wait_until(lambda: pool.stats().idle == 1)
        slots = {run_in_thread(lambda: self.use_in_thread()) for _ in range(3)}
        self.assertEqual(len(slots), 1)

    def use_in_thread(self):
        self.query("SELECT 1", wrapper=connections[ALIAS])
        return self.slot(connections[ALIAS])


@unittest.skipUnless(is_sqlite, "SQLite tests")
class ReplacedFileTests(LifeTestCase):
    def test_deleted(self):
        self.create_table()
        self.insert()
        self.wrapper.close()
        os.unlink(self.settings_dict["NAME"])
        self.create_table()
        self.assertEqual(self.query(f"SELECT COUNT(*) FROM {self.table}"), (0,))

    def test_replaced(self):
        self.create_table()
        self.insert()
        self.wrapper.close()
        other = str(self.directory / "other.sqlite3")
        wrapper = self.copy(NAME=other, POOL=None)
        self.query(f"CREATE TABLE {self.table} (number integer)", wrapper=wrapper)
        wrapper.close()
        os.replace(other, self.settings_dict["NAME"])
        self.assertEqual(self.query(f"SELECT COUNT(*) FROM {self.table}"), (0,))
