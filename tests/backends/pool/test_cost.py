"""
What borrowing costs, counted instead of timed: Python's steps, queries, round
trips, signals, wake-ups, memory. A change that makes it dearer fails here, on
any machine; one that makes it cheaper may lower the limits.
"""

import gc
import itertools
import sys
import tracemalloc
import unittest
from unittest import mock

from django.db import DatabaseError, connection, transaction
from django.db.backends.signals import connection_created
from django.db.pool import maintenance
from django.db.pool import pool as pool_module
from django.db.pool import queueing
from django.test import SimpleTestCase

from .counting import Wire, steps_of
from .fakes import Call, Clock, borrow, make_pool, wait_for_line, warm
from .utils import ALIAS, SOON, PooledTestCase, busy_maintenance, wait_until

VERSION = sys.version_info[:2]
# Where the numbers of instructions were counted.
KNOWN_VERSIONS = {(3, 12), (3, 13)}

counts_calls = unittest.skipUnless(
    sys.implementation.name == "cpython" and VERSION >= (3, 12),
    "Calls are counted by sys.monitoring of CPython.",
)
counts_instructions = unittest.skipUnless(
    sys.implementation.name == "cpython" and VERSION in KNOWN_VERSIONS,
    "It's not known how many instructions this version of Python takes.",
)

# Calls of Python functions, and instructions by version, that a driver's
# connection takes to be borrowed and given back.
LIMITS = {
    "psycopg": (11, {(3, 12): 457, (3, 13): 464}),
    "psycopg2": (17, {(3, 12): 521, (3, 13): 528}),
    "MySQLdb": (11, {(3, 12): 467, (3, 13): 476}),
    "pymysql": (14, {(3, 12): 496, (3, 13): 506}),
    "sqlite3": (23, {(3, 12): 588, (3, 13): 602}),
}


def stopped_clock(now=0.0):
    """
    Return a clock that takes no instruction of Python, by which each use is a
    brief one even if the machine does something else meanwhile.
    """
    return itertools.repeat(now).__next__


class ForbiddenLock:
    """Stands in for a lock that must not be taken."""

    def __enter__(self):
        raise AssertionError("The lock was taken.")

    acquire = __enter__

    def __exit__(self, *exc_info):
        pass


class BarePoolTests(SimpleTestCase):
    """acquire() and release() while a connection is idle."""

    def setUp(self):
        self.pool = make_pool(stopped_clock(), max_size=4)
        warm(self.pool, 2)
        # Uses are counted up to now, so that there's room for some more.
        self.pool.stats()

    def cycle(self):
        self.pool.release(self.pool.acquire())

    @counts_calls
    def test_calls(self):
        self.assertEqual(
            steps_of(self.cycle).functions,
            ["ConnectionPool.acquire", "ConnectionPool.release"],
        )

    @counts_instructions
    def test_instructions(self):
        limit = {(3, 12): 123, (3, 13): 112}[VERSION]
        steps = steps_of(self.cycle)
        self.assertLessEqual(sum(steps.instructions.values()), limit, steps)

    @counts_calls
    def test_calls_do_not_depend_on_the_number_of_connections(self):
        pool = make_pool(stopped_clock(), max_size=200)
        warm(pool, 200)
        many = steps_of(lambda: pool.release(pool.acquire()))
        one = steps_of(lambda: self.pool.release(self.pool.acquire()))
        self.assertEqual(many.instructions, one.instructions)

    def test_the_lock_is_not_taken(self):
        self.pool._lock = ForbiddenLock()
        leases = [self.pool.acquire() for _ in range(2)]
        for lease in leases:
            self.pool.release(lease)
        for _ in range(100):
            self.cycle()

    def test_the_lock_is_taken_once_in_many_uses_that_are_not_brief(self):
        clock = Clock()
        pool = make_pool(clock, max_size=1)
        warm(pool, 1)
        with mock.patch.object(pool, "_lock", mock.MagicMock()) as lock:
            for _ in range(10 * pool_module.MANY_HELD):
                lease = pool.acquire()
                clock.advance(0.01)
                pool.release(lease)
        self.assertEqual(lock.__enter__.call_count, 10)


