"""
The pool's logic on a virtual clock: examples, one rule each, and a search
through random histories.
"""

import heapq
import random
import unittest
from contextlib import nullcontext
from unittest import mock

from django.db.pool.options import PoolOptions
from django.db.pool.state import (
    BROKEN,
    CLOSING,
    DRAINED,
    EXPIRED,
    IDLE,
    LEASED,
    LIFETIME_JITTER,
    NEVER,
    OPENING,
    POOL_CLOSED,
    RESETTING,
    SHRUNK,
    UNUSED,
    PoolState,
    Waiter,
)
from django.test import SimpleTestCase

try:
    from hypothesis import HealthCheck, settings
    from hypothesis import strategies as st
    from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
except ImportError:
    HAS_HYPOTHESIS = False
else:
    HAS_HYPOTHESIS = True


def make_state(jitter=0.0, **options):
    return PoolState(PoolOptions(**{"name": "test", **options}), lambda: jitter)


def borrow(state, now=0.0):
    """Return a slot with a connection, opened if need be, in no time."""
    slot = state.acquire(now)
    if slot.status == OPENING:
        state.opened(slot, object(), now)
    return slot


def queue(state, count=1, now=0.0):
    """Return waiters that were put in line."""
    waiters = [Waiter() for _ in range(count)]
    for waiter in waiters:
        assert state.wait(waiter, now)
    return waiters


def finish_closing(state, now=0.0):
    """Close what the state wants closed. Return the reasons."""
    reasons = []
    while state.to_close:
        slot = state.to_close.pop()
        reasons.append(slot.reason)
        state.closed_slot(slot, now)
    return reasons


class BorrowingTests(SimpleTestCase):
    def test_first_borrower_gets_a_permit(self):
        state = make_state()
        slot = state.acquire(0.0)
        self.assertEqual((slot.status, slot.connection), (OPENING, None))

    def test_idle_connection_is_served_at_once(self):
        state = make_state()
        state.release(slot := borrow(state), 1.0)
        self.assertIs(state.acquire(2.0), slot)
        self.assertEqual((slot.status, len(state.idle)), (LEASED, 0))

    def test_take_serves_an_idle_connection(self):
        state = make_state()
        self.assertIsNone(state.take(0.0))
        state.release(slot := borrow(state), 1.0)
        self.assertIs(state.take(2.0), slot)
        self.assertEqual((slot.status, len(state.idle)), (LEASED, 0))

    def test_take_leaves_what_is_too_old_to_acquire(self):
        state = make_state(max_idle=10.0, max_lifetime=100.0)
        state.release(borrow(state), 0.0)
        self.assertIsNone(state.take(10.5))
        self.assertEqual(len(state.idle), 1)
        state.acquire(10.5)
        self.assertEqual(finish_closing(state), [UNUSED])

    def test_lifo_serves_the_one_used_last(self):
        state = make_state(order="lifo", connecting=2)
        first, second = borrow(state), borrow(state)
        state.release(first, 1.0)
        state.release(second, 2.0)
        self.assertEqual([state.acquire(3.0), state.acquire(3.0)], [second, first])

    def test_fifo_serves_the_one_idle_longest(self):
        state = make_state(order="fifo", connecting=2)
        first, second = borrow(state), borrow(state)
        state.release(first, 1.0)
        state.release(second, 2.0)
        self.assertEqual([state.acquire(3.0), state.acquire(3.0)], [first, second])

    def test_never_more_than_max_size(self):
        state = make_state(max_size=2, connecting=5)
        self.assertIsNotNone(state.acquire(0.0))
        self.assertIsNotNone(state.acquire(0.0))
        self.assertIsNone(state.acquire(0.0))

    def test_connection_being_closed_counts(self):
        state = make_state(max_size=1)
        state.discard(borrow(state), BROKEN, 0.0)
        self.assertIsNone(state.acquire(0.0))
        self.assertEqual(finish_closing(state), [BROKEN])
        self.assertIsNotNone(state.acquire(0.0))

    def test_connects_in_flight_are_bounded(self):
        state = make_state(connecting=1)
        slot = state.acquire(0.0)
        self.assertIsNone(state.acquire(0.0))
        state.opened(slot, object(), 0.0)
        self.assertIsNotNone(state.acquire(0.0))

    def test_borrower_that_may_not_wait_gets_no_permit(self):
        state = make_state()
        self.assertIsNone(state.acquire_idle(0.0))
        state.release(slot := borrow(state), 0.0)
        self.assertIs(state.acquire_idle(0.0), slot)

    def test_borrower_that_may_not_wait_gets_no_permit_for_an_expired_one(self):
        state = make_state(max_idle=10.0)
        state.release(borrow(state), 0.0)
        self.assertIsNone(state.acquire_idle(11.0))
        self.assertEqual(state.opening, 0)


