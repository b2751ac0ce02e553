"""The pool's logic on a virtual clock: the life of connections."""

from collections import deque

from django.db.pool.state import (
    BROKEN,
    DIRTY,
    DRAINED,
    EXPIRED,
    FIRST_PAUSE,
    IDLE,
    LEASED,
    LIFETIME_JITTER,
    NEVER,
    NOT_KEPT,
    OPENING,
    PAUSE_JITTER,
    POOL_CLOSED,
    RESETTING,
    SHRUNK,
    UNSETTLED,
    UNUSED,
)
from django.db.pool.stats import BRIEF, read_stats
from django.test import SimpleTestCase

from .states import borrow, finish_closing, make_state, queue


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

    def test_sweep_leaves_what_is_taken_meanwhile(self):
        state = make_state(max_idle=10.0)
        state.release(borrow(state), 0.0)
        taken = []

        class Idle(deque):
            def remove(self, slot):
                # Another thread, which has looked at the clock before.
                taken.append(state.take(9.9))
                super().remove(slot)

        state.idle = Idle(state.idle)
        state.take_idle = state.idle.pop
        state.sweep(10.0)
        self.assertEqual((taken[0].status, state.to_close), (LEASED, []))

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

    def test_connection_lost_while_being_reset_is_closed(self):
        state = make_state()
        state.start_reset(slot := borrow(state), 0.0)
        state.reclaim(slot, 1.0)
        self.assertEqual((state.resetting, finish_closing(state)), (0, [DIRTY]))


class LookedAtTests(SimpleTestCase):
    """An idle connection was taken to be looked at, and is put back."""

    def taken(self, **options):
        state = make_state(max_size=1, **options)
        state.release(borrow(state), 0.0)
        return state, state.take(5.0)

    def test_it_has_been_idle_all_the_time(self):
        state, slot = self.taken()
        state.release_unused(slot, 5.0)
        self.assertEqual(list(state.idle), [slot])
        self.assertEqual((slot.status, slot.idle_since), (IDLE, 0.0))

    def test_it_serves_who_waits(self):
        state, slot = self.taken()
        (waiter,) = queue(state)
        state.release_unused(slot, 5.0)
        self.assertEqual((waiter.slot, slot.status), (slot, LEASED))
        self.assertEqual(len(state.idle), 0)

    def test_it_is_not_kept_when_drained_meanwhile(self):
        state, slot = self.taken()
        state.condemn_generation(DRAINED, 5.0)
        state.release_unused(slot, 5.0)
        self.assertEqual((len(state.idle), finish_closing(state)), (0, [DRAINED]))


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

    def test_pauses_are_jittered(self):
        for jitter in (0.0, 0.5, 1.0):
            with self.subTest(jitter):
                state = self.make_state(jitter=jitter)
                self.assertEqual(
                    state.retry_at, FIRST_PAUSE * (1.0 - PAUSE_JITTER * jitter)
                )

    def test_server_may_be_down_for_long(self):
        state = self.make_state()
        now = state.retry_at
        state.failures = 100_000
        state.failed(state.acquire(now), now)
        self.assertAlmostEqual(state.retry_at - now, 1.0)

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

    def test_draining_closes_all_that_are_idle(self):
        state = make_state(connecting=2)
        for slot in [borrow(state), borrow(state)]:
            state.release(slot, 0.0)
        state.condemn_generation(DRAINED, 1.0)
        self.assertEqual(finish_closing(state), [DRAINED, DRAINED])

    def test_give_does_not_keep_what_is_drained_or_too_much(self):
        for change in (
            lambda state: state.condemn_generation(DRAINED, 1.0),
            lambda state: state.resize(0, 1, 1.0),
            lambda state: state.close(),
        ):
            # With nothing idle that would be closed at once.
            state = make_state(connecting=2)
            slots = [borrow(state), borrow(state)]
            change(state)
            self.assertEqual(state.give(slots[0], 1.0), NOT_KEPT)

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

    def test_shrinking_closes_as_many_as_are_too_many(self):
        for max_size in (3, 2, 1):
            with self.subTest(max_size):
                state = make_state(connecting=3)
                for slot in [borrow(state) for _ in range(3)]:
                    state.release(slot, 0.0)
                state.resize(0, max_size, 0.0)
                self.assertEqual(finish_closing(state), [SHRUNK] * (3 - max_size))
                self.assertEqual(len(state.idle), max_size)

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


