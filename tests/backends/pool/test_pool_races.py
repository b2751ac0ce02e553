"""
ConnectionPool with a fake driver: what happens at the same time, or is
interrupted. Where a race matters, a test forces the interleaving instead of
hoping for it.
"""

import gc
import itertools
import linecache
import signal
import sys
import threading
import unittest
from collections import deque
from types import SimpleNamespace
from unittest import mock

from django.db.pool import (
    ConnectionPool,
    PoolTimeout,
    deadlock,
    maintenance,
    queueing,
)
from django.db.pool.queueing import _Waiter
from django.db.pool.state import (
    DEAD,
    KEPT,
    NEVER,
    NOT_KEPT,
    UNSETTLED,
    PoolState,
    Waiter,
)

from .fakes import Call, Clock, Connection, borrow, make_pool, wait_for_line, warm
from .pool_cases import (
    BRIEF,
    Interrupt,
    PoolTestCase,
    hook_lock,
    interrupt,
    once_in_line,
)


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
            def note_empty(self):
                # Another thread releases, here of all places, for the second
                # of two looks in vain.
                if slots and state.idle_looks:
                    state.give(slots.pop(), pool.now())
                state.idle_looks += 1

            def __bool__(self):
                if is_empty := not len(self):
                    self.note_empty()
                return not is_empty

            def pop(self):
                try:
                    return super().pop()
                except IndexError:
                    self.note_empty()
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

    def test_two_threads_close_what_is_condemned(self):
        pool = make_pool()
        warm(pool, 2)
        hook_lock(pool, pool.close_condemned)
        pool.drain()
        self.assertPool(pool, size=0)
        self.assertEqual(pool.pooling.server.violations, [])

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


class WakingTests(PoolTestCase):
    """
    Whoever is served is woken at once. It could go unnoticed if not: waiters
    also look by themselves from time to time.
    """

    def make_pool(self, **options):
        self.waiter = _Waiter()
        self.pool = make_pool(**{"max_size": 1, **options})
        return self.pool

    def stand_in_line(self):
        self.pool._state.wait(self.waiter, self.pool.now())

    def assertWoken(self):
        self.assertIs(self.waiter.served, True)
        self.assertIs(self.waiter.wake.acquire(blocking=False), True)

    def test_by_what_happens_to_a_connection(self):
        for name, act in (
            ("release", ConnectionPool.release),
            ("release_dirty", ConnectionPool.release_dirty),
            ("discard", ConnectionPool.discard),
            ("reclaim", lambda pool, lease: pool.reclaim(lease.end())),
            ("resize", lambda pool, lease: pool.resize(max_size=2)),
            ("close", lambda pool, lease: pool.close()),
        ):
            with self.subTest(name):
                pool = self.make_pool()
                pool.pooling.reset_in_time = lambda *args: True
                lease = borrow(pool)
                self.stand_in_line()
                act(pool, lease)
                self.assertWoken()

    def test_by_what_happens_to_a_permit(self):
        def lose(pool, lease):
            lease.end()
            pool.reclaim_lost()

        for name, act in (
            ("reclaim", lambda pool, lease: pool.reclaim(lease.end())),
            ("reclaim_lost", lose),
            ("release", ConnectionPool.release),
            ("failed", lambda pool, lease: pool.failed(lease, OSError())),
            ("opened", lambda pool, lease: pool.opened(lease, object())),
        ):
            with self.subTest(name):
                permit = self.make_pool(max_size=2, connecting=1).acquire()
                self.stand_in_line()
                act(self.pool, permit)
                self.assertWoken()

    def test_by_a_connection_opened_in_advance(self):
        for error in (None, OSError()):
            with self.subTest(error):
                pool = self.make_pool(min_size=1)

                def open(timeout):
                    self.stand_in_line()
                    if error:
                        raise error
                    return object(), None

                pool.pooling.open = open
                pool.maintain()
                self.assertWoken()

    def test_by_one_who_gives_up(self):
        pool = self.make_pool()
        lease = borrow(pool)

        def interrupt():
            self.stand_in_line()
            pool.release(lease)
            raise Interrupt

        once_in_line(pool, interrupt)
        with self.assertRaises(Interrupt):
            pool.acquire()
        self.assertWoken()

    def test_by_one_whose_patience_is_over(self):
        pool = self.make_pool(max_size=3, connecting=2, clock=(clock := Clock()))
        self.held = borrow(pool)
        pool._state.open_time = 1.0

        def stand_in_line():
            pool._state.open_time = None
            self.stand_in_line()
            clock.advance(1)

        once_in_line(pool, stand_in_line)
        self.assertIsNone(pool.acquire().connection)
        self.assertWoken()

    def test_between_a_releases_looks(self):
        pool = self.make_pool()
        lease = borrow(pool)
        stand_in_line = self.stand_in_line

        class Idle(deque):
            def append(self, item):
                # Another thread, here of all places.
                stand_in_line()
                super().append(item)

        pool._state.idle = Idle(pool._state.idle)
        pool._state.take_idle = pool._state.idle.pop
        pool.release(lease)
        self.assertWoken()