class WaitingTests(SimpleTestCase):
    def test_returned_connection_goes_to_the_head_of_the_line(self):
        state = make_state(max_size=1)
        slot = borrow(state)
        first, second = queue(state, 2)
        state.release(slot, 1.0)
        self.assertEqual((first.slot, second.slot), (slot, None))
        self.assertEqual(state.to_wake, [first])

    def test_nobody_is_served_past_the_line(self):
        state = make_state(max_size=1)
        slot = borrow(state)
        (waiter,) = queue(state)
        state.release(slot, 1.0)
        self.assertIsNone(state.take(1.0))
        self.assertIsNone(state.acquire(1.0))
        self.assertIs(waiter.slot, slot)

    def test_newcomer_gets_no_permit_while_others_wait(self):
        state = make_state(max_size=2, connecting=1)
        state.acquire(0.0)
        queue(state)
        state.connecting = 2
        self.assertIsNone(state.acquire(0.0))

    def test_failed_connect_serves_the_next(self):
        state = make_state(max_size=1)
        permit = state.acquire(0.0)
        (waiter,) = queue(state)
        state.failed(permit, 1.0)
        self.assertEqual(waiter.slot.status, OPENING)
        self.assertEqual((len(state.slots), state.opening), (1, 1))

    def test_permit_that_was_not_used_serves_the_next(self):
        state = make_state(max_size=1)
        permit = state.acquire(0.0)
        (waiter,) = queue(state)
        state.withdraw(permit, 1.0)
        self.assertEqual(waiter.slot.status, OPENING)
        self.assertEqual((state.counters.open_failures, state.failures), (0, 0))

    def test_discarded_connection_serves_the_next(self):
        state = make_state(max_size=1)
        slot = borrow(state)
        (waiter,) = queue(state)
        state.discard(slot, BROKEN, 1.0)
        self.assertIsNone(waiter.slot)
        finish_closing(state, 1.0)
        self.assertEqual(waiter.slot.status, OPENING)

    def test_discarded_connection_with_room_serves_before_it_is_closed(self):
        state = make_state(max_size=2)
        slot = borrow(state, 0.0)
        state.open_time = 60.0
        self.assertIsNone(state.acquire(0.0))
        (waiter,) = queue(state)
        state.discard(slot, BROKEN, 1.0)
        self.assertEqual(waiter.slot.status, OPENING)

    def test_expired_connection_with_room_serves_before_it_is_closed(self):
        state = make_state(max_size=2, max_lifetime=10.0)
        slot = borrow(state, 0.0)
        state.open_time = 60.0
        (waiter,) = queue(state)
        state.release(slot, 11.0)
        self.assertEqual(waiter.slot.status, OPENING)

    def test_opened_connection_makes_room_for_the_next_connect(self):
        state = make_state(connecting=1)
        permit = state.acquire(0.0)
        (waiter,) = queue(state)
        self.assertIsNone(waiter.slot)
        state.opened(permit, object(), 0.0)
        state.dispatch(0.0)
        self.assertEqual(waiter.slot.status, OPENING)

    def test_line_is_bounded(self):
        state = make_state(max_size=1, max_waiting=1)
        state.acquire(0.0)
        queue(state)
        self.assertIs(state.wait(Waiter(), 0.0), False)
        self.assertEqual((len(state.waiters), state.counters.refused), (1, 1))

    def test_nobody_may_wait(self):
        state = make_state(max_size=1, max_waiting=0)
        state.acquire(0.0)
        self.assertIs(state.wait(Waiter(), 0.0), False)

    def test_those_who_may_not_wait_open_without_patience(self):
        state = make_state(max_size=2, max_waiting=0)
        borrow(state)
        state.open_time = 60.0
        self.assertEqual(state.acquire(0.0).status, OPENING)

    def test_leaving_loses_nothing(self):
        state = make_state(max_size=1)
        slot = borrow(state)
        first, second = queue(state, 2)
        state.leave(first, 0.0)
        state.release(slot, 1.0)
        self.assertEqual((first.slot, second.slot), (None, slot))

    def test_leaving_when_just_served_serves_the_next(self):
        state = make_state(max_size=1)
        slot = borrow(state)
        first, second = queue(state, 2)
        state.release(slot, 1.0)
        state.leave(first, 1.0)
        self.assertEqual((first.slot, second.slot), (None, slot))

    def test_leaving_when_just_served_alone_makes_the_connection_idle(self):
        state = make_state(max_size=1)
        slot = borrow(state)
        (waiter,) = queue(state)
        state.release(slot, 1.0)
        state.leave(waiter, 1.0)
        self.assertEqual(list(state.idle), [slot])

    def test_leaving_with_a_permit_gives_it_to_the_next(self):
        state = make_state(max_size=1)
        permit = state.acquire(0.0)
        first, second = queue(state, 2)
        state.failed(permit, 1.0)
        state.leave(first, 1.0)
        self.assertEqual((first.slot, second.slot.status), (None, OPENING))
        self.assertEqual((len(state.slots), state.opening), (1, 1))

    def test_leaving_makes_room_for_the_turn_of_the_next(self):
        state = make_state(max_size=2)
        borrow(state)
        state.open_time = 60.0
        (patient,) = queue(state)
        state.open_time = 1.0
        (impatient,) = queue(state)
        state.leave(patient, 2.0)
        self.assertEqual(impatient.slot.status, OPENING)

    def test_turn_of_the_next_comes_when_the_first_is_served(self):
        state = make_state(max_size=2)
        slot = borrow(state)
        state.open_time = 60.0
        (patient,) = queue(state)
        state.open_time = 1.0
        (impatient,) = queue(state)
        state.dispatch(2.0)
        self.assertIsNone(impatient.slot)
        state.release(slot, 3.0)
        self.assertIs(patient.slot, slot)
        self.assertEqual(impatient.slot.status, OPENING)

    def test_leaving_twice_changes_nothing(self):
        state = make_state(max_size=1)
        slot = borrow(state)
        (waiter,) = queue(state)
        state.release(slot, 1.0)
        state.leave(waiter, 1.0)
        state.leave(waiter, 1.0)
        self.assertEqual(list(state.idle), [slot])

    def test_waiter_that_left_when_served_does_not_count_as_served(self):
        state = make_state(max_size=1)
        slot = borrow(state)
        (waiter,) = queue(state)
        state.release(slot, 1.0)
        state.leave(waiter, 1.0)
        self.assertEqual(state.count_reused(), 0)


