"""
ConnectionPool with a fake driver: one class per group of rules. Where a race
matters, a test forces the interleaving instead of hoping for it.
"""

import gc
import itertools
import linecache
import signal
import sys
import threading
import unittest
import weakref
from collections import deque
from types import SimpleNamespace
from unittest import mock

from django.db import InterfaceError, OperationalError
from django.db.pool import (
    ConnectionPool,
    LeaseEnded,
    PoolClosed,
    PoolFull,
    PoolTimeout,
    maintenance,
)
from django.db.pool.state import UNSETTLED, Waiter
from django.db.pool.stats import Histogram
from django.test import SimpleTestCase

from .fakes import (
    Call,
    Clock,
    Pooling,
    borrow,
    make_pool,
    wait_for_line,
    wait_until,
    warm,
)

# For a wait that is to end at its deadline, in seconds.
BRIEF = 0.01


class Interrupt(BaseException):
    """Like gevent.Timeout: not an Exception."""


class HookedLock:
    """
    Calls a function each time before a thread takes the lock, except for what
    that function does itself.
    """

    def __init__(self, lock, hook, thread):
        self.lock = lock
        self.hook = hook
        self.thread = thread
        self.busy = False

    def __enter__(self):
        if threading.current_thread() is self.thread and not self.busy:
            self.busy = True
            try:
                self.hook()
            finally:
                self.busy = False
        return self.lock.__enter__()

    def __exit__(self, *exc_info):
        return self.lock.__exit__(*exc_info)


def hook_lock(pool, hook):
    """
    Call a function before this thread takes the pool's lock: that is, after
    it decided something on what it saw without the lock.
    """
    pool._lock = HookedLock(pool._lock, hook, threading.current_thread())


def once_in_line(pool, function):
    """Call a function once, just before a waiter takes the lock again."""
    calls = itertools.count()

    def hook():
        if pool.stats().waiting and not next(calls):
            function()

    hook_lock(pool, hook)


class PoolTestCase(SimpleTestCase):
    def assertPool(self, pool, **numbers):
        stats = pool.stats()
        found = {name: getattr(stats, name) for name in numbers}
        self.assertEqual(found, numbers)

    def assertNothingLost(self, pool, size):
        """As many connections can be had as ever, and no more."""
        self.assertPool(pool, in_use=0, connecting=0, waiting=0)
        if isinstance(pool._clock, Clock):
            pool._clock.run()
        leases = [borrow(pool, timeout=10) for _ in range(size)]
        connections = {lease.connection for lease in leases}
        self.assertEqual(len(connections), size)
        with self.assertRaises(PoolTimeout):
            borrow(pool, timeout=BRIEF)
        for lease in leases:
            self.assertIs(pool.release(lease), True)
        self.assertEqual(pool.pooling.server.violations, [])


class BorrowingTests(PoolTestCase):
    def test_first_lease_is_a_permit_to_open(self):
        pool = make_pool()
        lease = pool.acquire()
        self.assertIsNone(lease.connection)
        self.assertPool(pool, connecting=1, in_use=0, size=1)
        pool.opened(lease, connection := object())
        self.assertIs(lease.connection, connection)
        self.assertPool(pool, connecting=0, in_use=1, size=1)

    def test_returned_connection_is_lent_again(self):
        pool = make_pool()
        pool.release(first := borrow(pool))
        second = pool.acquire()
        self.assertIsNot(second, first)
        self.assertEqual(second.connection.number, 1)
        self.assertPool(pool, acquired=2, reused=1, opened=1)

    def test_pool_opens_nothing_on_its_own_account_while_one_waits(self):
        pool = make_pool(max_size=1)
        pool.pooling.open = mock.Mock()
        lease = borrow(pool)
        call = Call(borrow, pool)
        wait_for_line(pool, 1)
        pool.discard(lease)
        call.result()
        pool.pooling.open.assert_not_called()

    def test_session_is_kept_with_the_connection(self):
        pool = make_pool()
        lease = pool.acquire()
        pool.opened(lease, object(), session := object())
        pool.release(lease)
        self.assertIs(pool.acquire().slot.session, session)

    def test_never_more_than_max_size_those_being_opened_included(self):
        pool = make_pool(max_size=2, connecting=5)
        leases = [pool.acquire(), pool.acquire()]
        with self.assertRaises(PoolTimeout):
            pool.acquire(timeout=BRIEF)
        pool.opened(leases[0], object())
        with self.assertRaises(PoolTimeout):
            pool.acquire(timeout=BRIEF)

    def test_connection_being_closed_counts(self):
        pool = make_pool(max_size=1)
        closing, go_on = threading.Event(), threading.Event()

        def close(connection):
            closing.set()
            go_on.wait(10)

        pool.pooling.close = close
        call = Call(pool.discard, borrow(pool))
        closing.wait(10)
        with self.assertRaises(PoolTimeout):
            pool.acquire(timeout=BRIEF)
        go_on.set()
        call.result()
        self.assertIsNone(pool.acquire(timeout=10).connection)

    def test_slow_close_holds_up_nobody_else(self):
        pool = make_pool(max_size=2)
        closing, go_on = threading.Event(), threading.Event()

        def close(connection):
            closing.set()
            go_on.wait(10)

        pool.pooling.close = close
        call = Call(pool.discard, borrow(pool))
        closing.wait(10)
        for _ in range(3):
            pool.release(borrow(pool, timeout=10))
        go_on.set()
        call.result()

    def test_failing_close_loses_no_slot(self):
        pool = make_pool(max_size=1)
        for error in (OSError("gone"), Interrupt()):
            with self.subTest(error):
                lease = borrow(pool, timeout=10)
                with mock.patch.object(pool.pooling, "close", side_effect=error):
                    try:
                        pool.discard(lease)
                    except Interrupt:
                        pass
                self.assertPool(pool, size=0)
                pool.pooling.server.open.clear()
        self.assertNothingLost(pool, 1)


