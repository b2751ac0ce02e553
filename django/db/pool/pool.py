"""
A connection pool for threads: PoolState behind one lock. Only an idle
connection is taken and given back without it, see PoolState.take() and give().

No SQL is run here, and no connection opened: a borrower that gets a permit
opens one itself.
"""

import logging
import random
import sys
import threading
import time

from . import maintenance
from .exceptions import PoolClosed, PoolTimeout
from .lease import Lease
from .options import is_count, is_positive_count
from .pins import holding_of
from .queueing import QueueMixin, without_frames
from .state import (
    BROKEN,
    DEAD,
    DIRTY,
    IDLE,
    LEASED,
    OPENING,
    RESETTING,
    UNCLEAN,
    PoolState,
    Slot,
)
from .stats import BRIEF, read_stats
from .upkeep import UpkeepMixin

logger = logging.getLogger("django.db.pool")

# Uses that weren't brief are counted when there are so many to count. That's
# done with the lock held: it mustn't take long.
MANY_HELD = 128

# After so many brief uses of a connection, the turn of the last one's thread
# is over if there are more borrowers than connections. A power of 2 less one,
# for a test of bits.
TURN = 255


def _count_references(slots):
    return [(slot, sys.getrefcount(slot)) for slot in slots]


# How many references there are to a slot that only its pool refers to.
if hasattr(sys, "getrefcount"):
    REFERENCES_TO_LOST = _count_references({Slot(0, 0.0)})[0][1]
else:
    # Not CPython: what's lost isn't found.
    REFERENCES_TO_LOST = None


# Called with a pool after it was resized.
resize_listeners = []


