"""
A connection pool for threads: PoolState behind one lock. Only an idle
connection is taken and given back without it, see PoolState.take() and give().

No SQL is run here, and no connection opened: a borrower that gets a permit
opens one itself.
"""

import logging
import random
import threading
import time

from . import maintenance
from .exceptions import PoolClosed, PoolFull, PoolTimeout
from .lease import Holder, Lease
from .options import is_count, is_positive_count
from .state import (
    ABANDONED,
    BROKEN,
    DEAD,
    KEPT,
    LEASED,
    NEVER,
    NOT_KEPT,
    OPENING,
    RESETTING,
    PoolState,
    Waiter,
)
from .stats import Histogram, PoolStats

logger = logging.getLogger("django.db.pool")

# Uses are counted when there are so many to count.
MANY_HELD = 1024


class _Waiter(Waiter):
    """A place in the line with something to sleep on."""

    __slots__ = ("wake", "refusal")

    def __init__(self):
        super().__init__()
        # Why it was woken without a slot, see ConnectionPool._refuse().
        self.refusal = None
        # Held from the start. Whoever serves the waiter releases it, once.
        self.wake = threading.Lock()
        self.wake.acquire()


class ConnectionPool:
    """
    The connections that a process keeps to one database.

    options: a PoolOptions.
    pooling: a BaseDatabasePooling, asked to close connections and to open
        those that min_size wants.
    clock: a callable that returns the time in seconds and never goes back.
    """

    def __init__(self, options, pooling, clock=time.monotonic):
        self.options = options
        self.name = options.name
        self.pooling = pooling
        self.timeout = options.timeout
        self._clock = clock
        self._state = PoolState(options, random.random)
        # May be held for a few steps of the state and for waking waiters,
        # never while anything is sent, awaited, opened, closed or logged.
        self._lock = threading.Lock()
        self.closed = False
        # The last error met on connecting, None after a success.
        self._connect_error = None
        # On the maintenance thread's account, see _fill().
        self._fill_since = None
        self._fill_at = 0.0

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
        if (slot := self._state.take(now)) is not None:
            slot.owner = owner
            return Lease([slot], self, deadline)
        if timeout is None:
            timeout = self.timeout
        if deadline is None:
            deadline = now + timeout
        return self._acquire_or_wait(now, timeout, deadline, owner)

    def _acquire_or_wait(self, now, timeout, deadline, owner):
        state = self._state
        lease = Lease([], self, deadline)
        waiter = _Waiter()
        try:
            with self._lock:
                if timeout:
                    waiter.slot = state.acquire(now)
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
                    refusal = None if state.wait(waiter, now) else PoolFull
            if state.to_close:
                self.close_condemned()
            if refusal is not None:
                self._refuse(refusal, timeout)
            if waiter.slot is None:
                self._wait(waiter, deadline, timeout)
            waiter.slot.owner = owner
            # From now on the lease answers for the slot, not leave().
            lease.cell[:], waiter.slot = [waiter.slot], None
            return lease
        except BaseException:
            # KeyboardInterrupt, a gevent timeout and the like may come at any
            # point, also just after the waiter was served.
            with self._lock:
                state.leave(waiter, self._clock())
                self._wake()
            self.close_condemned()
            raise

    def _wait(self, waiter, deadline, timeout):
        """Wait until a waiter in line has been served. Raise if it isn't."""
        state = self._state
        wake_at = waiter.patient_until
        while not waiter.served:
            left = min(wake_at, deadline) - self._clock()
            if waiter.wake.acquire(timeout=min(max(left, 0), threading.TIMEOUT_MAX)):
                break
            with self._lock:
                now = self._clock()
                if waiter.served:
                    break
                if now >= deadline:
                    state.counters.timeouts += 1
                    raise self._timed_out(timeout)
                if now >= wake_at:
                    # From now on the pool opens a connection for this waiter
                    # as soon as that's possible.
                    wake_at = NEVER
                    state.dispatch(now)
                    self._wake()
        if waiter.slot is None:
            self._refuse(waiter.refusal, timeout)

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
        raise _without_frames(refusal)

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

    # ##### Giving back #####

    def release(self, lease):
        """
        Give back a connection that is ready for its next borrower. Return
        whether the lease was ended by this call: one that had ended before is
        left alone. Raise ValueError if it's a lease of another pool.
        """
        if lease.pool is not self:
            self._refuse_lease(lease)
        try:
            # As Lease.end() does, without the call.
            slot = lease.cell.pop()
        except IndexError:
            return False
        if slot.status is not LEASED:
            return False
        state = self._state
        now = self._clock()
        kept = state.give(slot, now)
        if kept is not KEPT:
            with self._lock:
                if kept is NOT_KEPT:
                    state.release(slot, now)
                else:
                    state.settle(now)
                self._wake()
            self.close_condemned()
        if len(state.held) >= MANY_HELD:
            with self._lock:
                state.counters.count_held()
        return True

    def release_dirty(self, lease):
        """
        Give back a connection whose session has to be reset first: at once if
        somebody waits or nothing else is idle, else by the maintenance thread.
        Returns and raises as release() does.
        """
        state = self._state
        with self._lock:
            if (slot := self._end(lease, LEASED)) is None:
                return False
            state.start_reset(slot, self._clock())
            can_spare = state.idle and not state.waiters
        if can_spare:
            maintenance.put(self.reset, slot)
        else:
            self.reset(slot)
        return True

    def reset(self, slot):
        """Reset the session of a connection taken out for it."""
        how = self.options.reset if callable(self.options.reset) else None
        succeeded = False
        try:
            succeeded = self.pooling.reset_in_time(slot.connection, slot.session, how)
        except Exception as e:
            logger.debug("Resetting a connection of pool %r: %s", self.name, e)
        finally:
            with self._lock:
                if slot.status is RESETTING:
                    self._state.end_reset(slot, succeeded, self._clock())
                    self._wake()
            self.close_condemned()

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
            self._connect_error = _without_frames(error)
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
            if slot.status is LEASED:
                self._state.counters.abandoned += 1
                # Nobody knows what state the connection is in, or whether a
                # cursor of it is still held somewhere.
                self._state.discard(slot, ABANDONED, self._clock())
            elif slot.status is OPENING:
                self._state.withdraw(slot, self._clock())
                self._wake()
        self.close_condemned()

    # ##### The pool as a whole #####

    def now(self):
        """Return the time on the pool's clock, in seconds."""
        return self._clock()

    def is_empty(self):
        """Return whether there's no connection, not even one in use."""
        return not self._state.slots

    def close(self):
        """
        Close all idle connections, and those in use when they are given back.
        Whoever waits gets PoolClosed. A closed pool stays closed.
        """
        self.closed = True
        with self._lock:
            self._state.close()
            self._wake()
        self.close_condemned()

    def drain(self):
        """
        Replace all connections: the idle ones are closed now, those in use
        when they are given back.
        """
        with self._lock:
            self._state.condemn_generation("drained", self._clock())
        self.close_condemned()
        maintenance.wake()

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

    def stats(self):
        """Return a PoolStats, what the pool looks like and has done."""
        with self._lock:
            now = self._clock()
            state = self._state
            counters = state.counters
            counters.count_held()
            oldest = next(iter(state.waiters), None)
            return PoolStats(
                name=self.name,
                min_size=state.min_size,
                max_size=state.max_size,
                size=len(state.slots),
                idle=len(state.idle),
                in_use=(
                    len(state.slots)
                    - len(state.idle)
                    - state.opening
                    - state.resetting
                    - state.closing
                ),
                connecting=state.opening,
                resetting=state.resetting,
                waiting=len(state.waiters),
                oldest_wait=0.0 if oldest is None else now - oldest.since,
                acquired=state.count_reused() + counters.first_used,
                reused=state.count_reused(),
                waited=sum(counters.wait_buckets),
                timeouts=counters.timeouts,
                refused=counters.refused,
                abandoned=counters.abandoned,
                opened=counters.opened,
                open_failures=counters.open_failures,
                closed=dict(counters.closed),
                wait=Histogram.read(counters.wait_buckets, counters.wait_total),
                use=Histogram.read(counters.use_buckets, counters.use_total),
                open=Histogram.read(counters.open_buckets, counters.open_total),
            )

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

    # ##### On the maintenance thread #####

    def maintain(self):
        """
        Do what's due. Return in how many seconds there will be something to
        do again, None if the pool is empty and there won't.
        """
        state = self._state
        with self._lock:
            state.sweep(self._clock())
        self.close_condemned()
        fill_at = self._fill()
        report_at = self._report_held()
        with self._lock:
            now = self._clock()
            due_in = min(fill_at, report_at, state.next_due()) - now
            if state.slots:
                # What's in use now may be idle for too long in this time. And
                # as long as there's a borrower, it may die.
                due_in = min(due_in, state.max_idle)
            elif due_in == NEVER:
                return None
            return max(due_in, 0.0)

    def _fill(self):
        """
        Open the connections that min_size asks for. Return when to try again.

        After a failure, tries come after 1, 2, 4 ... seconds, up to 25 % less
        so that many processes don't come at once. After reconnect_timeout
        seconds of failures the pool leaves it to its borrowers until one of
        them succeeds.
        """
        if self._fill_since is not None and self._connect_error is None:
            self._fill_since, self._fill_at = None, 0.0
        while True:
            now = self._clock()
            if now < self._fill_at:
                return self._fill_at
            with self._lock:
                if (slot := self._state.reserve(now)) is None:
                    return NEVER
            try:
                connection, session = self.pooling.open(self.timeout)
            except BaseException as e:
                failed = self.pooling.is_connect_error(e)
                with self._lock:
                    self._note_failure(slot, e if failed else None)
                if not isinstance(e, Exception):
                    raise
                return self._back_off(e)
            self._fill_since, self._fill_at = None, 0.0
            with self._lock:
                slot.session = session
                self._state.supplied(slot, connection, self._clock())
                self._connect_error = None
                self._wake()
            self.close_condemned()

    def _report_held(self):
        """
        Log connections held for longer than leak_warning. Return when to look
        again.
        """
        if (limit := self.options.leak_warning) is None:
            return NEVER
        now = self._clock()
        # One that's borrowed from now on is looked at then.
        look_at = now + limit
        overdue = []
        with self._lock:
            for slot in self._state.slots:
                owner, since = slot.owner, slot.leased_at
                if not isinstance(owner, Holder) or owner.reported:
                    continue
                if now - since < limit:
                    look_at = min(look_at, since + limit)
                else:
                    owner.reported = True
                    overdue.append((owner, now - since))
        for owner, seconds in overdue:
            logger.warning(
                "A connection of pool %r has been held for %.1f s by %s, which "
                "borrowed it here:\n%s",
                self.name,
                seconds,
                owner,
                owner.format_stack(),
            )
        return look_at

    def _back_off(self, error):
        now = self._clock()
        if self._fill_since is None:
            self._fill_since = now
        failing_for = now - self._fill_since
        if failing_for >= self.options.reconnect_timeout:
            logger.warning(
                "Pool %r gave up opening connections in advance after %.0f s: %s",
                self.name,
                failing_for,
                error,
            )
            self._fill_at = NEVER
        else:
            pause = max(1.0, failing_for) * (1.0 - 0.25 * random.random())
            self._fill_at = now + pause
        return self._fill_at

    # ##### After a fork, in the child #####

    def forget(self):
        """
        Start again without the connections, which are the parent's. None of
        them may be used or closed politely: that would end the parent's
        session. No other thread exists.
        """
        before = self._state
        slots = before.slots
        self._lock = threading.Lock()
        self._state = PoolState(self.options, random.random)
        self._state.closed = self.closed
        self._state.resize(before.min_size, before.max_size, self._clock())
        self._connect_error = None
        self._fill_since, self._fill_at = None, 0.0
        for slot in slots:
            # So that a lease of it ends without effect.
            slot.status = "forgotten"
            if slot.connection is not None:
                self.pooling.forget(slot.connection)

    # ##### Helpers #####

    def _wake(self):
        """With the lock held, wake the waiters that were served."""
        to_wake = self._state.to_wake
        for waiter in to_wake:
            if waiter.slot is None:
                if self._state.closed:
                    waiter.refusal = PoolClosed
                else:
                    # There's an error if nothing was interrupted halfway.
                    waiter.refusal = self._connect_error or PoolTimeout
            waiter.wake.release()
        to_wake.clear()

    def _timed_out(self, timeout):
        error = PoolTimeout(
            f"The pool {self.name!r} had no connection within {timeout:g} s. "
            f"{self._describe()}"
        )
        error.__cause__ = self._connect_error
        return error

    def _describe(self):
        """Say in a sentence what the pool looks like, without the lock."""
        state = self._state
        now = self._clock()
        leased = [slot for slot in list(state.slots) if slot.status is LEASED]
        text = (
            f"Of at most {state.max_size} connections {len(leased)} are in use, "
            f"{len(state.idle)} idle and {state.opening} being opened; "
            f"{len(state.waiters)} borrowers are waiting."
        )
        if leased:
            longest = min(leased, key=lambda slot: slot.leased_at)
            owner = "" if longest.owner is None else f" by {longest.owner}"
            held = now - longest.leased_at
            text += f" The longest has been in use for {held:.3g} s{owner}."
        if self._connect_error is not None:
            text += f" The last connect failed: {self._connect_error}"
        return text


def _without_frames(error):
    """
    Return a copy of an exception that keeps no frames, and so no borrower,
    alive.
    """
    try:
        copy = type(error)(*error.args)
    except Exception:
        copy = Exception(f"{type(error).__name__}: {error}")
    return copy
