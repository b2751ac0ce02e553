"""States of a pool in some situation, and a model that checks each step."""

from django.db.pool.options import PoolOptions
from django.db.pool.state import (
    BROKEN,
    CLOSING,
    DRAINED,
    IDLE,
    LEASED,
    NOT_CALM,
    OPENING,
    RESETTING,
    PoolState,
    Waiter,
)
from django.db.pool.stats import read_stats


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
        is_calm = not self.line and size - len(self.closing) <= state.max_size
        expect(
            state.calm == (state.generation if is_calm else NOT_CALM),
            "give() doesn't know whether it may keep a connection",
        )
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
        stats = read_stats(state, self.now, {})
        counters, expected = state.counters, self.expected
        pending_reuse = sum(slot.status == LEASED for slot in pending)
        expect(stats.acquired == expected["acquired"] + pending_reuse, "acquired")
        expect(counters.opened == expected["opened"], "opened")
        expect(counters.open_failures == expected["failures"], "open_failures")
        expect(counters.refused == expected["refused"], "refused")
        expect(stats.use.count == expected["uses"], "use")
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