class LineTests(PoolTestCase):
    def test_waiters_are_served_in_order(self):
        pool = make_pool(max_size=1)
        lease = borrow(pool)
        served, calls = [], []

        def use(number):
            lease = borrow(pool)
            served.append(number)
            pool.release(lease)

        for number in range(5):
            calls.append(Call(use, number))
            wait_for_line(pool, number + 1)
        pool.release(lease)
        for call in calls:
            call.result()
        self.assertEqual(served, [0, 1, 2, 3, 4])

    def test_return_wakes_a_waiter(self):
        pool = make_pool(max_size=1)
        lease = borrow(pool)
        call = Call(borrow, pool)
        wait_for_line(pool, 1)
        connection = lease.connection
        pool.release(lease)
        self.assertIs(call.result().connection, connection)

    def test_failed_connect_wakes_a_waiter(self):
        pool = make_pool(max_size=1)
        permit = pool.acquire()
        call = Call(pool.acquire)
        wait_for_line(pool, 1)
        pool.failed(permit, OSError("refused"))
        self.assertIsNone(call.result().connection)
        self.assertPool(pool, open_failures=1, connecting=1, size=1)

    def test_discarded_connection_wakes_a_waiter(self):
        pool = make_pool(max_size=1)
        lease = borrow(pool)
        call = Call(pool.acquire)
        wait_for_line(pool, 1)
        pool.discard(lease)
        self.assertIsNone(call.result().connection)

    def test_finished_connect_lets_the_next_waiter_connect(self):
        pool = make_pool(max_size=2, connecting=1, clock=Clock())
        permit = pool.acquire()
        call = Call(pool.acquire)
        wait_for_line(pool, 1)
        pool.opened(permit, object())
        self.assertIsNone(call.result().connection)

    def test_growing_wakes_waiters(self):
        pool = make_pool(max_size=1, connecting=5)
        self.held = borrow(pool)
        calls = [Call(pool.acquire) for _ in range(2)]
        wait_for_line(pool, 2)
        pool.resize(max_size=3)
        for call in calls:
            self.assertIsNone(call.result().connection)

    def test_close_wakes_all_waiters(self):
        pool = make_pool(max_size=1)
        lease = borrow(pool)
        calls = [Call(pool.acquire) for _ in range(3)]
        wait_for_line(pool, 3)
        pool.close()
        for call in calls:
            with self.assertRaises(PoolClosed):
                call.result()
        pool.release(lease)
        self.assertPool(pool, size=0, waiting=0)

    def test_waiter_opens_when_its_patience_is_over(self):
        clock = Clock()
        pool = make_pool(clock=clock, max_size=2)
        lease = pool.acquire()
        clock.advance(BRIEF)
        pool.opened(lease, object())
        once_in_line(pool, lambda: clock.advance(BRIEF))
        self.assertIsNone(pool.acquire(timeout=60).connection)

    def test_line_is_bounded(self):
        pool = make_pool(max_size=1, max_waiting=1)
        lease = borrow(pool)
        call = Call(borrow, pool)
        wait_for_line(pool, 1)
        with self.assertRaises(PoolFull) as caught:
            pool.acquire()
        self.assertIn("max_waiting", str(caught.exception))
        self.assertIn("'fake'", str(caught.exception))
        self.assertIsInstance(caught.exception, OperationalError)
        pool.release(lease)
        pool.release(call.result())
        self.assertPool(pool, refused=1, timeouts=0)

    def test_failing_server_gives_its_error_to_those_who_wait(self):
        pool = make_pool(max_size=1, clock=Clock())
        attempts = []

        def attempt(permit=None):
            permit = permit or pool.acquire()
            attempts.append(permit)
            pool.failed(permit, OSError("refused"))
            raise OSError("refused")

        permit = pool.acquire()
        calls = [Call(attempt) for _ in range(8)]
        wait_for_line(pool, 8)
        for call in [Call(attempt, permit), *calls]:
            with self.assertRaisesMessage(OSError, "refused"):
                call.result()
        self.assertLess(len(attempts), 8)
        self.assertPool(pool, size=0, waiting=0, open_failures=len(attempts))
        # And to those who come during the pause.
        with self.assertRaisesMessage(OSError, "refused"):
            pool.acquire()

    def test_nobody_may_wait(self):
        pool = make_pool(max_size=1, max_waiting=0)
        self.held = borrow(pool)
        with self.assertRaises(PoolFull):
            pool.acquire()

    def test_what_waits_is_told(self):
        clock = Clock()
        pool = make_pool(max_size=1, clock=clock)
        lease = borrow(pool)
        call = Call(pool.acquire)
        wait_for_line(pool, 1)
        clock.advance(3)
        self.assertPool(pool, waiting=1, oldest_wait=3.0)
        pool.release(lease)
        call.result()
        self.assertPool(pool, waiting=0, oldest_wait=0.0, waited=1)


