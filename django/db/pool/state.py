"""
The logic of a connection pool, and nothing else: no threads, no locks, no
clock, no input or output, nothing of Django.

The time comes in as an argument, in seconds of any clock that never goes
back. Decisions come out as return values and as the lists ``to_wake`` and
``to_close``, which the caller empties. So every situation can be built in a
test in a few lines.

The life of a slot, which is a connection's place in the pool::

                                                   RESETTING
                                                    ^      |
    (none) --acquire, reserve--> OPENING --opened--> LEASED <--> IDLE
                                    |                  |          |
                                  failed            condemn    condemn
                                    |                  v          v
    (none) <------------------------+----- closed -- CLOSING <----+

From RESETTING, a slot goes where one that's given back goes.

A slot counts from before its connect starts until after its connection was
closed. That is why there are never more than ``max_size`` connections.

These hold between any two calls:

* A slot is in one status, and in ``idle`` if and only if that is IDLE.
* If a connection is idle, nobody waits: whoever stands in line looks for one,
  and settle() serves the line where give() came in between.
* ``calm`` is the generation, or NOT_CALM if somebody waits or there are too
  many connections.
* If the patience of the first in line is over, no connection could be opened.
* The line is served from its head. Nobody is served past it, but for who
  takes what a give() keeps that began before there was a line.
"""

from collections import OrderedDict, deque
from itertools import count

from .stats import Counters, bucket_of

# Statuses of a slot.
OPENING = "opening"
IDLE = "idle"
LEASED = "leased"
RESETTING = "resetting"
CLOSING = "closing"
CLOSED = "closed"

# What give() returns.
KEPT = "kept"
NOT_KEPT = "not kept"
UNSETTLED = "unsettled"

# Reasons for closing a connection.
EXPIRED = "max_lifetime"
UNUSED = "max_idle"
DEAD = "dead"
ABANDONED = "abandoned"
BROKEN = "broken"
UNCLEAN = "unclean"
DIRTY = "not reset"
DRAINED = "drained"
SHRUNK = "resized"
POOL_CLOSED = "pool closed"

# A connection's own lifetime is up to this fraction shorter than max_lifetime.
LIFETIME_JITTER = 0.25

# After this many connects have failed in a row while no connection exists, the
# pool stops asking the server for a pause, in seconds. It doubles with each
# failure from the first to the longest, each up to a quarter shorter so that
# the processes of a site don't come back all at once.
FAILURES_BEFORE_PAUSE = 3
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
PAUSE_JITTER = 0.25

# Weight of the newest sample in the moving average of the time that it takes
# to open a connection.
OPEN_TIME_WEIGHT = 0.25

NEVER = float("inf")

# The generation of no connection.
NOT_CALM = -1

# Of all pools: a generation is one pool's alone.
_generations = count()


class Slot:
    """A connection's place in the pool, taken before it's opened."""

    __slots__ = (
        "connection",
        "status",
        "generation",
        "expires_at",
        "idle_since",
        "leased_at",
        "owner",
        "reason",
        "session",
        "brief_uses",
        "brief_time",
    )

    def __init__(self, generation, now):
        self.connection = None
        self.status = OPENING
        self.generation = generation
        # Never kept before it was opened.
        self.expires_at = -NEVER
        self.idle_since = now
        # Start of the present lease; while OPENING, start of the connect.
        self.leased_at = now
        # Whoever holds the slot, for messages only.
        self.owner = None
        # Why the connection is being closed.
        self.reason = None
        # What the pooling class keeps with the connection.
        self.session = None
        # How often, and for how many seconds in all, it was in use but
        # briefly. It's the holder who counts: take() and give() have no lock.
        self.brief_uses = 0
        self.brief_time = 0.0

    def __repr__(self):
        return f"<Slot {self.status} generation={self.generation}>"


class Waiter:
    """
    A place in the line. ``served`` becomes true when it has been left, with a
    slot if there's one. There's none if the pool was closed, or if connecting
    fails too often.
    """

    # What a new one begins with. An __init__() would take longer.
    slot = None
    served = False
    since = None
    patient_until = None


