"""The pool's logic on a virtual clock: borrowers, one rule each."""

import heapq

from django.db.pool.state import BROKEN, EXPIRED, LEASED, OPENING, UNUSED, Waiter
from django.db.pool.stats import read_stats
from django.test import SimpleTestCase

from .states import borrow, finish_closing, make_state, queue


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
        for options, reason in (
            ({"max_idle": 10.0, "max_lifetime": 100.0}, UNUSED),
            ({"max_idle": 100.0, "max_lifetime": 10.0}, EXPIRED),
        ):
            with self.subTest(reason):
                state = make_state(**options)
                state.release(borrow(state), 0.0)
                self.assertIsNone(state.take(10.0))
                self.assertEqual(len(state.idle), 1)
                state.acquire(10.0)
                self.assertEqual(finish_closing(state), [reason])

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
        self.assertEqual(read_stats(state, 1.0, {}).acquired, 1)


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

    def test_patience_leaves_time_to_open_before_the_deadline(self):
        for deadline, patient_until in (
            (60.0, 4.0),
            (7.0, 3.0),
            (6.0, 2.0),
            (3.0, 2.0),
        ):
            with self.subTest(deadline=deadline):
                waiter = Waiter()
                self.make_state().wait(waiter, 2.0, deadline)
                self.assertEqual(waiter.patient_until, patient_until)
                self.assertIs(waiter.served, patient_until == 2.0)
                slot = self.make_state().acquire(2.0, deadline)
                self.assertIs(slot is not None, patient_until == 2.0)

    def test_with_no_connection_there_is_nothing_to_wait_for(self):
        state = self.make_state()
        state.discard(next(iter(state.slots)), BROKEN, 2.0)
        self.assertEqual(state.acquire(2.0).status, OPENING)

    def test_a_full_pool_opens_as_soon_as_it_may(self):
        """There, one connection less will come back."""
        state = self.make_state(max_size=2, min_size=2)
        state.supplied(state.reserve(2.0), object(), 4.0)
        slot = state.acquire(4.0)
        (waiter,) = queue(state, now=4.0)
        state.discard(slot, BROKEN, 4.1)
        finish_closing(state, 4.1)
        self.assertEqual(waiter.slot.status, OPENING)

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