class PatienceTests(SimpleTestCase):
    """
    Who finds all connections in use waits for as long as opening takes
    before opening another.
    """

    def make_state(self, **options):
        state = make_state(**options)
        permit = state.acquire(0.0)
        state.opened(permit, object(), 2.0)
        return state

    def test_without_experience_there_is_no_patience(self):
        state = make_state()
        borrow(state)
        self.assertEqual(state.acquire(0.0).status, OPENING)

    def test_connection_in_use_is_waited_for(self):
        self.assertIsNone(self.make_state().acquire(2.0))

    def test_patience_ends_after_the_time_that_opening_takes(self):
        state = self.make_state()
        (waiter,) = queue(state, now=2.0)
        state.dispatch(3.9)
        self.assertIsNone(waiter.slot)
        state.dispatch(waiter.patient_until)
        self.assertEqual((waiter.patient_until, waiter.slot.status), (4.0, OPENING))

    def test_with_no_connection_there_is_nothing_to_wait_for(self):
        state = self.make_state()
        state.discard(next(iter(state.slots)), BROKEN, 2.0)
        self.assertEqual(state.acquire(2.0).status, OPENING)

    def test_open_time_follows_what_opening_takes(self):
        state = make_state()
        for took, average in ((2.0, 2.0), (6.0, 3.0), (3.0, 3.0)):
            state.waiters.clear()
            slot = state._new_slot(0.0)
            state.opened(slot, object(), took)
            self.assertEqual(state.open_time, average)

    def test_spike_is_served_without_opening(self):
        """
        50 borrowers at once, 5 idle connections, room for 5 more, 150 ms for
        a connect and 2 ms for a query: everybody is served within 60 ms.
        """
        state = make_state(min_size=5, max_size=10)
        for _ in range(5):
            slot = state.reserve(0.0)
            state.supplied(slot, object(), 0.15)
        start, done, events, order = 10.0, [], [], iter(range(10_000))

        def use(slot, now):
            took, end = 0.002, state.release
            if slot.status == OPENING:
                took, end = 0.15, lambda slot, now: state.opened(slot, object(), now)
            heapq.heappush(events, (now + took, next(order), end, slot))

        def wake(now):
            while state.to_wake:
                use(state.to_wake.pop(0).slot, now)

        for _ in range(50):
            slot = state.take(start) or state.acquire(start)
            if slot is not None:
                use(slot, start)
            else:
                (waiter,) = queue(state, now=start)
                timer = (waiter.patient_until, next(order), None, None)
                heapq.heappush(events, timer)
        while events:
            now, _, end, slot = heapq.heappop(events)
            if end is None:
                state.dispatch(now)
            else:
                was_opening = slot.status == OPENING
                end(slot, now)
                if was_opening:
                    use(slot, now)
                else:
                    done.append(now - start)
            wake(now)
        self.assertEqual(len(done), 50)
        self.assertLessEqual(state.counters.opened - 5, 1)
        self.assertLessEqual(max(done), 0.06)


class LifeTests(SimpleTestCase):
    def test_expired_connection_is_not_served(self):
        state = make_state(max_lifetime=10.0)
        state.release(borrow(state), 9.0)
        self.assertEqual(state.acquire(10.0).status, OPENING)
        self.assertEqual(finish_closing(state), [EXPIRED])

    def test_expired_connection_is_not_taken_back(self):
        state = make_state(max_lifetime=10.0)
        state.release(borrow(state), 10.0)
        self.assertEqual((len(state.idle), finish_closing(state)), (0, [EXPIRED]))

    def test_lifetimes_are_jittered(self):
        for jitter in (0.0, 0.5, 1.0):
            with self.subTest(jitter):
                slot = borrow(make_state(jitter, max_lifetime=100.0), 0.0)
                self.assertEqual(
                    slot.expires_at, 100.0 - LIFETIME_JITTER * 100.0 * jitter
                )

    def test_no_limits(self):
        state = make_state(max_lifetime=None, max_idle=None)
        state.release(borrow(state), 0.0)
        self.assertEqual(state.next_due(), NEVER)
        state.sweep(1e12)
        self.assertEqual(len(state.idle), 1)

    def test_unused_connection_is_neither_served_nor_kept(self):
        for step in ("acquire", "sweep"):
            with self.subTest(step):
                state = make_state(max_idle=10.0)
                state.release(borrow(state), 0.0)
                getattr(state, step)(10.5)
                self.assertEqual(finish_closing(state), [UNUSED])

    def test_min_size_unused_connections_are_kept(self):
        state = make_state(max_idle=10.0, min_size=1, connecting=3)
        for slot in [borrow(state) for _ in range(3)]:
            state.release(slot, 0.0)
        state.sweep(11.0)
        self.assertEqual(finish_closing(state), [UNUSED, UNUSED])
        self.assertEqual(len(state.idle), 1)
        self.assertEqual(state.acquire(20.0).status, LEASED)

    def test_those_unused_longest_go_first(self):
        state = make_state(max_idle=10.0, min_size=1)
        first, second = borrow(state), borrow(state)
        state.release(first, 0.0)
        state.release(second, 1.0)
        state.sweep(20.0)
        self.assertEqual(list(state.idle), [second])

    def test_sweep_has_something_to_do_when_due(self):
        for options in ({"max_idle": 0.1}, {"max_idle": None, "max_lifetime": 0.7}):
            for start in (0.0, 0.3, 1e6 + 0.1, 123456.789):
                with self.subTest(options, start=start):
                    state = make_state(**options)
                    state.release(borrow(state, start), start)
                    due = state.next_due()
                    state.sweep(due - 0.01)
                    self.assertEqual(state.to_close, [])
                    state.sweep(due)
                    self.assertEqual(len(state.to_close), 1)

    def test_reserve_asks_for_min_size(self):
        state = make_state(min_size=2, connecting=5)
        slots = [state.reserve(0.0) for _ in range(3)]
        self.assertEqual(
            [slot and slot.status for slot in slots], [OPENING] * 2 + [None]
        )

    def test_reserve_leaves_it_to_those_who_wait(self):
        state = make_state(min_size=2, max_size=2, connecting=1)
        permit = state.acquire(0.0)
        queue(state)
        state.connecting = 2
        self.assertIsNone(state.reserve(0.0))
        state.opened(permit, object(), 0.0)

    def test_supplied_connection_goes_to_whoever_waits(self):
        state = make_state(min_size=1, max_size=1)
        slot = state.reserve(0.0)
        (waiter,) = queue(state)
        state.supplied(slot, connection := object(), 1.0)
        self.assertEqual((waiter.slot, slot.connection), (slot, connection))

    def test_supplied_connection_is_idle_if_nobody_waits(self):
        state = make_state(min_size=1)
        state.supplied(slot := state.reserve(0.0), object(), 1.0)
        self.assertEqual((list(state.idle), slot.status), ([slot], IDLE))