class DeadlineTests(PoolTestCase):
    def test_waiting_ends_at_the_deadline(self):
        clock = Clock()
        pool = make_pool(max_size=1, clock=clock, timeout=30)
        self.held = borrow(pool)
        once_in_line(pool, lambda: clock.advance(30))
        with mock.patch("threading.TIMEOUT_MAX", BRIEF):
            with self.assertRaises(PoolTimeout):
                pool.acquire()
        self.assertPool(pool, timeouts=1, waiting=0)

    def test_waiting_does_not_end_before_the_deadline(self):
        clock = Clock()
        pool = make_pool(max_size=1, clock=clock, timeout=30)
        lease = borrow(pool)
        steps = iter([lambda: clock.advance(29.9), lambda: pool.release(lease)])

        def hook():
            if pool.stats().waiting:
                next(steps)()

        hook_lock(pool, hook)
        with mock.patch("threading.TIMEOUT_MAX", BRIEF):
            self.assertIsNotNone(pool.acquire().connection)

    def test_lease_knows_the_deadline(self):
        clock = Clock()
        pool = make_pool(clock=clock, timeout=30)
        self.assertEqual(pool.acquire().deadline, clock() + 30)
        self.assertEqual(pool.acquire(timeout=5).deadline, clock() + 5)
        self.assertEqual(pool.now(), clock())

    def test_one_deadline_covers_a_second_attempt(self):
        """As when the first connection was found dead."""
        clock = Clock()
        pool = make_pool(clock=clock, max_size=1, timeout=30)
        deadline = (lease := borrow(pool)).deadline
        clock.advance(31)
        with self.assertRaises(PoolTimeout):
            pool.acquire(deadline=deadline)
        pool.release(lease)
        self.assertEqual(pool.acquire(deadline=deadline + 5).deadline, deadline + 5)

    def test_deadline_holds_through_a_wait(self):
        pool = make_pool(max_size=1)
        lease = borrow(pool)
        once_in_line(pool, lambda: pool.release(lease))
        deadline = pool.now() + 5
        self.assertEqual(pool.acquire(deadline=deadline).deadline, deadline)

    def test_timeout_of_zero_serves_an_idle_connection(self):
        pool = make_pool()
        warm(pool, 1)
        self.assertIsNotNone(pool.acquire(timeout=0).connection)

    def test_timeout_of_zero_fails_at_once(self):
        pool = make_pool()
        with self.assertRaises(PoolTimeout):
            pool.acquire(timeout=0)
        self.assertPool(pool, size=0, connecting=0, timeouts=1)

    def test_timeout_of_zero_gives_no_permit_for_an_expired_connection(self):
        clock = Clock()
        pool = make_pool(clock=clock, max_idle=10)
        warm(pool, 1)
        clock.advance(11)
        with self.assertRaises(PoolTimeout):
            pool.acquire(timeout=0)
        self.assertPool(pool, size=0, connecting=0)

    def test_timeout_of_zero_is_the_pools_own_too(self):
        pool = make_pool(timeout=0, min_size=1)
        with self.assertRaises(PoolTimeout):
            pool.acquire()
        pool.maintain()
        self.assertIsNotNone(pool.acquire().connection)

    def test_endless_timeout(self):
        pool = make_pool(max_size=1, timeout=float("inf"))
        lease = borrow(pool)
        call = Call(pool.acquire)
        wait_for_line(pool, 1)
        pool.release(lease)
        self.assertIsNotNone(call.result().connection)

    def test_message_says_what_the_pool_looked_like(self):
        clock = Clock()
        pool = make_pool(clock=clock, max_size=3, connecting=3, name="main")
        borrow_first = borrow(pool, owner="the first")
        clock.advance(7)
        borrow_second = borrow(pool, owner="the second")
        permit = pool.acquire(owner="the third")
        with self.assertRaises(PoolTimeout) as caught:
            pool.acquire(timeout=0)
        message = str(caught.exception)
        self.assertIn("'main'", message)
        self.assertIn("at most 3", message)
        self.assertIn("2 are in use", message)
        self.assertIn("0 idle", message)
        self.assertIn("1 being opened", message)
        self.assertIn("0 borrowers are waiting", message)
        self.assertIn("7 s by the first", message)
        del borrow_first, borrow_second, permit

    def test_message_counts_those_who_wait(self):
        pool = make_pool(max_size=1)
        lease = borrow(pool)
        calls = [Call(borrow, pool) for _ in range(2)]
        wait_for_line(pool, 2)
        with self.assertRaisesMessage(PoolTimeout, "2 borrowers are waiting"):
            pool.acquire(timeout=0)
        pool.close()
        for call in calls:
            call.join()
        pool.release(lease)

    def test_last_connect_error_is_the_cause(self):
        pool = make_pool(max_size=1)
        pool.failed(pool.acquire(), OSError("no route to host"))
        permit = pool.acquire()
        for timeout in (0, BRIEF):
            with self.subTest(timeout), self.assertRaises(PoolTimeout) as caught:
                pool.acquire(timeout=timeout)
            self.assertIsInstance(caught.exception.__cause__, OSError)
            self.assertIn("no route to host", str(caught.exception))
        pool.opened(permit, object())
        with self.assertRaises(PoolTimeout) as caught:
            pool.acquire(timeout=BRIEF)
        self.assertIsNone(caught.exception.__cause__)
        self.assertNotIn("no route to host", str(caught.exception))

    def test_connect_error_keeps_no_borrower_alive(self):
        class Wrapper:
            pass

        pool = make_pool()
        wrapper = Wrapper()
        gone = weakref.ref(wrapper)

        def connect(wrapper):
            raise OSError("refused")

        try:
            connect(wrapper)
        except OSError as e:
            pool.failed(pool.acquire(), e)
        del wrapper
        gc.collect()
        self.assertIsNone(gone())

    def test_error_that_cannot_be_copied_is_still_told(self):
        class Odd(Exception):
            def __init__(self, one, two):
                super().__init__("odd")

        pool = make_pool(max_size=1)
        pool.failed(pool.acquire(), Odd(1, 2))
        with self.assertRaisesMessage(PoolTimeout, "odd"):
            pool.acquire(timeout=0)

    def test_errors_are_those_that_django_code_catches(self):
        self.assertTrue(issubclass(PoolTimeout, OperationalError))
        self.assertTrue(issubclass(PoolFull, OperationalError))
        self.assertTrue(issubclass(PoolClosed, InterfaceError))
        self.assertTrue(issubclass(LeaseEnded, InterfaceError))


