"""
The line in which asynchronous operations wait for a worker.

It bounds how many of them there are. The event loop goes on meanwhile: a
place in the line is a task that awaits, not a thread.
"""

import asyncio
import os
import threading
import time
from collections import deque

from . import maintenance
from .exceptions import PoolDeadlock, PoolFull, PoolTimeout
from .stats import Counters, WorkerStats


class _Place:
    """
    A place in the line. Whoever serves it sets served, under the lock.

    kept: how many of those inside go on only after it was served.
    since: when it was taken.
    """

    __slots__ = ("loop", "kept", "since", "future", "served")

    def __init__(self, loop, kept, since):
        self.loop = loop
        self.kept = kept
        self.since = since
        self.future = loop.create_future()
        self.served = False

    def wake(self):
        """Return whether anybody is there to be woken."""
        try:
            self.loop.call_soon_threadsafe(self.end_wait)
        except RuntimeError:
            # Its event loop has been closed.
            return False
        return True

    def end_wait(self):
        """In its event loop, have whoever waits look whether it's served."""
        if not self.future.done():
            self.future.set_result(None)


class Line:
    """
    Bounds how much is done at a time. Tasks of all event loops wait in line,
    and are served in order.
    """

    def __init__(self, clock=time.monotonic):
        # Held for a few bytecodes. Reentrant, so that it knows its holder: a
        # coroutine that was dropped may be closed anywhere, see reentry.
        self._lock = threading.RLock()
        self.places = deque()
        self.inside = 0
        # How many may be inside.
        self.limit = 0
        self.counters = Counters()
        self._clock = clock

    async def enter(self, limit, timeout, max_waiting, kept=0):
        """
        Wait until there are fewer than limit inside. Return for how many
        seconds that was.

        kept: how often the present task is inside already.

        Raise PoolTimeout after timeout seconds, PoolFull if max_waiting others
        wait, and PoolDeadlock if all who are inside wait themselves.
        """
        with self._lock:
            self.limit = limit
            if self.inside < limit and not self.places:
                self.inside += 1
                return 0.0
            if kept and self.inside <= kept + sum(p.kept for p in self.places):
                raise PoolDeadlock(
                    "Waiting for a worker could never end: each of the "
                    f"{self.inside} that there may be at a time is kept by a task "
                    "that waits for another one, since it awaits "
                    "transaction.independent(...) in an atomic block. Await it "
                    "after the block, or raise max_size."
                )
            if max_waiting is not None and len(self.places) >= max_waiting:
                self.counters.refused += 1
                raise PoolFull(
                    f"{max_waiting} operations wait for a worker already, which is "
                    f"max_waiting. {self.inside} are running."
                )
            place = _Place(asyncio.get_running_loop(), kept, self._clock())
            self.places.append(place)
        # Not asyncio.timeout(): it would cancel the task.
        alarm = place.loop.call_later(timeout, place.end_wait)
        try:
            await place.future
        except BaseException:
            self._leave_place(place)
            raise
        finally:
            alarm.cancel()
        if self._leave_place(place, keep=True):
            with self._lock:
                self.counters.timeouts += 1
            raise PoolTimeout(
                f"No worker was free within {timeout:g} s: {self.inside} operations "
                f"are running, {len(self.places)} are waiting."
            )
        waited = self._clock() - place.since
        with self._lock:
            self.counters.note_wait(waited)
        return waited

    def stats(self):
        """Return a WorkerStats."""
        with self._lock:
            oldest = self.places[0].since if self.places else None
            wait = self.counters.read_waits()
            return WorkerStats(
                max_size=self.limit,
                in_use=self.inside,
                waiting=len(self.places),
                oldest_wait=0.0 if oldest is None else self._clock() - oldest,
                waited=wait.count,
                timeouts=self.counters.timeouts,
                refused=self.counters.refused,
                wait=wait,
            )

    def set_limit(self, limit):
        """Change how many may be inside, for those who wait already."""
        with self._lock:
            self.limit = limit
            self._serve()

    @maintenance.put_off_inside
    def _leave_place(self, place, keep=False):
        """
        Give up a place. If it was served just before, keep says whether to
        keep what was got. Return whether it wasn't served.
        """
        with self._lock:
            if not place.served:
                # Unless _serve() found nobody there.
                if place in self.places:
                    self.places.remove(place)
                return True
        if not keep:
            self.leave()
        return False

    @maintenance.put_off_inside
    def leave(self):
        """Let the next one in."""
        with self._lock:
            self.inside -= 1
            self._serve()

    def _serve(self):
        """Let in as many as may be, with the lock held."""
        while self.places and self.inside < self.limit:
            place = self.places.popleft()
            if place.wake():
                place.served = True
                self.inside += 1


line = Line()


def _forget():
    """After a fork, in the child: nothing is running."""
    global line
    line = Line()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