class WakeUpTests(SimpleTestCase):
    """A return wakes the one whom it serves, and nobody else."""

    def setUp(self):
        self.woken = woken = []

        class CountedLock:
            def __init__(self, lock):
                self.acquire = lock.acquire
                self.lock = lock

            def release(self):
                woken.append(self)
                self.lock.release()

        class CountedWaiter(queueing._Waiter):
            __slots__ = ()

            def __init__(self):
                super().__init__()
                self.wake = CountedLock(self.wake)

        self.enterContext(mock.patch.object(queueing, "_Waiter", CountedWaiter))

    def test_nobody_waits(self):
        pool = make_pool(max_size=2)
        warm(pool, 2)
        self.woken.clear()
        for _ in range(10):
            pool.release(pool.acquire())
        self.assertEqual(self.woken, [])

    def test_many_wait(self):
        pool = make_pool(max_size=2)
        leases = [borrow(pool), borrow(pool)]
        # Whose patience was over, and who then served itself.
        self.woken.clear()
        calls = []
        for number in range(1, 6):
            calls.append(Call(pool.acquire))
            wait_for_line(pool, number)
        for number, call in enumerate(calls, 1):
            pool.release(leases.pop(0))
            self.assertEqual(len(self.woken), number)
            leases.append(call.result())
        self.assertEqual(len(set(self.woken)), 5)
        for lease in leases:
            pool.release(lease)
        self.assertEqual(len(self.woken), 5)

    def test_a_connection_that_can_not_be_used_again(self):
        pool = make_pool(max_size=1)
        lease = borrow(pool)
        calls = []
        for number in range(1, 4):
            calls.append(Call(pool.acquire))
            wait_for_line(pool, number)
        pool.discard(lease)
        self.assertEqual(len(self.woken), 1)
        # It's a permit, to be handed on.
        for number, call in enumerate(calls, 2):
            pool.failed(call.result(), None)
            self.assertEqual(len(self.woken), min(number, 3))


class MemoryTests(SimpleTestCase):
    """What a lease takes while it's held, and that nothing is left of it."""

    # The times of uses are kept until there are that many.
    CYCLES = 10_000

    def setUp(self):
        self.pool = make_pool(max_size=4)
        warm(self.pool, 2)
        self.pool.stats()
        # A collection would free what isn't ours.
        self.addCleanup(gc.enable if gc.isenabled() else gc.disable)
        gc.disable()

    def least_of(self, measure):
        """
        Return the least of some measurements: other threads use memory, too.
        """
        return min(measure() for _ in range(5))

    def traced(self, function):
        """Return how many bytes a function leaves, and takes at the most."""
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            function()
            after, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        return after - before, peak - before

    def use(self, times):
        acquire, release = self.pool.acquire, self.pool.release
        for _ in range(times):
            release(acquire())

    def test_blocks_of_a_lease(self):
        def blocks():
            before = sys.getallocatedblocks()
            lease = self.pool.acquire()
            taken = sys.getallocatedblocks() - before
            self.pool.release(lease)
            return taken

        # The lease. The time was there before.
        self.use(10)
        self.assertLessEqual(self.least_of(blocks), 2)

    def test_bytes_of_a_cycle(self):
        self.use(10)
        peak = self.least_of(lambda: self.traced(lambda: self.use(1))[1])
        self.assertLessEqual(peak, 250)

    def test_no_growth(self):
        self.use(self.CYCLES)
        left = self.least_of(lambda: self.traced(lambda: self.use(self.CYCLES))[0])
        self.assertLess(left, 500)

    def test_blocks_left(self):
        def blocks():
            before = sys.getallocatedblocks()
            self.use(self.CYCLES)
            return sys.getallocatedblocks() - before

        self.use(self.CYCLES)
        self.assertLess(self.least_of(blocks), 20)


class WrapperCostTests(PooledTestCase):
    """ensure_connection() and close() of a wrapper."""

    def setUp(self):
        super().setUp()
        self.use_pool(max_size=1)

    def cycle(self):
        self.wrapper.ensure_connection()
        self.wrapper.close()

    def steps(self):
        self.query("SELECT 1")
        self.wrapper.close()
        for _ in range(3):
            self.cycle()
        pool = self.wrapper.pool
        with mock.patch.object(pool, "_clock", stopped_clock(pool.now())):
            steps = steps_of(self.cycle)
        # Of the test case, which looks whether the database is allowed.
        patched = "SimpleTestCase.ensure_connection_patch_method"
        steps.functions = [n for n in steps.functions if not n.startswith(patched)]
        for name in [n for n in steps.instructions if n.startswith(patched)]:
            del steps.instructions[name]
        return steps

    def limits(self):
        driver = self.wrapper.Database.__name__.partition(".")[0]
        if driver not in LIMITS:
            self.skipTest("It's not known what this driver takes.")
        return LIMITS[driver]

    @counts_calls
    def test_calls(self):
        limit, _ = self.limits()
        functions = self.steps().functions
        self.assertLessEqual(len(functions), limit, functions)

    @counts_instructions
    def test_instructions(self):
        _, limit = self.limits()
        steps = self.steps()
        self.assertLessEqual(sum(steps.instructions.values()), limit[VERSION], steps)

    def test_attributes(self):
        """For instances with more than 30, CPython looks up each in a dict."""
        self.cycle()
        borrower = self.wrapper._borrower
        # In threads of an executor.
        borrower.call = None
        self.assertLessEqual(len(vars(borrower)), 30)

    def test_the_lock_is_not_taken(self):
        self.cycle()
        self.stats()
        with mock.patch.object(self.wrapper.pool, "_lock", ForbiddenLock()):
            for _ in range(10):
                self.cycle()

    def test_signals(self):
        sent = []

        def receive(sender, connection, **kwargs):
            if connection.alias == ALIAS:
                sent.append(connection)

        connection_created.connect(receive)
        self.addCleanup(connection_created.disconnect, receive)
        for _ in range(10):
            self.cycle()
        self.assertEqual(len(sent), 1)
        # The signals of requests, to which nothing of the pool's listens.
        wrapper = self.copy()
        for _ in range(10):
            wrapper.ensure_connection()
            wrapper.close()
        self.assertEqual(len(sent), 1)
        self.assertEqual(self.stats().opened, 1)

    @unittest.skipUnless(connection.vendor == "sqlite", "SQLite's")
    def test_statements_on_sqlite(self):
        self.cycle()
        statements = []
        self.wrapper.ensure_connection()
        # Not the connection's own method: it would be closed.
        self.wrapper.Database.Connection.set_trace_callback(
            self.wrapper.connection, statements.append
        )
        self.wrapper.close()
        for _ in range(10):
            self.cycle()
        self.assertEqual(statements, [])
        # They would have been noticed.
        self.query("SELECT 1")
        self.assertEqual(statements, ["SELECT 1"])
        self.assertEqual(self.stats().opened, 1)


