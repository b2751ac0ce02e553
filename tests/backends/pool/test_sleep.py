"""ConnectionPool with a fake driver: how a borrower sleeps that must wait."""

import contextlib
from unittest import mock

from django.db.pool import PoolClosed
from django.db.pool import pool as pool_module
from django.db.pool import queueing
from django.test import SimpleTestCase

from .fakes import Call, Clock, borrow, make_pool, wait_for_line, wait_until


class SleepTests(SimpleTestCase):
    """Who finds nothing sleeps as seldom as possible."""

    def setUp(self):
        self.clock = Clock()
        self.pool = make_pool(max_size=1, clock=self.clock)

    def use_in_a_crowd(self, seconds):
        self.pool._state.crowded_until = self.clock() + seconds + 1
        self.use(seconds)

    def use(self, seconds):
        lease = borrow(self.pool)
        self.clock.advance(seconds)
        self.pool.release(lease)

    def count_naps(self, sleep=lambda seconds: None):
        """Return how often a borrower sleeps that finds nothing."""
        self.held = borrow(self.pool)
        with (
            mock.patch.object(queueing.time, "sleep", side_effect=sleep) as naps,
            mock.patch.object(self.pool, "_wait"),
            contextlib.suppress(AttributeError),
        ):
            # There's no slot without a wait.
            self.pool.acquire()
        self.pool.release(self.held)
        return naps.call_count

    def test_no_nap_without_experience(self):
        # How long a use was is of no interest while there are enough.
        self.use(0)
        self.assertEqual(self.count_naps(), 0)

    def test_a_nap_where_uses_are_short(self):
        self.use_in_a_crowd(queueing.NAP / 2)
        self.assertEqual(self.count_naps(), 1)

    def test_no_nap_where_uses_are_long(self):
        self.use_in_a_crowd(queueing.NAP * 2)
        self.assertEqual(self.count_naps(), 0)

    def test_nobody_joins_a_line_that_moves_fast(self):
        self.use_in_a_crowd(0)
        waiters = self.pool._state.waiters
        naps = []

        def sleep(seconds):
            naps.append(seconds)
            if len(naps) == 3:
                waiters.clear()

        waiters[queueing._Waiter()] = None
        self.assertEqual(self.count_naps(sleep), 3)

    def test_naps_end(self):
        self.use_in_a_crowd(0)
        waiters = self.pool._state.waiters
        waiters[waiter := queueing._Waiter()] = None
        waiter.since = waiter.patient_until = self.clock()
        self.assertEqual(self.count_naps(), queueing.MOST_NAPS)

    def test_naps_end_when_a_use_was_long(self):
        """Those who come now would be served before who naps."""
        self.use_in_a_crowd(0)
        waiters = self.pool._state.waiters
        waiters[waiter := queueing._Waiter()] = None
        waiter.since = waiter.patient_until = self.clock()
        naps = []

        def sleep(seconds):
            naps.append(seconds)
            if len(naps) == 2:
                # As of a connection that's given back.
                self.pool._state.last_use = queueing.NAP

        self.assertEqual(self.count_naps(sleep), 2)

    def pauses(self, uses):
        """Return how often somebody pauses who borrows so many times."""
        idle = []

        def sleep(seconds):
            self.assertEqual(seconds, queueing.PAUSE)
            # It holds nothing meanwhile.
            idle.append(self.pool.stats().idle)

        with mock.patch.object(queueing.time, "sleep", sleep):
            for _ in range(uses):
                self.use(0)
        self.assertEqual(set(idle), {1} if idle else set())
        return len(idle)

    def test_turns_end_while_there_are_more_borrowers_than_connections(self):
        turn = pool_module.TURN + 1
        self.assertEqual(self.pauses(3 * turn), 0)
        # Somebody finds nothing.
        self.count_naps()
        self.assertEqual(self.pauses(3 * turn), 3)
        self.clock.advance(queueing.CROWDED)
        self.assertEqual(self.pauses(3 * turn), 0)

    def test_a_turn_does_not_end_with_a_long_use(self):
        self.count_naps()
        for _ in range(3 * (pool_module.TURN + 1)):
            with mock.patch.object(
                queueing.time, "sleep", side_effect=ZeroDivisionError
            ):
                self.pool._state.crowded_until = self.clock() + 1
                self.use(0.01)

    def test_who_looks_before_being_woken_learns_why_it_was_turned_away(self):
        waiter = queueing._Waiter()
        waiter.since = waiter.patient_until = self.clock()
        # As _turn_away() leaves it, until _wake() is called.
        waiter.served = True

        class Lock:
            """Its holder has said why before it lets go."""

            def __enter__(self):
                waiter.refusal = PoolClosed

            def __exit__(self, *exc_info):
                pass

        with (
            mock.patch.object(self.pool, "_lock", Lock()),
            self.assertRaises(PoolClosed),
        ):
            self.pool._wait(waiter, self.clock() + 1, 1, holds=False)

    def wait(self, after):
        """
        Have a borrower wait for a connection in use. Return for how long it
        meant to sleep at first.

        after: called when it woke up.
        """
        asked = []

        class WatchedLock:
            def __init__(self, lock):
                self.lock = lock
                self.release = lock.release

            def acquire(self, timeout):
                asked.append(timeout)
                woken = self.lock.acquire(timeout=10)
                after()
                return woken

        class WatchedWaiter(queueing._Waiter):
            __slots__ = ()

            def __init__(self):
                super().__init__()
                self.wake = WatchedLock(self.wake)

        lease = borrow(self.pool)
        with mock.patch.object(queueing, "_Waiter", WatchedWaiter):
            call = Call(self.pool.acquire)
            wait_for_line(self.pool, 1)
        wait_until(lambda: asked)
        self.pool.release(lease)
        self.pool.release(call.result())
        self.assertEqual(len(asked), 1)
        return asked[0]

    def test_a_full_pool_gives_no_reason_to_look_before_a_return(self):
        permit = self.pool.acquire()
        self.clock.advance(queueing.LOOK_AFTER / 10)
        self.pool.opened(permit, object())
        self.pool.release(permit)
        # Longer than opening another takes.
        self.assertAlmostEqual(self.wait(lambda: None), queueing.LOOK_AFTER)

    def test_a_use_begins_when_its_borrower_runs(self):
        """Not when it's woken, which may be long before."""
        self.wait(lambda: self.clock.advance(5))
        self.assertEqual(self.pool.stats().use.total, 0)