class ResettingTests(SimpleTestCase):
    def test_connection_being_reset_counts_and_serves_nobody(self):
        state = make_state(max_size=1)
        state.start_reset(slot := borrow(state), 0.0)
        self.assertEqual((slot.status, state.resetting), (RESETTING, 1))
        self.assertIsNone(state.take(0.0))
        self.assertIsNone(state.acquire(0.0))

    def test_reset_connection_serves_the_next(self):
        state = make_state(max_size=1)
        state.start_reset(slot := borrow(state), 0.0)
        (waiter,) = queue(state)
        state.end_reset(slot, True, 1.0)
        self.assertIs(waiter.slot, slot)
        self.assertEqual(state.resetting, 0)

    def test_slot_of_a_failed_reset_serves_the_next(self):
        state = make_state(max_size=1)
        state.start_reset(slot := borrow(state), 0.0)
        (waiter,) = queue(state)
        state.end_reset(slot, False, 1.0)
        self.assertEqual(finish_closing(state, 1.0), ["not reset"])
        self.assertEqual(waiter.slot.status, OPENING)

    def test_reset_connection_of_a_closed_pool_is_closed(self):
        state = make_state()
        state.start_reset(slot := borrow(state), 0.0)
        state.close()
        state.end_reset(slot, True, 1.0)
        self.assertEqual(finish_closing(state), [POOL_CLOSED])


class PauseTests(SimpleTestCase):
    """A server that fails again and again isn't asked all the time."""

    def make_state(self, **options):
        """Return a state that pauses at 0.0, until ``retry_at``."""
        state = make_state(**options)
        while not state.is_pausing(0.0):
            self.assertLess(state.failures, 10)
            state.failed(state.acquire(0.0), 0.0)
        return state

    def test_no_connect_is_tried_during_a_pause(self):
        state = self.make_state()
        self.assertIsNone(state.acquire(0.0))
        self.assertIsNone(state.reserve(0.0))
        self.assertEqual(state.acquire(state.retry_at).status, OPENING)

    def test_those_who_wait_are_turned_away(self):
        state = make_state(max_size=1)
        permit = state.acquire(0.0)
        state.failures = 10
        waiters = queue(state, 3)
        state.failed(permit, 0.0)
        self.assertEqual(state.to_wake, waiters)
        self.assertEqual([(w.served, w.slot) for w in waiters], [(True, None)] * 3)

    def test_pauses_grow_up_to_a_limit(self):
        state = self.make_state()
        now, pauses = 0.0, [state.retry_at]
        for _ in range(10):
            now = state.retry_at
            state.failed(state.acquire(now), now)
            pauses.append(state.retry_at - now)
        self.assertEqual(pauses, sorted(pauses))
        self.assertLess(pauses[0], 0.1)
        self.assertAlmostEqual(pauses[-1], 1.0)

    def test_success_ends_the_pause(self):
        state = self.make_state()
        state.opened(state.acquire(state.retry_at), object(), state.retry_at)
        self.assertIs(state.is_pausing(0.0), False)
        self.assertEqual(state.failures, 0)

    def test_there_is_no_pause_while_there_is_a_connection(self):
        """Who waits for it could wait long, and nobody would wake them."""
        state = make_state(max_size=2)
        borrow(state)
        state.failures = 10
        permit = state.acquire(0.0)
        (waiter,) = queue(state)
        state.failed(permit, 0.0)
        self.assertIs(state.is_pausing(0.0), False)
        self.assertEqual(waiter.slot.status, OPENING)

    def test_those_who_wait_for_the_last_connection_are_turned_away_with_it(self):
        state = make_state(max_size=2)
        slot = borrow(state)
        state.failures = 10
        state.failed(state.acquire(0.0), 0.0)
        state.open_time = 60.0
        (waiter,) = queue(state)
        self.assertIs(waiter.served, False)
        state.discard(slot, BROKEN, 0.0)
        self.assertEqual((waiter.served, waiter.slot), (True, None))