class LockTests(PoolTestCase):
    def test_state_is_used_with_the_lock_held(self):
        pool = make_pool(min_size=1, max_size=2)
        pool.pooling.reset_in_time = lambda *args: True
        state = pool._state
        called, unlocked = set(), set()

        def guard(owner, name):
            method = getattr(owner, name)

            def guarded(*args):
                called.add(name)
                if not pool._lock._is_owned():
                    unlocked.add(name)
                return method(*args)

            setattr(owner, name, guarded)

        # These may be called at any time.
        free = {"take", "give", "has_room"}
        names = {name for name in vars(PoolState) if name[0] != "_"} - free
        for name in names:
            guard(state, name)
        guard(pool, "_wake")

        pool.maintain()
        lease = borrow(pool)
        # Its patience ends before its deadline.
        state.open_time = BRIEF
        permit = pool.acquire()
        with self.assertRaises(PoolTimeout):
            pool.acquire(timeout=0)
        with self.assertRaises(PoolTimeout):
            pool.acquire(timeout=BRIEF)
        pool.release(permit)
        pool._settle(pool.now())
        pool.release_dirty(lease)
        pool.discard_dead()
        pool.discard(borrow(pool), DEAD)
        pool.failed(pool.acquire(), OSError())
        pool.discard(borrow(pool))
        pool.reclaim(borrow(pool).end())
        for in_doubt in (False, True):
            lease = borrow(pool)
            lease.slot.session = SimpleNamespace(probe=lambda: in_doubt)
            pool.release(lease)
            pool.discard_dead()
        lease = borrow(pool)
        pool.resize(max_size=1)
        pool.drain()
        pool.release(lease)
        with mock.patch.object(pool.pooling, "open", side_effect=OSError):
            pool.maintain()
        pool.stats()
        pool.close()
        self.assertEqual(names - called, set())
        self.assertEqual(unlocked, set())


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

    def test_while_noting_the_wait(self):
        """Whoever was interrupted isn't believed to wait any more."""
        pool = make_pool(max_size=1)
        lease = borrow(pool)
        # As if this thread had borrowed through a wrapper.
        self.enterContext(mock.patch.object(queueing, "wait_listeners", [lambda: True]))
        for function in ("_find_stuck", "_is_hopeless"):
            with (
                mock.patch.object(deadlock, function, side_effect=Interrupt),
                self.assertRaises(Interrupt),
            ):
                pool.acquire()
            self.assertNotIn(threading.get_ident(), deadlock._waiting)
        leave = mock.Mock(wraps=deadlock.leave, side_effect=[Interrupt, mock.DEFAULT])
        with (
            mock.patch.object(deadlock, "leave", leave),
            self.assertRaises(Interrupt),
        ):
            pool.acquire(timeout=BRIEF)
        self.assertNotIn(threading.get_ident(), deadlock._waiting)
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
        pool.reclaim_lost()
        if taken is not None:
            self.assertIs(taken.connection.closed, False)
            self.assertIs(pool.release(taken), True)
        if lease.slot is not None:
            end(pool, lease)
        self.assertNothingLost(pool, 1)
        return True