class PoolState:
    """
    The slots, the idle connections, the waiting line and the rules by which
    they change. Nothing here may be called by two threads at once.

    options: a PoolOptions.
    random: a callable that returns a float from 0 to 1, for jitter.
    """

    def __init__(self, options, random):
        self.name = options.name
        self.min_size = options.min_size
        self.max_size = options.max_size
        self.max_waiting = NEVER if options.max_waiting is None else options.max_waiting
        self.max_lifetime = options.max_lifetime
        self.max_idle = NEVER if options.max_idle is None else options.max_idle
        self.connecting = options.connecting
        self.random = random
        self.counters = Counters()
        # Until when there are held to be more borrowers than connections,
        # because one has found all of them in use.
        self.crowded_until = -NEVER
        # Seconds of the last use of a connection, noted while it's crowded.
        self.last_use = NEVER
        self.closed = False
        # Connections of an older generation are not served any more.
        self.generation = next(_generations)
        self.slots = set()
        # The one idle for the shortest time is at the right end.
        self.idle = deque()
        self.take_idle = self.idle.pop if options.order == "lifo" else self.idle.popleft
        self.waiters = OrderedDict()
        self.opening = 0
        self.closing = 0
        self.resetting = 0
        # The generation whose connections give() may keep, see _note_calm().
        self.calm = self.generation
        # Connects that failed since the last success, and the time before
        # which no other is tried because of them.
        self.failures = 0
        self.retry_at = -NEVER
        # Seconds that a connect took of late, None before the first.
        self.open_time = None
        # For the caller to empty, see the module's docstring.
        self.to_wake = []
        self.to_close = []

    # ##### Borrowing #####

    def take(self, now):
        """
        Return a slot LEASED with an idle connection, or None.

        With give(), one of the two methods that threads may call at any time.
        That's safe because a deque's pop() hands each slot to one caller
        only, whose own the slot is from then on.
        """
        try:
            slot = self.take_idle()
        except IndexError:
            return None
        if now < slot.expires_at and now < slot.idle_since + self.max_idle:
            slot.status = LEASED
            slot.leased_at = now
            return slot
        # acquire() finds out what's to become of it.
        self.idle.append(slot)
        return None

    def acquire(self, now, deadline=NEVER):
        """
        Return a slot: LEASED with a connection, or OPENING as the permit to
        open one. Return None if neither can be had at once.

        deadline: when the borrower must have been served.
        """
        if self.waiters:
            return None
        if (slot := self.acquire_idle(now)) is not None:
            return slot
        if len(self.slots) < self.max_size and self._may_open(
            now + self._patience(now, deadline), now
        ):
            return self._new_slot(now)
        return None

    def acquire_idle(self, now):
        """Like acquire(), but never return a permit."""
        while (slot := self._pop_idle()) is not None:
            if self._may_serve(slot, now):
                slot.status = LEASED
                slot.leased_at = now
                return slot
            self._condemn(slot, self._reason_not_to_keep(slot, now))
        return None

    def wait(self, waiter, now, deadline=NEVER):
        """
        Put a waiter in line. Return False if the line is full.

        deadline: when it must have been served.
        """
        if len(self.waiters) >= self.max_waiting:
            self.counters.refused += 1
            return False
        waiter.since = waiter.patient_until = now
        if len(self.slots) < self.max_size:
            waiter.patient_until += self._patience(now, deadline)
        # Else nothing can be opened until a slot comes free, and then it's
        # time to: one connection less will come back.
        self.waiters[waiter] = None
        self.calm = NOT_CALM
        self.dispatch(now)
        return True

    def leave(self, waiter, now):
        """
        Take a waiter that gives up out of the line. If it was served just
        before, its slot serves the next.
        """
        if waiter in self.waiters:
            del self.waiters[waiter]
            self._note_calm()
            # The next may have been waiting only for its turn.
            self.dispatch(now)
        elif (slot := waiter.slot) is not None:
            waiter.slot = None
            if slot.status == OPENING:
                self._free(slot, now)
            else:
                self._put(slot, now)

    def in_use(self):
        """Return how many connections are lent."""
        return (
            len(self.slots)
            - len(self.idle)
            - self.opening
            - self.resetting
            - self.closing
        )

    # ##### Opening #####

    def opened(self, slot, connection, now):
        """Note that the holder of a permit opened a connection and uses it."""
        self._note_opened(slot, connection, now)
        slot.status = LEASED
        slot.leased_at = now
        self.counters.first_used += 1
        self.dispatch(now)

    def supplied(self, slot, connection, now):
        """Note that a connection was opened for whoever comes next."""
        self._note_opened(slot, connection, now)
        self._put(slot, now)

    def failed(self, slot, now):
        """
        Note that a connect failed. Its slot serves the next waiter, except
        during a pause: then whoever waits gets the error too.
        """
        self.counters.open_failures += 1
        self.failures += 1
        doublings = self.failures - FAILURES_BEFORE_PAUSE
        if doublings >= 0:
            pause = min(FIRST_PAUSE * 2 ** min(doublings, 30), LONGEST_PAUSE)
            self.retry_at = now + pause * (1.0 - PAUSE_JITTER * self.random())
        self._free(slot, now)

    def withdraw(self, slot, now):
        """Take back a permit that wasn't used. Its slot serves the next."""
        self._free(slot, now)

    def is_pausing(self, now):
        """
        Return whether there's no connection, and none is opened for now
        because too many connects have failed.
        """
        return now < self.retry_at and len(self.slots) == self.opening + self.closing

    def has_room(self):
        """
        Return whether the limits allow one more connect just now. It only
        reads, so it may be called at any time, too.
        """
        return len(self.slots) < self.max_size and self.opening < self.connecting

    def is_short(self):
        """Return whether min_size asks for more connections."""
        return not self.closed and len(self.slots) - self.closing < self.min_size

    def reserve(self, now):
        """
        Return a permit to open a connection that min_size asks for, or None.
        """
        if (
            not self.is_short()
            or self.waiters
            or not self.has_room()
            or now < self.retry_at
        ):
            return None
        return self._new_slot(now)

    def _note_opened(self, slot, connection, now):
        self.opening -= 1
        self.failures = 0
        self.retry_at = -NEVER
        slot.connection = connection
        slot.expires_at = NEVER
        if self.max_lifetime is not None:
            slot.expires_at = now + self.max_lifetime * (
                1.0 - LIFETIME_JITTER * self.random()
            )
        took = now - slot.leased_at
        self.open_time = (
            took
            if self.open_time is None
            else self.open_time + OPEN_TIME_WEIGHT * (took - self.open_time)
        )
        self.counters.opened += 1
        self.counters.open_buckets[bucket_of(took)] += 1
        self.counters.open_total += took

    # ##### Giving back #####

    def give(self, slot, now):
        """
        Take back a connection that is ready for its next borrower, if that's
        all there is to do. Return KEPT if it was; NOT_KEPT if it wasn't, for
        release() to be called; or UNSETTLED if it was and settle() must be
        called.

        Like take(), threads may call this at any time. A borrower that finds
        nothing idle stands in line before it looks again, and this looks for
        a line again after the connection became idle: one of them sees the
        other.
        """
        if slot.generation != self.calm or now >= slot.expires_at:
            return NOT_KEPT
        self.last_use = used = now - slot.leased_at
        self.counters.note_use(slot, used)
        slot.owner = None
        slot.status = IDLE
        slot.idle_since = now
        self.idle.append(slot)
        if slot.generation != self.calm:
            return UNSETTLED
        return KEPT

    def release(self, slot, now):
        """Take back a connection that is ready for its next borrower."""
        self._count_use(slot, now)
        self._put(slot, now)

    def settle(self, now):
        """
        Put right what a call of give(), or an exception such as
        KeyboardInterrupt, left to be put right.
        """
        if self.closed:
            self._turn_away()
        self.dispatch(now)
        self._shrink()
        for slot in self.idle.copy():
            if slot.generation != self.generation:
                self._condemn_idle(slot, POOL_CLOSED if self.closed else DRAINED)

    def start_reset(self, slot, now):
        """Take back a connection that has to be reset before it's lent."""
        self._count_use(slot, now)
        slot.status = RESETTING
        slot.owner = None
        self.resetting += 1

    def end_reset(self, slot, succeeded, now, reason=DIRTY):
        """Note that a reset has ended, and why it failed, if it did."""
        self.resetting -= 1
        if succeeded:
            self._put(slot, now)
        else:
            self._condemn(slot, reason)
            # It may have been what the line was patient for.
            self.dispatch(now)

    def discard(self, slot, reason, now):
        """Take back a connection that nobody may use again, to be closed."""
        self._count_use(slot, now)
        self._condemn(slot, reason)
        # It may have been what the line was patient for.
        self.dispatch(now)

    def reclaim(self, slot, now):
        """Take back a slot whose borrower died, or that was lost."""
        if slot.status is OPENING:
            self._free(slot, now)
        elif slot.status is RESETTING:
            self.end_reset(slot, False, now)
        elif slot.status is CLOSING:
            # Nobody knows whether it was closed. Twice does no harm.
            self.to_close.append(slot)
        elif slot.status is LEASED or slot.status is IDLE:
            # Nobody knows what state the connection is in, or whether a
            # cursor of it is still held somewhere. IDLE is one lost on the
            # way to or from those that are.
            self.counters.abandoned += 1
            self.discard(slot, ABANDONED, now)

    def recount(self):
        """
        Count the slots anew: an exception such as KeyboardInterrupt may have
        come between a slot's change and its being counted.
        """
        statuses = [slot.status for slot in self.slots]
        self.opening = statuses.count(OPENING)
        self.closing = statuses.count(CLOSING)
        self.resetting = statuses.count(RESETTING)
        self._note_calm()

    def discard_unused(self, slot):
        """
        Take back a connection that was found dead before it was used, as if
        it hadn't been lent.
        """
        self._condemn(slot, DEAD)

    def release_unused(self, slot, now):
        """Take back a connection as if it hadn't been lent."""
        if self.waiters or self._reason_not_to_keep(slot, now):
            self._put(slot, now)
        else:
            # It has been idle all the time.
            slot.status = IDLE
            self.idle.append(slot)

    def closed_slot(self, slot, now):
        """Note that a connection was closed. Its slot serves the next."""
        self.closing -= 1
        self._drop(slot, now)

    # ##### The pool as a whole #####

    def dispatch(self, now):
        """
        Serve the line from its head for as long as that's possible. Turn it
        away if nobody can be served during a pause.
        """
        if now < self.retry_at and self.is_pausing(now):
            self._turn_away()
        # What give() kept before it could see the line.
        while self.idle and self.waiters and (slot := self._pop_idle()) is not None:
            slot.status = LEASED
            self._put(slot, now)
        # As a rule, there's no room, and that's found out with one comparison.
        while len(self.slots) < self.max_size and self.waiters:
            waiter = next(iter(self.waiters))
            if not self._may_open(waiter.patient_until, now):
                return
            self._serve(waiter, self._new_slot(now), now)

    def sweep(self, now):
        """Condemn what has been idle or open for too long."""
        for slot in self.idle.copy():
            if not self._may_serve(slot, now):
                self._condemn_idle(slot, self._reason_not_to_keep(slot, now))

    def next_due(self):
        """
        Return the time at which sweep() will next have something to do if
        nothing else happens until then. Infinity if it will have nothing.
        """
        idle = self.idle.copy()
        due = min((slot.expires_at for slot in idle), default=NEVER)
        if idle and len(self.slots) - self.closing > self.min_size:
            due = min(due, idle[0].idle_since + self.max_idle)
        return due

    def next_expiry(self, now):
        """
        Return the time at which the next lifetime of a connection will end,
        of those in use as well. Infinity if none will.
        """
        ends = [slot.expires_at for slot in self.slots if slot.expires_at > now]
        return min(ends, default=NEVER)

    def condemn_generation(self, reason, now):
        """
        Let no connection opened until now serve anybody again: the idle ones
        are closed, those in use when they come back.
        """
        self.generation = next(_generations)
        self._note_calm()
        self._expire_all()
        while (slot := self._pop_idle()) is not None:
            self._condemn(slot, reason)

    def resize(self, min_size, max_size, now):
        """Change the limits, in connections."""
        self.min_size = min_size
        self.max_size = max_size
        self._note_calm()
        self._shrink()
        self.dispatch(now)

    def close(self):
        """Serve nobody any more. Connections in use are closed on return."""
        self.closed = True
        # So that give() keeps nothing.
        self.generation = next(_generations)
        self._note_calm()
        self._expire_all()
        while (slot := self._pop_idle()) is not None:
            self._condemn(slot, POOL_CLOSED)
        self._turn_away()

    # ##### Helpers #####

    def _note_calm(self):
        """
        Tell give() whether it may keep connections. Called after each change
        of what that depends on, and before the idle ones are looked at.
        """
        busy = self.waiters or self._is_too_large()
        self.calm = NOT_CALM if busy else self.generation

    def _is_too_large(self):
        """Return whether there are too many connections, after a resize()."""
        return len(self.slots) - self.closing > self.max_size

    def _expire_all(self):
        """Have take() not serve what give() keeps just now."""
        for slot in self.slots:
            slot.expires_at = -NEVER

    def _shrink(self):
        """Condemn what's idle and too much."""
        while self._is_too_large() and (slot := self._pop_idle()) is not None:
            self._condemn(slot, SHRUNK)

    def _count_use(self, slot, now):
        self.last_use = used = now - slot.leased_at
        self.counters.count_use(slot, used)

    def _patience(self, now, deadline):
        """
        Return how long a borrower waits for a connection in use before it may
        open another, in seconds.

        A connection may come back sooner than a new one could be opened. As
        in the ski rental problem, to wait for as long as opening takes and to
        open only then costs at most twice the time that the better choice
        would have cost, whatever happens (Karlin, Manasse, Rudolph and
        Sleator, "Competitive snoopy caching", 1988).

        But the deadline must leave enough time for opening one, which may
        take longer than of late.
        """
        if self.open_time is None or not self.max_waiting:
            return 0.0
        return max(0.0, min(self.open_time, deadline - now - 2 * self.open_time))

    def _turn_away(self):
        """Wake all waiters without a slot."""
        while self.waiters:
            waiter = next(iter(self.waiters))
            waiter.served = True
            del self.waiters[waiter]
            self.to_wake.append(waiter)
        self._note_calm()

    def _condemn_idle(self, slot, reason):
        try:
            self.idle.remove(slot)
        except ValueError:
            # Taken meanwhile.
            return
        self._condemn(slot, reason)

    def _pop_idle(self):
        if not self.idle:
            # Most often. To catch an exception takes longer.
            return None
        try:
            return self.take_idle()
        except IndexError:
            return None

    def _may_serve(self, slot, now):
        return (
            now < slot.expires_at
            and (
                now < slot.idle_since + self.max_idle
                or len(self.slots) - self.closing <= self.min_size
            )
            # take() may have put it back just after the pool was drained.
            and slot.generation == self.generation
            and not self.closed
        )

    def _may_open(self, patient_until, now):
        return (
            not self.closed
            and self.has_room()
            and not self.is_pausing(now)
            and (
                patient_until <= now
                # There is nothing to be patient for.
                or len(self.slots) == self.closing
            )
        )

    def _reason_not_to_keep(self, slot, now):
        """Return why a connection that came back is closed, or None."""
        if self.closed:
            return POOL_CLOSED
        if slot.generation != self.generation:
            return DRAINED
        if now >= slot.expires_at:
            return EXPIRED
        # _is_too_large(), without the call.
        if len(self.slots) - self.closing > self.max_size:
            return SHRUNK
        if slot.status is IDLE:
            return UNUSED
        return None

    def _put(self, slot, now):
        if reason := self._reason_not_to_keep(slot, now):
            self._condemn(slot, reason)
            # It may have been what the line was patient for.
            self.dispatch(now)
        elif self.waiters:
            slot.leased_at = now
            # The waiter will say who it is.
            slot.owner = None
            slot.status = LEASED
            self._serve(next(iter(self.waiters)), slot, now)
            if self.has_room():
                # The next in line may have less patience.
                self.dispatch(now)
        else:
            slot.owner = None
            slot.status = IDLE
            slot.idle_since = now
            self.idle.append(slot)

    def _serve(self, waiter, slot, now):
        self.counters.note_wait(now - waiter.since)
        # Without a call in between, where an exception could come.
        waiter.slot = slot
        waiter.served = True
        del self.waiters[waiter]
        self.to_wake.append(waiter)
        if not self.waiters:
            self._note_calm()

    def _new_slot(self, now):
        slot = Slot(self.generation, now)
        self.slots.add(slot)
        self.opening += 1
        return slot

    def _free(self, slot, now):
        self.opening -= 1
        self._drop(slot, now)

    def _drop(self, slot, now):
        self.counters.keep_uses(slot)
        # Before the status: nobody looks for one that's CLOSED.
        self.slots.discard(slot)
        slot.status = CLOSED
        slot.connection = None
        slot.owner = None
        self._note_calm()
        self.dispatch(now)

    def _condemn(self, slot, reason):
        slot.status = CLOSING
        slot.reason = reason
        self.closing += 1
        self._note_calm()
        self.counters.closed[reason] = self.counters.closed.get(reason, 0) + 1
        self.to_close.append(slot)
