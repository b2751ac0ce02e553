"""
What a pool counts, and the snapshot of it that users read.

Nothing here decides anything. The counters are changed by the pool's state,
under its lock.
"""

from dataclasses import dataclass

# Bucket number n of a histogram counts durations of less than 2**n
# microseconds (and not less than half of that). The last is never reached: it
# stands for a quarter of a million years.
BUCKETS = 64

# Uses of a connection that took less than 2**10 microseconds aren't told
# apart. To do so would take as long as half of giving a connection back.
BRIEF_BUCKET = 10
BRIEF = 2**BRIEF_BUCKET / 1_000_000


def bucket_of(seconds):
    """Return the number of the histogram bucket that a duration belongs to."""
    return int(seconds * 1_000_000).bit_length()


@dataclass(frozen=True, slots=True)
class Histogram:
    """
    How often something took how long.

    counts: pairs of an upper limit in seconds and the number of times that it
        took less than that, and not less than the limit before. Empty buckets
        at both ends are left out.
    count: the number of times in all.
    total: the seconds that it took in all.
    """

    counts: tuple
    count: int
    total: float

    @classmethod
    def read(cls, buckets, total):
        used = [n for n, count in enumerate(buckets) if count]
        counts = ()
        if used:
            counts = tuple(
                (2**n / 1_000_000, buckets[n]) for n in range(used[0], used[-1] + 1)
            )
        return cls(counts, sum(buckets), total)

    @property
    def mean(self):
        """Seconds that it took on average, 0.0 if it never happened."""
        return self.total / self.count if self.count else 0.0

    def quantile(self, fraction):
        """
        Return the upper limit, in seconds, of the bucket in which the given
        fraction (0 to 1) of the times is reached. 0.0 if it never happened.
        Raise ValueError if it's another number.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"A fraction is from 0 to 1, not {fraction!r}.")
        wanted = fraction * self.count
        seen = 0
        for limit, count in self.counts:
            seen += count
            if seen >= wanted:
                return limit
        return 0.0


@dataclass(frozen=True, slots=True)
class PoolStats:
    """
    A snapshot of a pool, as returned by ``connection.pool.stats()``. Times
    are in seconds.

    What the pool looks like now:

    name: the pool's name.
    min_size, max_size: its limits.
    size: connections that exist, those being opened and closed included.
    idle, in_use, connecting, resetting: what they are doing.
    waiting: borrowers in line.
    oldest_wait: age of the one waiting longest, 0.0 if nobody waits.
    pinned: name of a pin -> number of connections that it keeps with their
        borrowers, see POOL["lease"]. One may have several pins.

    What happened since it was made:

    acquired: times that a borrower was served.
    reused: of these, by a connection that existed already.
    waited: of these, after standing in line.
    timeouts: borrowers that gave up at their deadline.
    refused: borrowers turned away at ``max_waiting``.
    pins: name of a pin -> times that it came about, but for open cursors.
    abandoned: connections taken back from a borrower that died.
    opened, open_failures: connects that succeeded and that failed.
    closed: reason -> number of connections closed for it.
    wait, use, open: histograms of the time that borrowers stood in line,
        held a connection, and took to open one. In that of uses, all that
        took less than a millisecond are in one bucket.
    """

    name: str
    min_size: int
    max_size: int
    size: int
    idle: int
    in_use: int
    connecting: int
    resetting: int
    waiting: int
    oldest_wait: float
    pinned: dict
    acquired: int
    reused: int
    waited: int
    timeouts: int
    refused: int
    pins: dict
    abandoned: int
    opened: int
    open_failures: int
    closed: dict
    wait: Histogram
    use: Histogram
    open: Histogram


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """
    A snapshot of the workers that asynchronous operations borrow and of the
    line for them, as returned by ``worker_stats()``. Times are in seconds.

    max_size: workers that may be in use at a time.
    in_use: workers that are.
    waiting: operations in line.
    oldest_wait: age of the one waiting longest, 0.0 if none waits.
    waited: times that an operation was served after standing in line.
    timeouts: operations that gave up at their deadline.
    refused: operations turned away at ``max_waiting``.
    wait: histogram of the time that those served stood in line.
    """

    max_size: int
    in_use: int
    waiting: int
    oldest_wait: float
    waited: int
    timeouts: int
    refused: int
    wait: Histogram


def worker_stats():
    """
    Return a WorkerStats. With ``concurrent_async``, operations wait for a
    worker before they borrow from a pool, whichever that will be.
    """
    # Not needed by who has no asynchronous code.
    from . import waiting

    return waiting.line.stats()


class Counters:
    """
    The numbers behind PoolStats and WorkerStats, as cheap to change as Python
    allows.
    """

    __slots__ = (
        "first_used",
        "timeouts",
        "refused",
        "abandoned",
        "opened",
        "open_failures",
        "closed",
        "pins",
        "wait_buckets",
        "wait_total",
        "held",
        "use_buckets",
        "use_total",
        "open_buckets",
        "open_total",
    )

    def __init__(self):
        # Served by a connection that the borrower opened itself.
        self.first_used = 0
        self.timeouts = 0
        self.refused = 0
        self.abandoned = 0
        self.opened = 0
        self.open_failures = 0
        self.closed = {}
        self.pins = {}
        self.wait_buckets = [0] * BUCKETS
        self.wait_total = 0.0
        # Seconds that connections were in use, but for brief uses, to be
        # counted by and by: see count_held().
        self.held = []
        self.use_buckets = [0] * BUCKETS
        self.use_total = 0.0
        self.open_buckets = [0] * BUCKETS
        self.open_total = 0.0

    def note_wait(self, seconds):
        """Note for how long somebody stood in line who was served."""
        self.wait_buckets[bucket_of(seconds)] += 1
        self.wait_total += seconds

    def read_waits(self):
        """Return a Histogram of the waits so far."""
        return Histogram.read(self.wait_buckets, self.wait_total)

    def note_use(self, slot, seconds):
        """
        Note how long a slot was in use. Its holder may call this at any time.
        """
        if seconds < BRIEF:
            slot.brief_uses += 1
            slot.brief_time += seconds
        else:
            self.held.append(seconds)

    def count_use(self, slot, seconds):
        """
        Do what note_use() does, with the pool's lock held. Nothing is left to
        count_held(), which might not be called before long.
        """
        if seconds < BRIEF:
            slot.brief_uses += 1
            slot.brief_time += seconds
        else:
            self.use_buckets[bucket_of(seconds)] += 1
            self.use_total += seconds

    def count_held(self):
        """
        Move what has come to ``held`` to the histogram. To append to a list
        is all that a borrower's time is spent on.
        """
        count = len(self.held)
        held = self.held[:count]
        # One step, so nothing appended meanwhile is lost. Before they're
        # counted: a finalizer may ask for statistics in between.
        del self.held[:count]
        for seconds in held:
            self.use_buckets[bucket_of(seconds)] += 1
            self.use_total += seconds

    def keep_uses(self, slot):
        """Keep what a slot has counted of its uses before it's gone."""
        self.use_buckets[BRIEF_BUCKET] += slot.brief_uses
        self.use_total += slot.brief_time
        slot.brief_uses, slot.brief_time = 0, 0.0

    def read_uses(self, slots):
        """Return the buckets, and the seconds in all, of all uses so far."""
        self.count_held()
        buckets, total = [*self.use_buckets], self.use_total
        for slot in slots:
            buckets[BRIEF_BUCKET] += slot.brief_uses
            total += slot.brief_time
        return buckets, total


def read_stats(state, now, pinned):
    """Return the PoolStats of a PoolState, with the pool's lock held."""
    counters = state.counters
    uses = Histogram.read(*counters.read_uses(state.slots))
    waits = counters.read_waits()
    # Those who have given back, and those who haven't.
    acquired = uses.count + state.in_use()
    oldest = next(iter(state.waiters), None)
    return PoolStats(
        name=state.name,
        min_size=state.min_size,
        max_size=state.max_size,
        size=len(state.slots),
        idle=len(state.idle),
        in_use=state.in_use(),
        connecting=state.opening,
        resetting=state.resetting,
        waiting=len(state.waiters),
        oldest_wait=0.0 if oldest is None else now - oldest.since,
        pinned=pinned,
        pins=dict(counters.pins),
        acquired=acquired,
        reused=acquired - counters.first_used,
        waited=waits.count,
        timeouts=counters.timeouts,
        refused=counters.refused,
        abandoned=counters.abandoned,
        opened=counters.opened,
        open_failures=counters.open_failures,
        closed=dict(counters.closed),
        wait=waits,
        use=uses,
        open=Histogram.read(counters.open_buckets, counters.open_total),
    )
