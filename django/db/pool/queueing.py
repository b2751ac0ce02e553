"""
What a borrower does for whom there's no idle connection: it stands in line
until it's served, or refused.
"""

import threading
import time

from . import deadlock, maintenance
from .exceptions import PoolClosed, PoolDeadlock, PoolFull, PoolTimeout
from .lease import Lease
from .reentry import is_inside
from .state import LEASED, NEVER, Waiter

# Seconds that a borrower sleeps before it stands in line, and how many times
# it does at most while there is a line, see QueueMixin._nap().
NAP = 50e-6
MOST_NAPS = 20

# Seconds for which a pool is held to be crowded after all connections were
# found in use, and that a thread pauses at the end of a turn meanwhile, see
# QueueMixin._end_turn().
CROWDED = 1.0
PAUSE = 1e-3

# The first in line asks for lost connections to be looked for after so many
# seconds, then after longer and longer pauses.
LOOK_AFTER = 0.1
LOOK_AT_LEAST_EVERY = 1.0

# Called by a thread that may have to wait, to give back what it can spare.
# Return whether it still holds a connection, of whichever pool.
wait_listeners = []


class _Waiter(Waiter):
    """A place in the line with something to sleep on."""

    # Why it was woken without a slot, see QueueMixin._refuse().
    refusal = None

    def __init__(self):
        # Held from the start. Whoever serves the waiter releases it, once.
        self.wake = threading.Lock()
        self.wake.acquire()