class WholePoolTests(SimpleTestCase):
    def test_drained_connections_serve_nobody(self):
        state = make_state(connecting=2)
        idle, used = borrow(state), borrow(state)
        state.release(idle, 0.0)
        state.condemn_generation(DRAINED, 1.0)
        state.release(used, 1.0)
        self.assertEqual(finish_closing(state), [DRAINED, DRAINED])

    def test_connection_being_opened_while_draining_is_not_kept(self):
        state = make_state()
        permit = state.acquire(0.0)
        state.condemn_generation(DRAINED, 1.0)
        state.opened(permit, object(), 1.0)
        state.release(permit, 2.0)
        self.assertEqual(finish_closing(state), [DRAINED])

    def test_connections_opened_after_draining_are_kept(self):
        state = make_state()
        state.condemn_generation(DRAINED, 0.0)
        state.release(borrow(state), 1.0)
        self.assertEqual(len(state.idle), 1)

    def test_growing_serves_those_who_wait(self):
        state = make_state(max_size=1)
        borrow(state)
        first, second = queue(state, 2)
        state.resize(0, 3, 0.0)
        self.assertEqual((first.slot.status, second.slot.status), (OPENING, OPENING))

    def test_shrinking_closes_idle_connections_first(self):
        state = make_state(connecting=3)
        slots = [borrow(state) for _ in range(3)]
        state.release(slots[0], 0.0)
        state.resize(0, 2, 0.0)
        self.assertEqual((finish_closing(state), len(state.slots)), ([SHRUNK], 2))

    def test_shrinking_closes_those_in_use_when_they_come_back(self):
        state = make_state(connecting=3)
        slots = [borrow(state) for _ in range(3)]
        state.resize(0, 1, 0.0)
        for slot in slots:
            state.release(slot, 0.0)
        self.assertEqual(finish_closing(state), [SHRUNK, SHRUNK])
        self.assertEqual(list(state.idle), [slots[2]])

    def test_closing_closes_what_is_idle_and_what_comes_back(self):
        state = make_state(connecting=3)
        idle, used = borrow(state), borrow(state)
        permit = state.acquire(0.0)
        state.release(idle, 0.0)
        state.close()
        state.release(used, 1.0)
        state.opened(permit, object(), 1.0)
        state.release(permit, 1.0)
        self.assertEqual(finish_closing(state), [POOL_CLOSED] * 3)
        self.assertEqual(len(state.slots), 0)

    def test_closing_wakes_all_who_wait_with_nothing(self):
        state = make_state(max_size=1)
        borrow(state)
        waiters = queue(state, 3)
        state.close()
        self.assertEqual(state.to_wake, waiters)
        self.assertEqual([(w.served, w.slot) for w in waiters], [(True, None)] * 3)

    def test_closed_pool_serves_nothing(self):
        state = make_state(min_size=1)
        state.close()
        self.assertIsNone(state.take(0.0))
        self.assertIsNone(state.acquire(0.0))
        self.assertIsNone(state.reserve(0.0))

    def test_closing_after_being_served_takes_nothing_away(self):
        state = make_state(max_size=1)
        slot = borrow(state)
        (waiter,) = queue(state)
        state.release(slot, 0.0)
        state.close()
        self.assertIs(waiter.slot, slot)
        state.leave(waiter, 0.0)
        self.assertEqual(finish_closing(state), [POOL_CLOSED])

    def test_connection_that_take_puts_back_after_draining_is_not_served(self):
        for end, reason in (
            (lambda state: state.condemn_generation(DRAINED, 99.0), DRAINED),
            (lambda state: state.close(), POOL_CLOSED),
        ):
            with self.subTest(reason):
                state = make_state(min_size=1, max_idle=10.0)
                state.release(borrow(state), 0.0)
                take_idle = state.take_idle

                def take_idle_before_the_end():
                    slot = take_idle()
                    end(state)
                    return slot

                state.take_idle = take_idle_before_the_end
                self.assertIsNone(state.take(99.0))
                state.take_idle = take_idle
                slot = state.acquire(99.0)
                self.assertNotEqual(slot and slot.status, LEASED)
                self.assertEqual(finish_closing(state), [reason])


class CounterTests(SimpleTestCase):
    def test_use_is_counted_from_when_the_connection_was_had(self):
        state = make_state(max_size=1)
        permit = state.acquire(0.0)
        state.opened(permit, object(), 5.0)
        (waiter,) = queue(state, now=5.0)
        state.release(permit, 6.0)
        state.discard(permit, BROKEN, 8.0)
        state.counters.count_held()
        self.assertEqual(state.counters.use_total, 3.0)
        self.assertEqual(state.counters.wait_total, 1.0)
        self.assertEqual(state.counters.open_total, 5.0)

    def test_any_duration_can_be_counted(self):
        for held in (0.0, 1e-7, 3.0, 86400.0 * 365 * 100):
            with self.subTest(held):
                state = make_state(max_lifetime=None)
                state.release(borrow(state, 0.0), held)
                state.counters.count_held()
                self.assertEqual(sum(state.counters.use_buckets), 1)

    def test_reuse_is_still_counted_when_the_connection_is_gone(self):
        state = make_state()
        slot = borrow(state)
        for step in (state.take, state.acquire):
            state.release(slot, 0.0)
            self.assertIs(step(0.0), slot)
        state.discard(slot, BROKEN, 0.0)
        self.assertEqual(finish_closing(state), [BROKEN])
        self.assertEqual(state.count_reused(), 2)
        self.assertEqual(state.counters.first_used, 1)