@unittest.skipUnless(connection.vendor in ("postgresql", "mysql"), "needs a server")
class RoundTripTests(PooledTestCase):
    """What's said to the server, counted between it and the driver."""

    def setUp(self):
        super().setUp()
        self.use_pool(max_size=1)
        ports = {"postgresql": 5432, "mysql": 3306}
        server = {name: self.settings_dict[name] for name in ("HOST", "PORT")}
        self.wire = Wire(self.settings_dict, ports[connection.vendor])
        self.addCleanup(self.settings_dict.update, server)
        self.addCleanup(self.wire.close)
        # Before the proxy ends.
        self.addCleanup(self.close, self.wrapper)
        self.query("SELECT 1")
        self.wrapper.close()

    def trips_of(self, function, *args):
        before = self.wire.trips
        function(*args)
        return self.wire.trips - before

    def test_a_query_is_counted(self):
        self.wrapper.ensure_connection()
        for _ in range(3):
            self.assertEqual(self.trips_of(self.query, "SELECT 1"), 1)

    def test_borrowing(self):
        for _ in range(10):
            self.assertEqual(self.trips_of(self.wrapper.ensure_connection), 0)
            self.assertEqual(self.trips_of(self.wrapper.close), 0)
        self.assertEqual(self.wire.sessions, 1)

    def test_clean_return(self):
        for _ in range(10):
            self.query("SELECT 1")
            self.assertEqual(self.trips_of(self.wrapper.close), 0)
            self.assertEqual(self.trips_of(self.wrapper.ensure_connection), 0)

    def test_return_after_a_transaction(self):
        self.create_table()
        for _ in range(3):
            with transaction.atomic(ALIAS):
                self.insert()
            self.assertEqual(self.trips_of(self.wrapper.close), 0)

    def test_return_in_a_transaction(self):
        for _ in range(3):
            self.query("BEGIN")
            self.assertEqual(self.trips_of(self.wrapper.close), 1)
        self.assertEqual(self.wire.sessions, 1)

    def test_return_in_a_transaction_with_a_spare(self):
        """The borrower doesn't wait, and the locks go in one round trip."""
        self.wrapper.pool.resize(max_size=2)
        other = self.copy()
        self.wrapper.ensure_connection()
        other.ensure_connection()
        other.close()
        with mock.patch.object(maintenance, "LATE", SOON):
            for leave in (self.leave_transaction, self.leave_error):
                with self.subTest(leave=leave.__name__):
                    leave()
                    with busy_maintenance():
                        self.assertEqual(self.trips_of(self.wrapper.close), 0)
                        self.assertEqual(self.stats().resetting, 1)
                        before = self.wire.trips
                    wait_until(lambda: self.stats().idle == 2)
                    self.assertEqual(self.wire.trips - before, 1)
        self.assertEqual(self.wire.sessions, 2)

    def leave_transaction(self):
        self.query("BEGIN")

    def leave_error(self):
        # What Django asks after an error, whether the connection works.
        with self.assertRaises(DatabaseError):
            self.query("SELECT no_such_column")

    def test_dirty_return(self):
        sql = {
            "postgresql": "SET statement_timeout = 12345",
            "mysql": "SET @pool_test = 12345",
        }[connection.vendor]
        # MariaDB answers each change of the user by asking for the password
        # again, and the isolation level has to be set again.
        limit = {"postgresql": 1, "mysql": 3}[connection.vendor]
        for _ in range(3):
            self.query(sql)
            self.assertLessEqual(self.trips_of(self.wrapper.close), limit)
            if self.stats().closed:
                # The driver can't do it: PyMySQL.
                self.skipTest("This driver can't reset a session.")
            self.assertEqual(self.trips_of(self.wrapper.ensure_connection), 0)
        self.assertEqual(self.wire.sessions, 1)