class QueueMixin:
    """The part of ConnectionPool that borrowers wait in."""

    def _acquire_or_wait(self, now, timeout, deadline, owner):
        if is_inside(self._lock):
            raise self.refusal_inside()
        state = self._state
        lease = Lease()
        lease.pool = self
        lease.deadline = deadline
        holds = False
        for listener in wait_listeners:
            holds = listener() or holds
        if timeout and len(state.slots) >= state.max_size:
            state.crowded_until = now + CROWDED
            if self._uses_are_short():
                now = self._nap()
        waiter = _Waiter()
        try:
            with self._lock:
                if timeout:
                    waiter.slot = state.acquire(now, deadline)
                else:
                    waiter.slot = state.acquire_idle(now)
                # Decided with the lock held, for it may change at any time.
                if waiter.slot is not None:
                    refusal = None
                elif state.closed:
                    refusal = PoolClosed
                elif not timeout:
                    refusal = PoolTimeout
                    state.counters.timeouts += 1
                elif state.is_pausing(now):
                    refusal = self._connect_error or PoolTimeout
                else:
                    refusal = None if state.wait(waiter, now, deadline) else PoolFull
            if state.to_close:
                self.close_condemned()
            if refusal is not None:
                self._refuse(refusal, timeout)
            if waiter.slot is None:
                self._wait(waiter, deadline, timeout, holds)
                # A use begins when its borrower runs, not when it's woken.
                waiter.slot.leased_at = self._clock()
            waiter.slot.owner = owner
            # From now on the lease answers for the slot, not leave().
            lease._slot, waiter.slot = waiter.slot, None
            return lease
        except BaseException:
            # KeyboardInterrupt, a gevent timeout and the like may come at any
            # point, also just after the waiter was served.
            deadlock.leave()
            with self._lock:
                state.leave(waiter, self._clock())
                self._wake()
            self.close_condemned()
            raise

    def _uses_are_short(self):
        """Return whether the last use was shorter than a nap."""
        return self._state.last_use < NAP

    def _nap(self):
        """
        Let other threads run before standing in line. Return the time.

        Where uses are shorter than a switch of threads, holders that were
        interrupted by one give back meanwhile. With them in the lead, a line
        would form, and last: each return would be handed to a sleeping
        thread, at the price of another switch, and each borrower find nothing
        and lie down. A line that there is goes away while none joins it.

        But where uses turn out to be longer, that would only keep the thread
        from its place.
        """
        for _ in range(MOST_NAPS):
            time.sleep(NAP)
            if not self._state.waiters or not self._uses_are_short():
                break
        return self._clock()

    def _end_turn(self):
        """
        Let other threads run. The interpreter has a thread that never waits
        run for some milliseconds in its turn, and doesn't choose the next one
        fairly: with so few turns, some would borrow much more than others.
        """
        time.sleep(PAUSE)

    def _wait(self, waiter, deadline, timeout, holds):
        """
        Wait until a waiter in line has been served. Raise if it isn't, or
        never could be.

        holds: whether this thread has a connection that others may wait for.
        """
        if holds:
            try:
                deadlock.enter(self)
                self._sleep(waiter, deadline, timeout)
            finally:
                deadlock.leave()
        else:
            self._sleep(waiter, deadline, timeout)
        if waiter.slot is None:
            # It may have looked before it was woken. Whoever turns it away
            # holds the lock until it has said why.
            with self._lock:
                refusal = waiter.refusal or (
                    PoolClosed if self._state.closed else PoolTimeout
                )
            self._refuse(refusal, timeout)

    def _sleep(self, waiter, deadline, timeout):
        state = self._state
        # The line is looked at whenever something else changes.
        wake_at = waiter.patient_until if waiter.patient_until > waiter.since else NEVER
        look_at = waiter.since + LOOK_AFTER
        while not waiter.served:
            left = min(wake_at, look_at, deadline) - self._clock()
            if waiter.wake.acquire(timeout=left if left > 0 else 0):
                break
            with self._lock:
                now = self._clock()
                if waiter.served:
                    break
                if now >= deadline:
                    state.counters.timeouts += 1
                    raise self._timed_out(timeout, gone=1)
                if now >= wake_at:
                    # From now on the pool opens a connection for this waiter
                    # as soon as that's possible.
                    wake_at = NEVER
                    state.dispatch(now)
                    self._wake()
                first = next(iter(state.waiters), None)
            if now >= look_at:
                if waiter is first:
                    maintenance.put_and_wake(type(self).reclaim_lost, self)
                look_at = now + min(2 * (now - waiter.since), LOOK_AT_LEAST_EVERY)

    def check_deadline(self, deadline):
        """Raise PoolTimeout if a time on the pool's clock has come."""
        if self._clock() < deadline:
            return
        with self._lock:
            self._state.counters.timeouts += 1
        raise self._timed_out(self.timeout)

    def _refuse(self, refusal, timeout):
        """
        Raise what a borrower gets that can't be served.

        refusal: the class of one of the pool's errors, or an error met by
            another borrower on connecting.
        """
        if refusal is PoolClosed:
            raise PoolClosed(f"The pool {self.name!r} is closed.")
        if refusal is PoolTimeout:
            raise self._timed_out(timeout)
        if refusal is PoolFull:
            raise PoolFull(
                f"{self._state.max_waiting} borrowers wait for the pool "
                f"{self.name!r} already, which is its max_waiting. "
                f"{self._describe()}"
            )
        raise without_frames(refusal)

    def refusal_inside(self):
        """Return the error for who waits in the midst of another call."""
        return PoolDeadlock(
            f"A connection of the pool {self.name!r} can't be waited for here: this "
            "code is a finalizer, or a signal handler, that has interrupted its own "
            "thread in the midst of a call of a pool."
        )

    def _timed_out(self, timeout, gone=0):
        error = PoolTimeout(
            f"The pool {self.name!r} had no connection within {timeout:g} s. "
            f"{self._describe(gone)}"
        )
        error.__cause__ = self._connect_error
        return error

    def _describe(self, gone=0):
        """
        Say in a sentence what the pool looks like, without the lock.

        gone: how many of those in line don't wait any more.
        """
        state = self._state
        now = self._clock()
        leased = [slot for slot in list(state.slots) if slot.status is LEASED]
        waiting = len(state.waiters) - gone
        text = (
            f"Of at most {state.max_size} connections {len(leased)} are in use, "
            f"{len(state.idle)} idle and {state.opening} being opened; "
            f"{waiting} {'borrower is' if waiting == 1 else 'borrowers are'} waiting."
        )
        if leased:
            longest = min(leased, key=lambda slot: slot.leased_at)
            owner = "" if longest.owner is None else f" by {longest.owner}"
            held = now - longest.leased_at
            text += f" The longest has been in use for {held:.3g} s{owner}."
        if self._connect_error is not None:
            text += f" The last connect failed: {self._connect_error}"
        return text


def without_frames(error):
    """
    Return a copy of an exception that keeps no frames, and so no borrower,
    alive.
    """
    try:
        copy = type(error)(*error.args)
    except Exception:
        copy = Exception(f"{type(error).__name__}: {error}")
    return copy