class RaceTests(PoolTestCase):
    def test_waiter_served_at_its_deadline_takes_the_connection(self):
        """Served after its sleep ended, before it took the lock."""
        clock = Clock()
        pool = make_pool(max_size=1, clock=clock)
        lease = borrow(pool)

        def serve_too_late():
            clock.advance(60)
            pool.release(lease)

        once_in_line(pool, serve_too_late)
        lease = pool.acquire(timeout=BRIEF)
        self.assertIsNotNone(lease.connection)
        pool.release(lease)
        self.assertPool(pool, timeouts=0, idle=1)

    def timed_out_when_served(self, end):
        """
        Have a waiter be served after it decided to give up, before it left.
        """
        clock = Clock()
        pool = make_pool(max_size=1, clock=clock)
        lease = borrow(pool)
        done = []

        def hook():
            stats = pool.stats()
            if stats.waiting and not stats.timeouts:
                clock.advance(60)
            elif stats.timeouts and not done:
                done.append(True)
                end(pool, lease)

        hook_lock(pool, hook)
        with self.assertRaises(PoolTimeout):
            pool.acquire(timeout=BRIEF)
        self.assertEqual(done, [True])
        return pool

    def test_connection_handed_to_a_waiter_that_timed_out_is_not_lost(self):
        pool = self.timed_out_when_served(ConnectionPool.release)
        self.assertPool(pool, idle=1, size=1)
        self.assertNothingLost(pool, 1)

    def test_permit_handed_to_a_waiter_that_timed_out_is_not_lost(self):
        pool = self.timed_out_when_served(ConnectionPool.discard)
        self.assertPool(pool, size=0, connecting=0)
        self.assertNothingLost(pool, 1)

    def test_connection_handed_to_a_waiter_that_timed_out_serves_the_next(self):
        calls = []

        def end(pool, lease):
            calls.append(Call(pool.acquire))
            wait_for_line(pool, 2)
            pool.release(lease)

        pool = self.timed_out_when_served(end)
        pool.release(calls[0].result())
        self.assertPool(pool, idle=1, in_use=0)

    def test_close_and_deadline_at_once(self):
        pool = self.timed_out_when_served(
            lambda pool, lease: (pool.close(), pool.release(lease))
        )
        self.assertPool(pool, size=0, waiting=0)

    def test_two_threads_release_one_lease(self):
        pool = make_pool(max_size=2)
        warm(pool, 1)
        for release in (pool.release, pool.discard):
            for _ in range(100):
                lease = borrow(pool)
                barrier = threading.Barrier(2)

                def end():
                    barrier.wait(10)
                    return release(lease)

                calls = [Call(end), Call(end)]
                results = sorted(call.result() for call in calls)
                self.assertEqual(results, [False, True])
                self.assertPool(pool, in_use=0)
        self.assertNothingLost(pool, 2)

    def test_release_after_another_lent_it_again(self):
        pool = make_pool(max_size=1)
        lease = borrow(pool)
        self.assertIs(pool.release(lease), True)
        taken = pool.acquire()
        self.assertIs(pool.release(lease), False)
        self.assertPool(pool, in_use=1, idle=0)
        pool.release(taken)

    def test_borrower_stands_in_line_between_a_releases_looks(self):
        """It's served although give() saw no line before."""
        pool = make_pool(max_size=1)
        state = pool._state
        slot = borrow(pool).end()
        waiter = Waiter()

        class Idle(deque):
            def append(self, item):
                # Another thread, here of all places, stands in line.
                state.wait(waiter, pool.now())
                super().append(item)

        state.idle = Idle(state.idle)
        state.take_idle = state.idle.pop
        self.assertEqual(state.give(slot, pool.now()), UNSETTLED)
        state.settle(pool.now())
        self.assertIs(waiter.slot, slot)

    def test_release_between_a_borrowers_looks(self):
        """A borrower looks again once it stands in line."""
        pool = make_pool(max_size=1)
        state = pool._state
        slots = [borrow(pool).end()]

        class Idle(deque):
            def pop(self):
                try:
                    return super().pop()
                except IndexError:
                    # Another thread releases, here of all places, for the
                    # second of two looks in vain.
                    if slots and state.idle_looks:
                        state.give(slots.pop(), pool.now())
                    state.idle_looks += 1
                    raise

        state.idle_looks = 0
        state.idle = Idle()
        state.take_idle = state.idle.pop
        self.assertIsNotNone(pool.acquire(timeout=BRIEF).connection)
        self.assertPool(pool, in_use=1, waiting=0)

    def test_pool_closed_between_a_releases_looks(self):
        pool = make_pool(max_size=1)
        lease = borrow(pool)
        state = pool._state

        class Idle(deque):
            def append(self, item):
                # Another thread, here of all places, closes the pool.
                pool.close()
                super().append(item)

        state.idle = Idle(state.idle)
        state.take_idle = state.idle.pop
        pool.release(lease)
        self.assertPool(pool, size=0, idle=0)

    def test_closed_while_waiting_and_served_first(self):
        """A connection handed over before close() is the waiter's to use."""
        pool = make_pool(max_size=1)
        lease = borrow(pool)

        def release_and_close():
            pool.release(lease)
            pool.close()

        once_in_line(pool, release_and_close)
        served = pool.acquire()
        self.assertIs(served.connection.closed, False)
        pool.release(served)
        self.assertPool(pool, size=0)


