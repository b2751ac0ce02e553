"""ConnectionPool with a fake driver: borrowing, the line, deadlines."""

import gc
import weakref
from types import SimpleNamespace
from unittest import mock

from django.db import InterfaceError, OperationalError
from django.db.pool import (
    LeaseEnded,
    PoolClosed,
    PoolFull,
    PoolTimeout,
    maintenance,
)
from django.db.pool.queueing import _Waiter

from .fakes import Call, Clock, borrow, make_pool, wait_for_line, warm
from .pool_cases import (
    BRIEF,
    Interrupt,
    PoolTestCase,
    SlowCall,
    hook_lock,
    once_in_line,
)


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
        pool.pooling.close = close = SlowCall()
        call = Call(pool.discard, borrow(pool))
        close.begun.wait(10)
        with self.assertRaises(PoolTimeout):
            pool.acquire(timeout=BRIEF)
        close.go_on.set()
        call.result()
        self.assertIsNone(pool.acquire(timeout=10).connection)

    def test_slow_close_holds_up_nobody_else(self):
        pool = make_pool(max_size=2)
        pool.pooling.close = close = SlowCall()
        call = Call(pool.discard, borrow(pool))
        close.begun.wait(10)
        for _ in range(3):
            pool.release(borrow(pool, timeout=10))
        # It's still at it.
        self.assertIs(call.is_alive(), True)
        close.go_on.set()
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

    def test_patience_does_not_use_up_the_timeout(self):
        clock = Clock()
        pool = make_pool(clock=clock, max_size=2)
        lease = pool.acquire()
        clock.advance(0.1)
        pool.opened(lease, object())
        # No time passes: it would wait forever.
        self.assertIsNone(pool.acquire(timeout=0.1).connection)

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

    def test_only_the_first_in_line_has_the_lost_looked_for(self):
        """At growing intervals: it's work for which everybody else pauses."""
        clock = Clock()
        pool = make_pool(max_size=1, clock=clock)
        self.held = borrow(pool)
        waiters = [_Waiter(), _Waiter()]
        # They sleep on the pool's clock.
        wake = SimpleNamespace(acquire=lambda timeout: clock.advance(timeout))
        for waiter in waiters:
            waiter.wake = wake
            pool._state.wait(waiter, clock())
        for waiter, expected in zip(waiters, ([0.1, 0.3, 0.9, 1.9, 2.9], [])):
            start = waiter.since = clock()
            looked_at = []

            def put(step, argument):
                looked_at.append(clock() - start)

            with (
                mock.patch.object(maintenance, "put", put),
                mock.patch.object(maintenance, "wake"),
                self.assertRaises(PoolTimeout),
            ):
                pool._sleep(waiter, start + 3.5, 3.5)
            self.assertEqual([round(at, 3) for at in looked_at], expected)

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

    def test_deadline_is_checked(self):
        """As by who has found the first connection dead."""
        clock = Clock()
        pool = make_pool(clock=clock)
        pool.check_deadline(clock() + 0.1)
        self.assertPool(pool, timeouts=0)
        with self.assertRaises(PoolTimeout):
            pool.check_deadline(clock())
        self.assertPool(pool, timeouts=1)

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
        # Who gives up doesn't wait any more.
        with self.assertRaisesMessage(PoolTimeout, "2 borrowers are waiting"):
            pool.acquire(timeout=BRIEF)
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
