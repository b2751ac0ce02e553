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

from .exceptions import PoolDeadlock, PoolFull, PoolTimeout


class _Place:
    """
    A place in the line. Whoever serves it sets served, under the lock.

    kept: how many of those inside go on only after it was served.
    """

    __slots__ = ("loop", "kept", "future", "served")

    def __init__(self, loop, kept):
        self.loop = loop
        self.kept = kept
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
        # Held for a few bytecodes.
        self.lock = threading.Lock()
        self.places = deque()
        self.inside = 0
        # How many may be inside.
        self.limit = 0
        self._clock = clock

    async def enter(self, limit, timeout, max_waiting, kept=0):
        """
        Wait until there are fewer than limit inside. Return for how many
        seconds that was.

        kept: how often the present task is inside already.

        Raise PoolTimeout after timeout seconds, PoolFull if max_waiting others
        wait, and PoolDeadlock if all who are inside wait themselves.
        """
        with self.lock:
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
                raise PoolFull(
                    f"{max_waiting} operations wait for a worker already, which is "
                    f"max_waiting. {self.inside} are running."
                )
            place = _Place(asyncio.get_running_loop(), kept)
            self.places.append(place)
        begun = self._clock()
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
            raise PoolTimeout(
                f"No worker was free within {timeout:g} s: {self.inside} operations "
                f"are running, {len(self.places)} are waiting."
            )
        return self._clock() - begun

    def set_limit(self, limit):
        """Change how many may be inside, for those who wait already."""
        with self.lock:
            self.limit = limit
            self._serve()

    def _leave_place(self, place, keep=False):
        """
        Give up a place. If it was served just before, keep says whether to
        keep what was got. Return whether it wasn't served.
        """
        with self.lock:
            if not place.served:
                # Unless _serve() found nobody there.
                if place in self.places:
                    self.places.remove(place)
                return True
        if not keep:
            self.leave()
        return False

    def leave(self):
        """Let the next one in."""
        with self.lock:
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