class Model:
    """
    The users of a PoolState, as a ConnectionPool's threads would act, and
    what must hold whatever they do.
    """

    def __init__(self, jitter=0.5, **options):
        self.state = make_state(jitter, **options)
        self.options = PoolOptions(name="test", **options)
        self.now = 0.0
        # Every slot is in one of these places.
        self.permits = []
        self.supplies = []
        self.leases = []
        self.resetting = []
        self.closing = []
        # In line; served but not awake yet; woken without a connection.
        self.line = []
        self.served = []
        self.turned_away = []
        # Pairs of a time and a waiter that dispatches then.
        self.timers = []
        self.allowed = self.state.max_size
        self.expected = {
            "acquired": 0,
            "opened": 0,
            "failures": 0,
            "refused": 0,
            "uses": 0,
            "waits": 0,
        }

    def expect(self, condition, what):
        if not condition:
            raise AssertionError(what)

    # What users do.

    def acquire(self, way, may_wait=True):
        state = self.state
        slot = getattr(state, way)(self.now)
        self.note_condemned()
        if slot is not None:
            self.expect(not state.closed, "a closed pool served somebody")
            self.expect(not self.line, "somebody was served past the line")
            self.expect(
                way == "acquire" or slot.status == LEASED,
                "a permit for somebody who can't use it",
            )
            self.receive(slot)
        elif may_wait and not state.closed and not state.is_pausing(self.now):
            waiter = Waiter()
            if state.wait(waiter, self.now):
                self.line.append(waiter)
                if waiter.patient_until > self.now:
                    self.timers.append((waiter.patient_until, waiter))
            else:
                self.expect(
                    len(self.line) >= self.options.max_waiting,
                    "refused although there was room in the line",
                )
                self.expected["refused"] += 1
        self.check()

    def receive(self, slot):
        """Somebody begins to use what they were served with."""
        if slot.status == OPENING:
            self.expect(slot.connection is None, "a permit with a connection")
            self.permits.append(slot)
        else:
            self.expect(slot.connection is not None, "no connection")
            self.expect(slot.status == LEASED, slot.status)
            self.expect(
                slot.generation == self.state.generation, "a drained connection"
            )
            self.expect(self.now < slot.expires_at, "an expired connection")
            self.expected["acquired"] += 1
            self.leases.append(slot)

    def wake_up(self, waiter):
        self.served.remove(waiter)
        slot, waiter.slot = waiter.slot, None
        if slot.status == OPENING:
            self.permits.append(slot)
        else:
            self.expected["acquired"] += 1
            self.leases.append(slot)
        self.check()

    def leave(self, waiter):
        self.state.leave(waiter, self.now)
        self.timers = [timer for timer in self.timers if timer[1] is not waiter]
        for place in (self.line, self.served, self.turned_away):
            if waiter in place:
                place.remove(waiter)
        self.check()

    def opened(self, slot):
        self.permits.remove(slot)
        self.state.opened(slot, object(), self.now)
        self.leases.append(slot)
        self.expected["acquired"] += 1
        self.expected["opened"] += 1
        self.check()

    def failed(self, slot):
        (self.permits if slot in self.permits else self.supplies).remove(slot)
        self.state.failed(slot, self.now)
        self.expected["failures"] += 1
        self.check()

    def withdraw(self, slot):
        self.permits.remove(slot)
        self.state.withdraw(slot, self.now)
        self.check()

    def reserve(self):
        if (slot := self.state.reserve(self.now)) is not None:
            self.supplies.append(slot)
        self.check()

    def supplied(self, slot):
        self.supplies.remove(slot)
        self.state.supplied(slot, object(), self.now)
        self.expected["opened"] += 1
        self.check()

    def release(self, slot):
        self.leases.remove(slot)
        self.state.release(slot, self.now)
        self.expected["uses"] += 1
        self.check()

    def discard(self, slot):
        self.leases.remove(slot)
        self.state.discard(slot, BROKEN, self.now)
        self.expected["uses"] += 1
        self.check()

    def start_reset(self, slot):
        self.leases.remove(slot)
        self.resetting.append(slot)
        self.state.start_reset(slot, self.now)
        self.expected["uses"] += 1
        self.check()

    def end_reset(self, slot, succeeded=True):
        self.resetting.remove(slot)
        self.state.end_reset(slot, succeeded, self.now)
        self.check()

    def look_at_idle(self, fine):
        """Take an idle connection, look at it, and put it back or close it."""
        if (slot := self.state.take(self.now)) is None:
            return
        if fine:
            self.state.release_unused(slot, self.now)
        else:
            self.state.discard_unused(slot)
        self.check()

    def finish_closing(self, slot):
        self.closing.remove(slot)
        self.state.closed_slot(slot, self.now)
        self.check()

    def sweep(self):
        self.state.sweep(self.now)
        self.expect(self.state.next_due() > self.now, "sweeping left something due")
        self.check()

    def drain(self):
        self.state.condemn_generation(DRAINED, self.now)
        self.expect(not self.state.idle, "draining left a connection idle")
        self.check()

    def resize(self, min_size, max_size):
        self.state.resize(min_size, max_size, self.now)
        self.check()

    def close(self):
        self.state.close()
        self.turned_away += self.line
        self.line = []
        self.check()

    def advance(self, seconds):
        """Let time pass, and everybody wake whose patience ends meanwhile."""
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer[0] <= end]:
            timer = min(due, key=lambda timer: timer[0])
            self.timers.remove(timer)
            self.now = max(self.now, timer[0])
            if timer[1] in self.line:
                self.state.dispatch(self.now)
                self.check()
        self.now = end

    # What must hold.

    def note_condemned(self):
        self.closing += self.state.to_close
        self.state.to_close.clear()

    def note_served(self):
        for waiter in self.state.to_wake:
            self.expect(waiter.served, "woken without having been served")
            if waiter in self.turned_away:
                self.expect(waiter.slot is None, "served by a closed pool")
                continue
            if waiter.slot is None:
                self.expect(self.state.is_pausing(self.now), "woken with nothing")
                self.line.remove(waiter)
                self.turned_away.append(waiter)
                continue
            self.expect(waiter is self.line[0], "served out of order")
            self.served.append(self.line.pop(0))
            self.expected["waits"] += 1
        self.state.to_wake.clear()

    def check(self):
        state, expect = self.state, self.expect
        self.note_condemned()
        self.note_served()
        # Nothing is lost, nothing is in two hands.
        pending = [waiter.slot for waiter in self.served]
        places = [
            *self.permits,
            *self.supplies,
            *self.leases,
            *self.resetting,
            *self.closing,
            *pending,
            *state.idle,
        ]
        expect(len(places) == len(set(places)), "a slot is in two places")
        expect(set(places) == state.slots, "a slot is lost or too many")
        connections = [slot.connection for slot in places if slot.connection]
        expect(len(connections) == len(set(connections)), "one connection, two slots")
        for status, slots in (
            (OPENING, [*self.permits, *self.supplies]),
            (LEASED, self.leases),
            (RESETTING, self.resetting),
            (CLOSING, self.closing),
            (IDLE, state.idle),
        ):
            for slot in slots:
                expect(slot.status == status, f"{slot.status} instead of {status}")
        opening = sum(slot.status == OPENING for slot in places)
        expect(state.opening == opening, "connects are miscounted")
        expect(state.closing == len(self.closing), "closes are miscounted")
        expect(state.resetting == len(self.resetting), "resets are miscounted")
        # No more than allowed.
        size = len(state.slots)
        expect(
            size <= max(state.max_size, self.allowed), "more than max_size connections"
        )
        # After shrinking, what's too many may stay but not grow.
        self.allowed = max(state.max_size, size)
        expect(opening <= state.connecting, "too many connects in flight")
        expect(len(state.waiters) <= state.max_waiting, "too many wait")
        # Nobody waits for what's there.
        expect(list(state.waiters) == self.line, "the line is out of order")
        expect(not (state.closed and self.line), "somebody waits for a closed pool")
        expect(not (state.closed and state.idle), "idle in a closed pool")
        if self.line:
            expect(not state.idle, "somebody waits while a connection is idle")
            expect(
                not state.is_pausing(self.now), "somebody waits for a server that fails"
            )
            may_open = size < state.max_size and opening < state.connecting
            patient = self.line[0].patient_until > self.now
            expect(
                not may_open or (patient and size > len(self.closing)),
                "somebody waits although a connection could be opened",
            )
        # The counters add up.
        counters, expected = state.counters, self.expected
        counters.count_held()
        pending_reuse = sum(slot.status == LEASED for slot in pending)
        acquired = state.count_reused() + counters.first_used
        expect(acquired == expected["acquired"] + pending_reuse, "acquired")
        expect(counters.opened == expected["opened"], "opened")
        expect(counters.open_failures == expected["failures"], "open_failures")
        expect(counters.refused == expected["refused"], "refused")
        expect(sum(counters.use_buckets) == expected["uses"], "use")
        expect(sum(counters.wait_buckets) == expected["waits"], "wait")
        expect(sum(counters.open_buckets) == expected["opened"], "open")
        alive = sum(slot.status in (IDLE, LEASED, RESETTING) for slot in places)
        expect(
            counters.opened == sum(counters.closed.values()) + alive,
            "a connection was neither kept nor closed",
        )

    def finish(self):
        """Everybody gives back and time passes: nobody may be left waiting."""
        for _ in range(1000):
            if self.leases:
                self.release(self.leases[0])
            elif self.permits:
                self.opened(self.permits[0])
            elif self.supplies:
                self.supplied(self.supplies[0])
            elif self.resetting:
                self.end_reset(self.resetting[0])
            elif self.closing:
                self.finish_closing(self.closing[0])
            elif self.served:
                self.wake_up(self.served[0])
            elif self.timers:
                self.advance(max(0.0, self.timers[0][0] - self.now))
            else:
                break
        state = self.state
        self.expect(not self.line, "somebody waits forever")
        self.expect(len(state.slots) == len(state.idle), "something is left over")
        self.expect(len(state.slots) <= state.max_size, "too many are kept")
        self.expect(state.opening == state.closing == 0, "something is left over")
        if state.closed:
            self.expect(not state.slots, "a closed pool keeps a connection")