class InterruptedWaitTests(PoolTestCase):
    """An exception at any point of a wait loses no slot and no connection."""

    interruptions = (KeyboardInterrupt, SystemExit, GeneratorExit, Interrupt)

    def interrupt(self, exception, before=lambda pool, lease: None):
        pool = make_pool(max_size=1)
        lease = borrow(pool)

        def hook():
            before(pool, lease)
            raise exception

        once_in_line(pool, hook)
        with self.assertRaises(exception):
            pool.acquire()
        return pool, lease

    def test_before_being_served(self):
        for exception in self.interruptions:
            with self.subTest(exception):
                pool, lease = self.interrupt(exception)
                self.assertPool(pool, waiting=0, in_use=1)
                pool.release(lease)
                self.assertNothingLost(pool, 1)

    def test_after_being_served_with_a_connection(self):
        for exception in self.interruptions:
            with self.subTest(exception):
                pool, lease = self.interrupt(exception, ConnectionPool.release)
                self.assertPool(pool, waiting=0, in_use=0, idle=1)
                self.assertNothingLost(pool, 1)

    def test_after_being_served_with_a_permit(self):
        for exception in self.interruptions:
            with self.subTest(exception):
                pool, lease = self.interrupt(exception, ConnectionPool.discard)
                self.assertPool(pool, waiting=0, size=0, connecting=0)
                self.assertNothingLost(pool, 1)

    def test_what_it_was_served_goes_to_the_next(self):
        for end in (ConnectionPool.release, ConnectionPool.discard):
            with self.subTest(end):
                calls = []

                def before(pool, lease):
                    calls.append(Call(borrow, pool))
                    wait_for_line(pool, 2)
                    end(pool, lease)

                pool, lease = self.interrupt(Interrupt, before)
                pool.release(calls[0].result())
                self.assertNothingLost(pool, 1)

    def test_after_close(self):
        pool, lease = self.interrupt(Interrupt, lambda pool, lease: pool.close())
        pool.release(lease)
        self.assertPool(pool, size=0, waiting=0)

    def test_while_closing_another_connection(self):
        """
        A borrower that stands in line already closes an expired connection.
        """
        clock = Clock()
        pool = make_pool(max_size=1, max_idle=10, clock=clock)
        warm(pool, 1)
        clock.advance(11)
        with (
            mock.patch.object(pool.pooling, "close", side_effect=Interrupt),
            self.assertRaises(Interrupt),
        ):
            pool.acquire(timeout=BRIEF)
        pool.pooling.server.open.clear()
        self.assertPool(pool, waiting=0, connecting=0, size=0)
        self.assertNothingLost(pool, 1)

    @unittest.skipUnless(hasattr(signal, "pthread_kill"), "Needs pthread_kill().")
    def test_signal(self):
        if threading.current_thread() is not threading.main_thread():
            self.skipTest("Signals arrive in the main thread.")

        def interrupt(signum, frame):
            raise KeyboardInterrupt

        old = signal.signal(signal.SIGUSR1, interrupt)
        self.addCleanup(signal.signal, signal.SIGUSR1, old)
        for _ in range(20):
            pool = make_pool(max_size=1)
            lease = borrow(pool)
            main = threading.get_ident()

            def kill():
                wait_for_line(pool, 1)
                signal.pthread_kill(main, signal.SIGUSR1)

            call = Call(kill)
            with self.assertRaises(KeyboardInterrupt):
                pool.acquire()
            call.result()
            pool.release(lease)
            self.assertNothingLost(pool, 1)

    def test_at_any_line(self):
        for end in (ConnectionPool.release, ConnectionPool.discard):
            for number in itertools.count():
                with self.subTest(end=end.__name__, line=number):
                    if not self.interrupt_at_line(number, end):
                        break
            self.assertGreater(number, 5)

    def interrupt_at_line(self, number, end):
        """
        Interrupt a waiter before a line of its wait is executed. Return
        whether it has that many.
        """
        pool = make_pool(max_size=1)
        abandoned = []
        self.enterContext(
            mock.patch.object(ConnectionPool, "abandon", lambda pool, slot: None)
        )
        pool.abandon = abandoned.append
        lease = borrow(pool)
        once_in_line(pool, lambda: end(pool, lease))
        codes = [
            function.__code__
            for function in (ConnectionPool._acquire_or_wait, ConnectionPool._wait)
        ]
        count = itertools.count()

        def on_call(frame, event, arg):
            return on_line if frame.f_code in codes else None

        def on_line(frame, event, arg):
            filename = frame.f_code.co_filename
            line = linecache.getline(filename, frame.f_lineno).strip()
            # Python takes no signal between entering a context and its body.
            if event == "line" and not line.startswith("with "):
                if next(count) == number:
                    raise Interrupt
            return on_line

        trace = sys.gettrace()
        sys.settrace(on_call)
        try:
            got = pool.acquire()
        except Interrupt as e:
            got = None
            e.__traceback__ = None
        finally:
            sys.settrace(trace)
        if next(count) <= number:
            if got.connection is None:
                pool.opened(got, pool.pooling.server.connect())
            pool.release(got)
            return False
        if got is not None:
            self.fail("The interruption was swallowed.")
        gc.collect()
        # The connection, if it's back, belongs to the next borrower now.
        pool._lock = pool._lock.lock
        stats = pool.stats()
        taken = None
        if stats.size == stats.idle:
            taken = borrow(pool, timeout=10)
        for slot in abandoned:
            pool.reclaim(slot)
        if taken is not None:
            self.assertIs(taken.connection.closed, False)
            self.assertIs(pool.release(taken), True)
        elif lease.slot is None:
            self.assertEqual(len(abandoned), 1)
        if lease.slot is not None:
            end(pool, lease)
        self.assertNothingLost(pool, 1)
        return True