class ConnectionPool(QueueMixin, UpkeepMixin):
    """
    The connections that a process keeps to one database.

    options: a PoolOptions.
    pooling: a BaseDatabasePooling, asked to close connections and to open
        those that min_size wants.
    clock: a callable that returns the time in seconds and never goes back.
    """

    # Whether those who wait go on to another pool when it's closed: its alias
    # has other settings now, or the process is about to end.
    is_left_behind = False

    def __init__(self, options, pooling, clock=time.monotonic):
        self.options = options
        self.name = options.name
        self.pooling = pooling
        self.timeout = options.timeout
        self._clock = clock
        self._state = PoolState(options, random.random)
        # May be held for a few steps of the state and for waking waiters,
        # never while anything is sent, awaited, opened, closed or logged.
        # Reentrant, so that it knows its holder: see reentry.
        self._lock = threading.RLock()
        self.closed = False
        # The last error met on connecting, None after a success.
        self._connect_error = None

    def __repr__(self):
        return (
            f"<{self.__class__.__name__} {self.name!r} size={len(self._state.slots)} "
            f"idle={len(self._state.idle)} waiting={len(self._state.waiters)}>"
        )

    # ##### Borrowing #####

    def acquire(self, timeout=None, owner=None, deadline=None):
        """
        Return a Lease. Its connection is None if it's a permit to open one:
        open it then, and call opened() or failed().

        timeout: how long this may take in seconds, the pool's own timeout by
            default. 0 returns an idle connection or fails at once.
        owner: anything whose str() says who borrows, for messages.
        deadline: when it must be done at the latest, on the pool's clock;
            goes before timeout.

        Raise PoolTimeout at the deadline, PoolFull if max_waiting others wait
        already, PoolClosed if the pool is or gets closed.
        """
        now = self._clock()
        state = self._state
        # PoolState.take(), without the call: with a connection idle, a borrow
        # costs little more than its calls.
        try:
            slot = state.take_idle()
        except IndexError:
            pass
        else:
            if now < slot.expires_at and now < slot.idle_since + state.max_idle:
                slot.status = LEASED
                slot.leased_at = now
                slot.owner = owner
                lease = Lease()
                lease._slot = slot
                lease.pool = self
                lease.deadline = deadline
                return lease
            state.idle.append(slot)
        if timeout is None:
            timeout = self.timeout
        if deadline is None:
            deadline = now + timeout
        return self._acquire_or_wait(now, timeout, deadline, owner)

    def opened(self, lease, connection, session=None):
        """
        Tell that the holder of a permit has opened a connection, which it
        goes on to use.

        session: whatever the pooling class keeps with the connection.
        """
        with self._lock:
            lease.slot.session = session
            self._state.opened(lease.slot, connection, self._clock())
            # After the state, which may count on an error while it pauses.
            self._connect_error = None
            self._wake()
        maintenance.wake()

    def failed(self, lease, error):
        """
        Give back a permit because connecting failed with an exception. None
        if it didn't fail on the server's account: the pool draws no
        conclusions then.
        """
        with self._lock:
            if (slot := self._end(lease, OPENING)) is None:
                return
            self._note_failure(slot, error)
            is_short = self._state.is_short()
        if is_short:
            # What min_size asks for isn't left to the next borrower.
            maintenance.wake()

    # ##### Giving back #####

    def release(self, lease):
        """
        Give back a connection that is ready for its next borrower. Return
        whether the lease was ended by this call: one that had ended before is
        left alone. Raise ValueError if it's a lease of another pool.
        """
        try:
            # Lease.end(), without the call.
            slot = lease._slot
            del lease._slot
        except AttributeError:
            return False
        state = self._state
        now = self._clock()
        # PoolState.give(), without the call. No other pool has this
        # generation, so what's another pool's isn't kept either.
        if slot.generation != state.calm or now >= slot.expires_at:
            return self._release(lease, slot, now)
        used = now - slot.leased_at
        if used < BRIEF:
            slot.brief_uses += 1
            slot.brief_time += used
        else:
            held = state.counters.held
            held.append(used)
            if len(held) >= MANY_HELD:
                self._count_held()
        slot.owner = None
        slot.status = IDLE
        slot.idle_since = now
        state.idle.append(slot)
        if slot.generation != state.calm:
            self._settle(now)
        if now < state.crowded_until:
            state.last_use = used
            if used < BRIEF and not slot.brief_uses & TURN:
                self._end_turn()
        return True

    @maintenance.put_off_inside
    def _release(self, lease, slot, now):
        if lease.pool is not self:
            lease._slot = slot
            self._refuse_lease(lease)
        with self._lock:
            if slot.status is LEASED:
                self._state.release(slot, now)
            elif slot.status is OPENING:
                # A permit that wasn't used.
                self._state.withdraw(slot, now)
            else:
                # The parent's, in a forked child.
                return False
            self._wake()
        self.close_condemned()
        return True

    @maintenance.put_off_inside
    def _settle(self, now):
        with self._lock:
            self._state.settle(now)
            self._wake()
        self.close_condemned()

    def _count_held(self):
        with self._lock:
            self._state.counters.count_held()

    @maintenance.put_off_inside
    def release_dirty(self, lease, left=None):
        """
        Give back a connection whose session has to be reset first: at once if
        somebody waits or nothing else is idle, else by the maintenance thread.
        Returns and raises as release() does.

        left: an Aftermath if there's more to do, see reset_in_time().
        """
        state = self._state
        with self._lock:
            if (slot := self._end(lease, LEASED)) is None:
                return False
            state.start_reset(slot, self._clock())
            can_spare = state.idle and not state.waiters
        # It mustn't be left to a thread that waits for some other server: it
        # may be needed, and a transaction holds locks.
        if can_spare and not maintenance.is_late():
            maintenance.put(self.reset, slot, left)
        else:
            self.reset(slot, left)
        return True

    def reset(self, slot, left=None):
        """Reset the session of a connection taken out for it."""
        how = self.options.reset if callable(self.options.reset) else None
        succeeded = False
        try:
            succeeded = self.pooling.reset_in_time(
                slot.connection, slot.session, how, left
            )
        except Exception as e:
            logger.debug("Resetting a connection of pool %r: %s", self.name, e)
        finally:
            reason = DIRTY if left is None or left.is_over else UNCLEAN
            with self._lock:
                if slot.status is RESETTING:
                    self._state.end_reset(slot, succeeded, self._clock(), reason)
                    self._wake()
            self.close_condemned()

    @maintenance.put_off_inside
    def discard(self, lease, reason=BROKEN):
        """
        Give back a connection that nobody may use again. It's closed, and its
        slot serves the next waiter. Returns and raises as release() does.
        """
        with self._lock:
            if (slot := self._end(lease, LEASED)) is None:
                return False
            if reason is DEAD:
                self._state.discard_unused(slot)
            else:
                self._state.discard(slot, reason, self._clock())
        self.close_condemned()
        return True

    @maintenance.put_off_inside
    def discard_dead(self):
        """
        Close all idle connections whose probes give reason for doubt. Called
        when one was found dead: after a restart of the server all are.
        """
        state = self._state
        now = self._clock()
        taken = []
        dead = set()
        try:
            while (slot := state.take(now)) is not None:
                taken.append(slot)
            dead.update(slot for slot in taken if self._is_in_doubt(slot))
        finally:
            if self.options.order == "lifo":
                # The first taken was the next to be lent.
                taken.reverse()
            with self._lock:
                for slot in taken:
                    if slot in dead:
                        state.discard_unused(slot)
                    else:
                        state.release_unused(slot, now)
                self._wake()
            self.close_condemned()

    def _is_in_doubt(self, slot):
        try:
            return (probe := slot.session.probe) is not None and probe()
        except Exception:
            # Its descriptor is closed, for one.
            return True

    def _note_failure(self, slot, error):
        """With the lock held, free the slot of a connect that failed."""
        now = self._clock()
        if error is None:
            self._state.withdraw(slot, now)
        else:
            # First, for those whom this wakes.
            self._connect_error = without_frames(error)
            self._state.failed(slot, now)
        self._wake()

    def _end(self, lease, status):
        """With the lock held, end a lease. Return its slot, if it had one."""
        if lease.pool is not self:
            self._refuse_lease(lease)
        slot = lease.end()
        # After a fork the slot isn't the lease's any more.
        return None if slot is None or slot.status is not status else slot

    def _refuse_lease(self, lease):
        raise ValueError(
            f"A lease of the pool {lease.pool.name!r} can't be given back to the "
            f"pool {self.name!r}."
        )

    def abandon(self, slot):
        """
        Take back what a borrower left behind when it died. May be called
        anywhere, by a destructor for one, where a lock can't be taken.
        """
        maintenance.put(self.reclaim, slot)

    def reclaim(self, slot):
        """Take back an abandoned slot, on the maintenance thread."""
        with self._lock:
            self._state.reclaim(slot, self._clock())
            self._wake()
        self.close_condemned()

    def reclaim_lost(self):
        """
        Take back the slots that nobody can give back: there's no lease of
        them any more. A lease may have been dropped, or an exception such as
        KeyboardInterrupt have come between two steps of borrowing.
        """
        if REFERENCES_TO_LOST is None:
            return
        state = self._state
        with self._lock:
            state.recount()
            # While a slot is on its way from one place to another, whoever
            # carries it has a reference.
            for slot, references in _count_references(state.slots):
                if references <= REFERENCES_TO_LOST:
                    state.reclaim(slot, self._clock())
            # Nor would anybody else see to a line that a return left behind.
            state.settle(self._clock())
            self._wake()
        self.close_condemned()

    # ##### The pool as a whole #####

    def now(self):
        """Return the time on the pool's clock, in seconds."""
        return self._clock()

    @property
    def max_size(self):
        """How many connections there may be."""
        return self._state.max_size

    def may_open(self):
        """Return whether a connection more may be opened just now."""
        return self._state.has_room()

    def slots(self):
        """Return a list of all slots, which may change at any time."""
        return list(self._state.slots)

    def pins(self):
        """
        Return what pins the connections in use, as a list of pairs: who holds
        one, in words, and a Pin. See POOL["lease"].
        """
        return [
            (holding.label, pin)
            for slot in self.slots()
            if slot.status is LEASED and (holding := holding_of(slot.owner))
            for pin in holding.all_pins()
        ]

    @maintenance.put_off_inside
    def count_pin(self, name):
        """Count a pin for the statistics."""
        with self._lock:
            pins = self._state.counters.pins
            pins[name] = pins.get(name, 0) + 1

    def is_empty(self):
        """Return whether there's no connection, not even one in use."""
        return not self._state.slots

    @maintenance.put_off_inside
    def close(self):
        """
        Close all idle connections, and those in use when they are given back.
        Whoever waits gets PoolClosed. A closed pool stays closed.
        """
        self.shut()
        self.close_condemned()

    @maintenance.put_off_inside
    def shut(self):
        """Do what close() does, except closing the idle connections."""
        self.closed = True
        with self._lock:
            self._state.close()
            self._wake()

    @maintenance.put_off_inside
    def drain(self):
        """
        Replace all connections: the idle ones are closed now, those in use
        when they are given back.
        """
        with self._lock:
            self._state.condemn_generation("drained", self._clock())
        self.close_condemned()
        maintenance.wake()

    @maintenance.put_off_inside
    def resize(self, min_size=None, max_size=None):
        """Change the limits, in connections. Raise ValueError if wrong."""
        with self._lock:
            state = self._state
            min_size = state.min_size if min_size is None else min_size
            max_size = state.max_size if max_size is None else max_size
            if (
                not is_count(min_size)
                or not is_positive_count(max_size)
                or min_size > max_size
            ):
                raise ValueError(
                    f"The pool {self.name!r} can't have min_size {min_size!r} and "
                    f"max_size {max_size!r}. Both are integers, and 0 <= min_size "
                    "<= max_size and max_size >= 1 must hold."
                )
            state.resize(min_size, max_size, self._clock())
            self._wake()
        self.close_condemned()
        maintenance.wake()
        for listener in resize_listeners:
            listener(self)

    def stats(self):
        """Return a PoolStats, what the pool looks like and has done."""
        pinned = {}
        for _, pin in self.pins():
            pinned[pin.name] = pinned.get(pin.name, 0) + 1
        with self._lock:
            return read_stats(self._state, self._clock(), pinned)

    def close_condemned(self):
        """Close what the state wants closed, outside the lock."""
        state = self._state
        while state.to_close:
            with self._lock:
                if not state.to_close:
                    return
                slot = state.to_close.pop()
            try:
                self.pooling.close(slot.connection)
            except Exception as e:
                logger.debug("Closing a connection of pool %r: %s", self.name, e)
            finally:
                with self._lock:
                    state.closed_slot(slot, self._clock())
                    self._wake()
                    is_short = state.is_short()
                if is_short:
                    maintenance.wake()

    # ##### After a fork, in the child #####

    def forget(self):
        """
        Start again without the connections, which are the parent's. None of
        them may be used or closed politely: that would end the parent's
        session. No other thread exists.
        """
        before = self._state
        slots = before.slots
        self._lock = threading.RLock()
        self._state = PoolState(self.options, random.random)
        self._state.closed = self.closed
        self._state.resize(before.min_size, before.max_size, self._clock())
        self._connect_error = None
        for slot in slots:
            # So that a lease of it ends without effect.
            slot.status = "forgotten"
            slot.generation = None
            if slot.connection is not None:
                self.pooling.forget(slot.connection)

    # ##### Helpers #####

    def _wake(self):
        """With the lock held, wake the waiters that were served."""
        to_wake = self._state.to_wake
        while to_wake:
            # Taken out first: if this is interrupted, nobody is woken twice,
            # and who wasn't woken looks by itself before long.
            waiter = to_wake.pop(0)
            if waiter.slot is None:
                if self._state.closed:
                    waiter.refusal = PoolClosed
                else:
                    # There's an error if nothing was interrupted halfway.
                    waiter.refusal = self._connect_error or PoolTimeout
            waiter.wake.release()