class InterruptedReturnTests(PoolTestCase):
    """An exception at any point of giving back loses nothing either."""

    def test_while_waking(self):
        """Nobody is woken twice, which a lock doesn't allow."""
        pool = make_pool(max_size=1)
        lease = borrow(pool)
        call = Call(borrow, pool)
        wait_for_line(pool, 1)
        waiter = next(iter(pool._state.waiters))
        wake = waiter.wake

        def release():
            wake.release()
            raise Interrupt

        # It may not have come to sleep yet.
        waiter.wake = SimpleNamespace(acquire=wake.acquire, release=release)
        with self.assertRaises(Interrupt):
            pool.release(lease)
        pool.release(call.result())
        self.assertNothingLost(pool, 1)

    def test_before_waking(self):
        """Who wasn't woken looks by itself, before long."""
        pool = make_pool(max_size=1)
        lease = borrow(pool)
        call = Call(borrow, pool)
        wait_for_line(pool, 1)
        waiter = next(iter(pool._state.waiters))
        wake = waiter.wake
        waiter.wake = SimpleNamespace(acquire=wake.acquire, release=interrupt)
        with self.assertRaises(Interrupt):
            pool.release(lease)
        self.assertIs(wake.locked(), True)
        pool.release(call.result())
        self.assertNothingLost(pool, 1)

    def test_before_or_after_a_reset(self):
        for has_idle, step in itertools.product(
            (False, True), ("pool.ConnectionPool.reset", "state.PoolState.end_reset")
        ):
            with self.subTest(has_idle=has_idle, step=step):
                pool = make_pool(max_size=2)
                pool.pooling.reset_in_time = lambda *args: True
                lease, other = borrow(pool), borrow(pool)
                if has_idle:
                    pool.release(other)
                with (
                    # What the maintenance thread is given is done here.
                    mock.patch.object(
                        maintenance, "put", lambda step, *args: step(*args)
                    ),
                    # A Mock would remember the slot.
                    mock.patch(f"django.db.pool.{step}", interrupt),
                    self.assertRaises(Interrupt),
                ):
                    pool.release_dirty(lease)
                pool.reclaim_lost()
                pool.release(other)
                self.assertNothingLost(pool, 2)

    def test_after_closing(self):
        pool = make_pool(max_size=1)
        # Twice does no harm with a real driver.
        pool.pooling.close = lambda connection: (
            connection.closed or Connection.close(connection)
        )
        with (
            mock.patch.object(PoolState, "closed_slot", interrupt),
            self.assertRaises(Interrupt),
        ):
            pool.discard(borrow(pool))
        pool.reclaim_lost()
        self.assertNothingLost(pool, 1)


class FastPathTests(PoolTestCase):
    """
    acquire() and release() repeat PoolState.take() and give() line by line.
    They must decide as these do.
    """

    SECONDS = [0, 0.001, 1, 9.9, 10, 10.1, 20, 74, 100, 1000]

    def lent_pool(self):
        # Connections expire between the 75th and the 100th second.
        clock = Clock()
        pool = make_pool(clock, max_size=2, max_idle=10, max_lifetime=100)
        leases = [borrow(pool, owner="owner") for _ in range(2)]
        for lease in leases:
            lease.slot.expires_at = clock.now + 74
        # So that release() notes the last use, as give() always does.
        pool._state.crowded_until = NEVER
        return pool, leases

    def test_acquire(self):
        for seconds in self.SECONDS:
            outcomes = []
            for fast in (False, True):
                pool, leases = self.lent_pool()
                pool.release(leases[0])
                pool._clock.advance(seconds)
                with mock.patch.object(pool, "_acquire_or_wait") as slow:
                    if fast:
                        lease = pool.acquire(owner="owner")
                        slot = None if slow.called else lease.slot
                    else:
                        slot = pool._state.take(pool.now())
                outcomes.append(
                    (
                        slot and (slot.status, slot.leased_at, slot.expires_at),
                        len(pool._state.idle),
                    )
                )
            with self.subTest(seconds=seconds):
                self.assertEqual(*outcomes)

    def test_release(self):
        def drain(pool):
            pool._state.generation = None
            pool._state._note_calm()

        def shrink(pool):
            pool._state.resize(0, 1, pool.now())

        def stand_in_line(pool):
            pool._state.waiters[Waiter()] = None
            pool._state._note_calm()

        def drained_meanwhile(pool):
            self.happens(pool, drain)

        def line_meanwhile(pool):
            self.happens(pool, stand_in_line)

        def nothing(pool):
            pass

        events = drain, shrink, stand_in_line, drained_meanwhile, line_meanwhile
        for event in (nothing, *events):
            for seconds in self.SECONDS:
                outcomes = []
                for fast in (False, True):
                    pool, (lease, _) = self.lent_pool()
                    pool._clock.advance(seconds)
                    event(pool)
                    slot = lease.slot
                    if fast:
                        with (
                            mock.patch.object(pool, "_release") as release,
                            mock.patch.object(pool, "_settle") as settle,
                        ):
                            pool.release(lease)
                        outcome = KEPT
                        if release.called:
                            outcome = NOT_KEPT
                        elif settle.called:
                            outcome = UNSETTLED
                    else:
                        outcome = pool._state.give(slot, pool.now())
                    outcomes.append(
                        (outcome, slot.status, slot.owner, slot.idle_since)
                        + (slot.brief_uses, slot.brief_time, pool._state.last_use)
                        + (pool._state.counters.held, len(pool._state.idle))
                    )
                with self.subTest(event=event.__name__, seconds=seconds):
                    self.assertEqual(*outcomes)

    def happens(self, pool, event):
        """Have something happen while a connection becomes idle."""

        class Idle(deque):
            def append(self, slot):
                super().append(slot)
                event(pool)

        pool._state.idle = Idle(pool._state.idle)