class GivingBackTests(PoolTestCase):
    def test_giving_back_twice_changes_nothing(self):
        for first in ("release", "discard"):
            for second in ("release", "discard"):
                with self.subTest(first=first, second=second):
                    pool = make_pool(max_size=1)
                    lease = borrow(pool)
                    self.assertIs(getattr(pool, first)(lease), True)
                    other = borrow(pool)
                    self.assertIs(getattr(pool, second)(lease), False)
                    self.assertIs(other.connection.closed, False)
                    self.assertPool(pool, in_use=1, idle=0, size=1)
                    pool.release(other)

    def test_failing_twice_changes_nothing(self):
        pool = make_pool(max_size=1)
        lease = pool.acquire()
        pool.failed(lease, OSError())
        other = pool.acquire()
        pool.failed(lease, OSError())
        self.assertPool(pool, connecting=1, size=1, open_failures=1)
        pool.opened(other, object())

    def test_foreign_pool_refuses(self):
        ours, theirs = make_pool(name="ours"), make_pool(name="theirs")
        lease = borrow(ours)
        permit = ours.acquire()
        for end in (
            lambda: theirs.release(lease),
            lambda: theirs.discard(lease),
            lambda: theirs.failed(permit, OSError()),
        ):
            with self.assertRaisesMessage(ValueError, "'ours'"):
                end()
        self.assertPool(theirs, size=0)
        self.assertPool(ours, in_use=1, connecting=1)
        self.assertIs(ours.release(lease), True)
        ours.failed(permit, OSError())

    def test_ended_lease_reaches_nothing(self):
        pool = make_pool()
        lease = borrow(pool)
        self.assertIs(lease.connection.closed, False)
        pool.release(lease)
        with self.assertRaisesMessage(LeaseEnded, "'fake'"):
            lease.connection
        self.assertIn("ended", repr(lease))

    def test_discarded_connection_is_closed(self):
        pool = make_pool()
        lease = borrow(pool)
        connection = lease.connection
        pool.discard(lease, "unclean")
        self.assertIs(connection.closed, True)
        self.assertEqual(pool.stats().closed, {"unclean": 1})
        self.assertPool(pool, size=0)

    def assertReclaimed(self, pool):
        def reclaimed():
            maintenance.wake()
            return pool.stats().size == 0

        wait_until(reclaimed)
        self.assertNothingLost(pool, pool.stats().max_size)

    def test_dropped_lease_is_reclaimed(self):
        pool = make_pool(max_size=1)
        lease = borrow(pool)
        connection = lease.connection
        del lease
        self.assertReclaimed(pool)
        # Nobody knows what state it was left in.
        self.assertIs(connection.closed, True)
        self.assertPool(pool, abandoned=1)

    def test_dropped_permit_is_reclaimed(self):
        pool = make_pool(max_size=1)
        lease = pool.acquire()
        del lease
        self.assertReclaimed(pool)

    def test_lease_dropped_in_a_cycle_is_reclaimed(self):
        pool = make_pool(max_size=1)
        lease = borrow(pool)
        cycle = [lease]
        cycle.append(cycle)
        del lease, cycle
        gc.collect()
        self.assertReclaimed(pool)

    def test_lease_of_a_thread_that_died_is_reclaimed(self):
        pool = make_pool(max_size=1)

        def die():
            lease = borrow(pool)
            raise OSError(str(lease))

        call = Call(die)
        with self.assertRaises(OSError):
            call.result()
        call.error = None
        gc.collect()
        self.assertReclaimed(pool)

    def test_reclaimed_connection_serves_who_waits(self):
        pool = make_pool(max_size=1)
        lease = borrow(pool)
        call = Call(borrow, pool)
        wait_for_line(pool, 1)
        del lease
        maintenance.wake()
        pool.release(call.result())
        self.assertPool(pool, abandoned=1)

    def test_dropping_a_lease_takes_no_lock(self):
        """A destructor may run while this very thread holds the lock."""
        pool = make_pool(max_size=1)
        lease = borrow(pool)
        with pool._lock:
            del lease
        self.assertReclaimed(pool)

    def test_lease_that_ended_is_not_reclaimed(self):
        for end in ("release", "discard"):
            with (
                self.subTest(end),
                mock.patch.object(maintenance, "put") as put,
            ):
                pool = make_pool()
                lease = borrow(pool)
                getattr(pool, end)(lease)
                del lease
                permit = pool.acquire()
                if permit.connection is None:
                    pool.failed(permit, OSError())
                else:
                    pool.release(permit)
                del permit
                put.assert_not_called()


class IdleTestedTests(PoolTestCase):
    """discard_dead()"""

    def warm(self, pool, *probes):
        leases = []
        for probe in probes:
            leases.append(lease := pool.acquire())
            session = SimpleNamespace(probe=probe)
            pool.opened(lease, pool.pooling.server.connect(), session)
        for lease in leases:
            pool.release(lease)

    def test_those_in_doubt_are_closed(self):
        pool = make_pool()
        self.warm(pool, None, lambda: [], lambda: [1], lambda: [1])
        pool.discard_dead()
        self.assertPool(pool, size=2, idle=2, reused=0)
        self.assertEqual(pool.stats().closed, {"dead": 2})

    def test_order_is_kept(self):
        for order, expected in (("lifo", [3, 2, 1]), ("fifo", [1, 2, 3])):
            with self.subTest(order):
                pool = make_pool(order=order)
                self.warm(pool, None, None, None)
                pool.discard_dead()
                leases = [pool.acquire() for _ in range(3)]
                numbers = [lease.connection.number for lease in leases]
                self.assertEqual(numbers, expected)

    def test_being_tested_is_no_use(self):
        clock = Clock()
        pool = make_pool(clock=clock, max_idle=10)
        self.warm(pool, None)
        clock.advance(9)
        pool.discard_dead()
        clock.advance(9)
        pool.maintain()
        self.assertPool(pool, size=0)

    def test_failing_probe_loses_nothing(self):
        for error in (OSError("bad descriptor"), Interrupt()):
            with self.subTest(error):
                pool = make_pool(max_size=3)
                probe = mock.Mock(side_effect=error)
                self.warm(pool, None, probe, None)
                try:
                    pool.discard_dead()
                except (OSError, Interrupt):
                    pass
                self.assertNothingLost(pool, 3)