class SettlingTests(SimpleTestCase):
    """What else happens while give() makes a connection idle."""

    def give(self, event):
        """Give back one of two while something happens. Return the state."""
        state = make_state(max_size=2, connecting=2)
        slot, _ = borrow(state), borrow(state)

        class Idle(deque):
            def append(self, slot):
                # Another thread, here of all places.
                event(state)
                super().append(slot)

        state.idle = Idle()
        state.take_idle = state.idle.pop
        self.assertEqual(state.give(slot, 1.0), UNSETTLED)
        return state

    def test_it_is_closed_if_it_may_not_be_kept(self):
        for event, reason in (
            (lambda state: state.condemn_generation(DRAINED, 1.0), DRAINED),
            (lambda state: state.close(), POOL_CLOSED),
            (lambda state: state.resize(0, 1, 1.0), SHRUNK),
        ):
            with self.subTest(reason):
                state = self.give(event)
                state.settle(1.0)
                self.assertEqual(finish_closing(state), [reason])
                self.assertEqual(len(state.idle), 0)

    def test_it_is_kept_if_who_came_has_left(self):
        waiters = []
        state = self.give(lambda state: waiters.extend(queue(state)))
        state.leave(waiters[0], 1.0)
        state.settle(1.0)
        self.assertEqual((len(state.idle), state.to_close), (1, []))


class CounterTests(SimpleTestCase):
    def test_use_is_counted_from_when_the_connection_was_had(self):
        state = make_state(max_size=1)
        permit = state.acquire(0.0)
        state.opened(permit, object(), 5.0)
        (waiter,) = queue(state, now=5.0)
        state.release(permit, 6.0)
        state.discard(permit, BROKEN, 8.0)
        self.assertEqual(read_stats(state, 8.0, {}).use.total, 3.0)
        self.assertEqual(state.counters.wait_total, 1.0)
        self.assertEqual(state.counters.open_total, 5.0)

    def test_time_spent_idle_is_not_counted(self):
        for way in ("take", "acquire"):
            with self.subTest(way):
                state = make_state()
                state.release(borrow(state), 0.0)
                state.release(getattr(state, way)(5.0), 6.0)
                self.assertEqual(read_stats(state, 6.0, {}).use.total, 1.0)

    def test_any_duration_can_be_counted(self):
        for held in (0.0, 1e-7, 3.0, 86400.0 * 365 * 100):
            with self.subTest(held):
                state = make_state(max_lifetime=None)
                state.release(borrow(state, 0.0), held)
                use = read_stats(state, held, {}).use
                self.assertEqual((use.count, use.total), (1, held))

    def test_reuse_is_still_counted_when_the_connection_is_gone(self):
        state = make_state()
        slot = borrow(state)
        for step in (state.take, state.acquire):
            state.release(slot, 0.0)
            self.assertIs(step(0.0), slot)
        state.discard(slot, BROKEN, 0.0)
        self.assertEqual(finish_closing(state), [BROKEN])
        stats = read_stats(state, 0.0, {})
        self.assertEqual((stats.acquired, stats.reused), (3, 2))

    def test_brief_uses_are_told_from_others(self):
        state = make_state()
        slot = borrow(state)
        for seconds in (0.0, 0.0001, BRIEF * 0.999, BRIEF, 1.0):
            slot.leased_at = 0.0
            state.release(slot, seconds)
            self.assertIs(state.take(0.0), slot)
        # Those of a connection that's gone are still there.
        for gone in (False, True):
            if gone:
                state.discard(slot, BROKEN, 0.0)
                finish_closing(state)
            use = read_stats(state, 0.0, {}).use
            self.assertEqual(use.count, 5 + gone)
            self.assertEqual(use.counts[0], (BRIEF, 3 + gone))
            self.assertEqual(use.counts[-1], (2**20 / 1_000_000, 1))