class ModelTests(SimpleTestCase):
    """The model itself finds what's wrong."""

    def assertFound(self, what, breakage, *steps):
        model = Model(max_size=1)
        model.acquire("acquire")
        with breakage(model.state), self.assertRaisesMessage(AssertionError, what):
            for step in steps:
                step(model)

    def test_lost_slot_is_found(self):
        self.assertFound(
            "a slot is lost",
            lambda state: nullcontext(),
            lambda model: model.opened(model.permits[0]),
            lambda model: model.release(model.leases[0]),
            lambda model: model.state.idle.clear(),
            lambda model: model.check(),
        )

    def test_idle_connection_beside_a_line_is_found(self):
        self.assertFound(
            "somebody waits",
            lambda state: mock.patch.object(state, "dispatch"),
            lambda model: model.acquire("acquire"),
            lambda model: model.failed(model.permits[0]),
        )

    def test_overshoot_is_found(self):
        self.assertFound(
            "more than max_size",
            lambda state: mock.patch.object(state, "_may_open", return_value=True),
            lambda model: model.acquire("acquire"),
        )


if HAS_HYPOTHESIS:

    class PoolMachine(RuleBasedStateMachine):
        """Histories of what the users of a pool may do, in any order."""

        def __init__(self):
            super().__init__()
            self.model = None

        @precondition(lambda self: self.model is None)
        @rule(
            min_size=st.integers(0, 2),
            spare=st.integers(0, 3),
            max_waiting=st.sampled_from([None, None, 0, 1, 3]),
            max_lifetime=st.sampled_from([None, 4.0, 30.0]),
            max_idle=st.sampled_from([None, 3.0, 20.0]),
            connecting=st.integers(1, 3),
            order=st.sampled_from(["lifo", "fifo"]),
            jitter=st.sampled_from([0.0, 0.5, 1.0]),
        )
        def begin(self, jitter, min_size, spare, **options):
            options["max_size"] = max(1, min_size + spare)
            self.model = Model(jitter, min_size=min_size, **options)

        def pick(self, place, nth):
            items = getattr(self.model, place)
            return items[nth % len(items)]

        ready = precondition(lambda self: self.model is not None)

        def having(place):
            return precondition(
                lambda self: self.model is not None and getattr(self.model, place)
            )

        nth = st.integers(0, 3)

        @ready
        @rule(way=st.sampled_from(["acquire", "acquire", "take", "acquire_idle"]))
        def acquire(self, way):
            self.model.acquire(way, may_wait=way == "acquire")

        @ready
        @rule()
        def acquire_more(self):
            for _ in range(3):
                self.model.acquire("acquire")

        @having("permits")
        @rule(nth=nth)
        def opened(self, nth):
            self.model.opened(self.pick("permits", nth))

        @having("permits")
        @rule(nth=nth)
        def failed(self, nth):
            self.model.failed(self.pick("permits", nth))

        @ready
        @rule()
        def reserve(self):
            self.model.reserve()

        @having("supplies")
        @rule(nth=nth, works=st.booleans())
        def supplied(self, nth, works):
            step = self.model.supplied if works else self.model.failed
            step(self.pick("supplies", nth))

        @having("leases")
        @rule(nth=nth)
        def release(self, nth):
            self.model.release(self.pick("leases", nth))

        @having("leases")
        @rule(nth=nth)
        def discard(self, nth):
            self.model.discard(self.pick("leases", nth))

        @having("leases")
        @rule(nth=nth)
        def start_reset(self, nth):
            self.model.start_reset(self.pick("leases", nth))

        @having("resetting")
        @rule(nth=nth, succeeded=st.booleans())
        def end_reset(self, nth, succeeded):
            self.model.end_reset(self.pick("resetting", nth), succeeded)

        @ready
        @rule(fine=st.booleans())
        def look_at_idle(self, fine):
            self.model.look_at_idle(fine)

        @having("permits")
        @rule(nth=nth)
        def withdraw(self, nth):
            self.model.withdraw(self.pick("permits", nth))

        @having("permits")
        @rule()
        def fail_all(self):
            while self.model.permits:
                self.model.failed(self.model.permits[0])

        @having("closing")
        @rule(nth=nth)
        def finish_closing(self, nth):
            self.model.finish_closing(self.pick("closing", nth))

        @having("served")
        @rule(nth=nth)
        def wake_up(self, nth):
            self.model.wake_up(self.pick("served", nth))

        @having("served")
        @rule(nth=nth)
        def leave_when_served(self, nth):
            self.model.leave(self.pick("served", nth))

        @having("line")
        @rule(nth=nth)
        def leave_the_line(self, nth):
            self.model.leave(self.pick("line", nth))

        @having("turned_away")
        @rule(nth=nth)
        def leave_empty_handed(self, nth):
            self.model.leave(self.pick("turned_away", nth))

        @ready
        @rule(seconds=st.sampled_from([0.01, 0.5, 1.0, 2.5, 10.0]))
        def advance(self, seconds):
            self.model.advance(seconds)

        @ready
        @rule()
        def sweep(self):
            self.model.sweep()

        @ready
        @rule()
        def sweep_when_due(self):
            due = self.model.state.next_due()
            if due < NEVER:
                self.model.advance(max(0.0, due - self.model.now))
                self.model.sweep()

        @ready
        @rule()
        def drain(self):
            self.model.drain()

        @ready
        @rule(min_size=st.integers(0, 2), spare=st.integers(0, 3))
        def resize(self, min_size, spare):
            self.model.resize(min_size, max(1, min_size + spare))

        @ready
        @rule(really=st.integers(0, 9))
        def close(self, really):
            # Rarely: not much happens afterward.
            if really == 9:
                self.model.close()

        def teardown(self):
            if self.model is not None:
                self.model.finish()

    class RandomHistoryTests(SimpleTestCase, PoolMachine.TestCase):
        settings = settings(
            max_examples=1000,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )

else:

    @unittest.skip("hypothesis isn't installed.")
    class RandomHistoryTests(SimpleTestCase):
        def test_histories(self):
            pass


class LongHistoryTests(SimpleTestCase):
    """
    The same search with a plain generator of random numbers: less clever,
    but it needs nothing installed and gets further.
    """

    HISTORIES = 3000
    STEPS = 60

    def make_model(self, rng):
        min_size = rng.choice([0, 0, 1, 2])
        return Model(
            rng.random(),
            min_size=min_size,
            max_size=max(1, min_size + rng.randrange(4)),
            max_waiting=rng.choice([None, None, None, 0, 2]),
            max_lifetime=rng.choice([None, 4.0, 30.0]),
            max_idle=rng.choice([None, 3.0, 20.0]),
            connecting=rng.choice([1, 1, 2, 3]),
            order=rng.choice(["lifo", "fifo"]),
        )

    def steps(self, model, rng):
        """Return what can be done, the usual more often."""
        steps = [
            (8, lambda: model.acquire("acquire")),
            (2, lambda: model.acquire("take", may_wait=False)),
            (1, lambda: model.acquire("acquire_idle", may_wait=False)),
            (2, model.reserve),
            (6, lambda: model.advance(rng.choice([0.0, 0.01, 0.5, 1.0, 5.0]))),
            (2, model.sweep),
            (1, lambda: model.look_at_idle(rng.random() < 0.5)),
            (0.5, model.drain),
            (0.5, lambda: model.resize(rng.randrange(2), rng.randrange(1, 5))),
            (0.1, model.close),
        ]
        for place, *actions in (
            (
                "permits",
                (6, model.opened),
                (2, model.failed),
                (1, model.withdraw),
            ),
            ("supplies", (3, model.supplied), (1, model.failed)),
            (
                "leases",
                (8, model.release),
                (2, model.discard),
                (2, model.start_reset),
            ),
            (
                "resetting",
                (3, model.end_reset),
                (1, lambda slot: model.end_reset(slot, False)),
            ),
            ("closing", (5, model.finish_closing)),
            ("served", (5, model.wake_up), (1, model.leave)),
            ("line", (1, model.leave)),
            ("turned_away", (1, model.leave)),
        ):
            if items := getattr(model, place):
                for weight, action in actions:
                    item = rng.choice(items)
                    steps.append((weight, lambda act=action, item=item: act(item)))
        return steps

    def test_histories(self):
        for seed in range(self.HISTORIES):
            rng = random.Random(seed)
            model = self.make_model(rng)
            try:
                for _ in range(self.STEPS):
                    weights, steps = zip(*self.steps(model, rng))
                    rng.choices(steps, weights)[0]()
                model.finish()
            except Exception as e:
                e.add_note(f"In history number {seed}.")
                raise