class CloseTests(PoolTestCase):
    def test_idle_connections_are_closed(self):
        pool = make_pool()
        warm(pool, 2)
        pool.close()
        self.assertEqual(pool.pooling.server.open, set())
        self.assertPool(pool, size=0)
        self.assertEqual(pool.stats().closed, {"pool closed": 2})

    def test_connection_in_use_is_closed_on_return(self):
        pool = make_pool()
        lease = borrow(pool)
        pool.close()
        self.assertIs((connection := lease.connection).closed, False)
        pool.release(lease)
        self.assertIs(connection.closed, True)
        self.assertPool(pool, size=0)

    def test_connection_being_opened_is_closed_on_return(self):
        pool = make_pool()
        permit = pool.acquire()
        pool.close()
        pool.opened(permit, connection := pool.pooling.server.connect())
        pool.release(permit)
        self.assertIs(connection.closed, True)
        self.assertPool(pool, size=0)

    def test_connect_that_fails_after_close(self):
        pool = make_pool()
        permit = pool.acquire()
        pool.close()
        pool.failed(permit, OSError())
        self.assertPool(pool, size=0)

    def test_closed_pool_lends_nothing(self):
        pool = make_pool(min_size=1)
        warm(pool, 1)
        pool.close()
        for timeout in (None, 0, 1):
            with self.subTest(timeout), self.assertRaises(PoolClosed):
                pool.acquire(timeout=timeout)
        pool.maintain()
        self.assertPool(pool, size=0)

    def test_closing_twice(self):
        pool = make_pool()
        warm(pool, 1)
        pool.close()
        pool.close()
        self.assertPool(pool, size=0)
        self.assertIs(pool.closed, True)

    def test_drain_replaces_all_connections(self):
        pool = make_pool(connecting=3)
        used, permit = borrow(pool), pool.acquire()
        warm(pool, 1)
        pool.drain()
        self.assertPool(pool, idle=0, size=2)
        pool.opened(permit, pool.pooling.server.connect())
        pool.release(used)
        pool.release(permit)
        self.assertPool(pool, size=0)
        warm(pool, 1)
        self.assertPool(pool, idle=1)
        self.assertEqual(pool.stats().closed, {"drained": 3})

    def test_drained_connection_serves_no_waiter(self):
        pool = make_pool(max_size=1)
        lease = borrow(pool)
        connection = lease.connection
        call = Call(borrow, pool)
        wait_for_line(pool, 1)
        pool.drain()
        pool.release(lease)
        self.assertIsNot(call.result().connection, connection)


class ResizeTests(PoolTestCase):
    def test_shrinking(self):
        pool = make_pool(connecting=4)
        leases = [borrow(pool) for _ in range(4)]
        pool.release(leases.pop())
        pool.resize(max_size=2)
        self.assertPool(pool, size=3, max_size=2, idle=0)
        with self.assertRaises(PoolTimeout):
            pool.acquire(timeout=BRIEF)
        for lease in leases:
            pool.release(lease)
        self.assertPool(pool, size=2, idle=2)
        self.assertNothingLost(pool, 2)

    def test_growing(self):
        pool = make_pool(max_size=1)
        pool.resize(max_size=3)
        self.assertNothingLost(pool, 3)

    def test_min_size_is_kept_when_not_given(self):
        pool = make_pool(min_size=1, max_size=5)
        pool.resize(max_size=3)
        self.assertPool(pool, min_size=1, max_size=3)
        pool.resize(min_size=2)
        self.assertPool(pool, min_size=2, max_size=3)

    def test_wrong_limits_are_refused(self):
        pool = make_pool(min_size=1, max_size=5)
        for limits in (
            {"max_size": 0},
            {"min_size": -1},
            {"min_size": 6},
            {"min_size": 3, "max_size": 2},
            {"max_size": 2.5},
            {"max_size": float("nan")},
            {"max_size": True},
            {"min_size": "2"},
        ):
            with self.subTest(limits), self.assertRaises((ValueError, TypeError)):
                pool.resize(**limits)
            self.assertPool(pool, min_size=1, max_size=5)


class MaintenanceTests(PoolTestCase):
    def test_min_size_is_brought_up(self):
        pool = make_pool(min_size=2, connecting=1)
        pool.maintain()
        self.assertPool(pool, idle=2, opened=2, acquired=0)

    def test_connections_opened_in_advance_serve_who_waits(self):
        pool = make_pool(min_size=1, max_size=1)
        opening, go_on = threading.Event(), threading.Event()

        def slow_open(timeout):
            opening.set()
            go_on.wait(10)
            return pool.pooling.server.connect(), None

        pool.pooling.open = slow_open
        filling = Call(pool.maintain)
        opening.wait(10)
        call = Call(pool.acquire)
        wait_for_line(pool, 1)
        go_on.set()
        self.assertIsNotNone(call.result().connection)
        filling.result()

    def test_failing_to_open_in_advance_lets_who_waits_try(self):
        pool = make_pool(min_size=1, max_size=1)
        opening, go_on = threading.Event(), threading.Event()

        def slow_open(timeout):
            opening.set()
            go_on.wait(10)
            raise OSError("refused")

        pool.pooling.open = slow_open
        filling = Call(pool.maintain)
        opening.wait(10)
        call = Call(pool.acquire)
        wait_for_line(pool, 1)
        go_on.set()
        self.assertIsNone(call.result().connection)
        filling.result()

    def test_failing_attempts_are_spaced_out_and_end(self):
        clock = Clock()
        pool = make_pool(clock=clock, min_size=1, reconnect_timeout=60)
        attempts = []

        def refuse(timeout):
            attempts.append(clock())
            raise OSError("refused")

        pool.pooling.open = refuse
        with self.assertLogs("django.db.pool", "WARNING") as logs:
            for _ in range(1000):
                due_in = pool.maintain()
                if due_in is None or due_in == float("inf"):
                    break
                self.assertGreaterEqual(due_in, 0)
                clock.advance(due_in + 0.001)
        self.assertEqual(len(logs.output), 1)
        self.assertPool(pool, size=0, open_failures=len(attempts))
        self.assertLessEqual(len(attempts), 12)
        self.assertGreaterEqual(attempts[-1] - attempts[0], 60)
        pauses = [b - a for a, b in zip(attempts, attempts[1:])]
        self.assertLess(pauses[0], 1.1)
        self.assertGreater(pauses[-1], 10)
        # A borrower that succeeds brings it back.
        clock.advance(10)
        pool.pooling.open = Pooling(pool.pooling.server).open
        lease = borrow(pool)
        pool.resize(min_size=2)
        pool.maintain()
        self.assertPool(pool, idle=1, in_use=1)
        pool.release(lease)

    def test_interrupted_open_loses_no_slot(self):
        pool = make_pool(min_size=1, max_size=1)
        with mock.patch.object(pool.pooling, "open", side_effect=Interrupt):
            with self.assertRaises(Interrupt):
                pool.maintain()
        self.assertNothingLost(pool, 1)

    def test_unused_connections_are_closed_when_due(self):
        clock = Clock()
        pool = make_pool(clock=clock, max_idle=10)
        self.assertIsNone(pool.maintain())
        warm(pool, 2)
        due_in = pool.maintain()
        self.assertLessEqual(due_in, 10)
        clock.advance(9.9)
        pool.maintain()
        self.assertPool(pool, idle=2)
        clock.advance(0.2)
        self.assertIsNone(pool.maintain())
        self.assertPool(pool, size=0)
        self.assertEqual(pool.stats().closed, {"max_idle": 2})

    def test_maintenance_always_moves_on(self):
        """It never asks to come back at once without having done anything."""
        clock = Clock(1e6 + 0.1)
        pool = make_pool(clock=clock, max_idle=0.1, min_size=1, max_lifetime=1.7)
        warm(pool, 2)
        for _ in range(100):
            due_in = pool.maintain()
            self.assertGreater(due_in, 0)
            clock.advance(due_in)

    def test_expired_connections_are_replaced(self):
        clock = Clock()
        pool = make_pool(clock=clock, min_size=1, max_lifetime=10)
        pool.maintain()
        clock.advance(10)
        pool.maintain()
        self.assertPool(pool, idle=1, opened=2)
        self.assertEqual(pool.stats().closed, {"max_lifetime": 1})


class ForkTests(PoolTestCase):
    """forget(), as called in the child."""

    def test_child_starts_again_without_the_parents_connections(self):
        pool = make_pool(max_size=2, connecting=5)
        used = borrow(pool)
        warm(pool, 1)
        connections = set(pool.pooling.server.open)
        pool.forget()
        self.assertPool(pool, size=0)
        self.assertEqual(set(pool.pooling.forgotten), connections)
        self.assertEqual(pool.pooling.server.open, connections)
        # What was borrowed ends without effect.
        self.assertIs(pool.release(used), False)
        self.assertPool(pool, size=0)
        self.assertNothingLost(pool, 2)

    def test_lease_of_the_parent_is_not_reclaimed(self):
        pool = make_pool(max_size=2)
        lease, permit = borrow(pool), pool.acquire()
        slots = [lease.slot, permit.slot]
        pool.forget()
        del lease, permit
        for slot in slots:
            pool.reclaim(slot)
        self.assertPool(pool, size=0, abandoned=0, open_failures=0)
        self.assertEqual(len(pool.pooling.server.open), 1)

    def test_lock_held_by_another_thread_of_the_parent_is_no_trouble(self):
        pool = make_pool()
        pool._lock.acquire()
        pool.forget()
        self.assertIsNotNone(borrow(pool).connection)

    def test_parents_line_is_forgotten(self):
        pool = make_pool(max_size=1)
        lease = borrow(pool)
        call = Call(pool.acquire)
        wait_for_line(pool, 1)
        state = pool._state
        pool.forget()
        self.assertPool(pool, waiting=0)
        # Only here: a child has no such thread.
        pool._state, forgotten = state, pool._state
        lease.slot.status = "leased"
        pool.release(lease)
        call.result()
        pool._state = forgotten

    def test_closed_pool_stays_closed(self):
        pool = make_pool()
        pool.close()
        pool.forget()
        with self.assertRaises(PoolClosed):
            pool.acquire()

    def test_limits_stay_as_they_were_changed(self):
        pool = make_pool(max_size=1)
        pool.resize(min_size=2, max_size=5)
        pool.forget()
        self.assertPool(pool, min_size=2, max_size=5)


class StatsTests(PoolTestCase):
    def test_everything_is_counted(self):
        clock = Clock()
        pool = make_pool(clock=clock, max_size=1, min_size=0)
        pool.failed(pool.acquire(), OSError())
        lease = pool.acquire()
        clock.advance(2)
        pool.opened(lease, pool.pooling.server.connect())
        clock.advance(4)
        pool.release(lease)
        pool.discard(pool.acquire(), "broken")
        self.assertPool(
            pool,
            name="fake",
            acquired=2,
            reused=1,
            opened=1,
            open_failures=1,
            closed={"broken": 1},
            waited=0,
            refused=0,
            timeouts=0,
        )
        stats = pool.stats()
        self.assertEqual((stats.open.count, stats.open.total), (1, 2.0))
        self.assertEqual((stats.use.count, stats.use.total), (2, 4.0))

    def test_snapshot_does_not_change(self):
        pool = make_pool()
        before = pool.stats()
        pool.discard(borrow(pool))
        self.assertEqual(before.closed, {})
        self.assertEqual((before.size, before.acquired), (0, 0))

    def test_histogram(self):
        buckets = [0] * 10
        buckets[3], buckets[5] = 3, 1
        histogram = Histogram.read(buckets, 2.0)
        self.assertEqual(histogram.counts, ((8e-6, 3), (16e-6, 0), (32e-6, 1)))
        self.assertEqual((histogram.count, histogram.mean), (4, 0.5))
        self.assertEqual(histogram.quantile(0.5), 8e-6)
        self.assertEqual(histogram.quantile(1), 32e-6)

    def test_empty_histogram(self):
        histogram = Histogram.read([0] * 10, 0.0)
        self.assertEqual(histogram, Histogram((), 0, 0.0))
        self.assertEqual((histogram.mean, histogram.quantile(0.9)), (0.0, 0.0))

    def test_repr_shows_the_numbers(self):
        pool = make_pool(name="main")
        lease = borrow(pool)
        warm(pool, 1)
        for text in ("'main'", "size=2", "idle=1", "waiting=0"):
            self.assertIn(text, repr(pool))
        self.assertIn("leased", repr(lease))
