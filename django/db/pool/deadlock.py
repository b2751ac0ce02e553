"""
Waits for connections that could never be served.

A thread that holds a connection and waits for another keeps those waiting who
wait for the one that it holds. If each holder of a pool's connections waits,
for this pool or for others whose holders all wait too, nobody will ever be
served. The one whose wait would close the ring is refused, and told so.

Only a thread that's about to wait gets here.
"""

import sys
import threading
import traceback

from .exceptions import PoolDeadlock
from .pins import holding_of
from .reentry import is_inside
from .state import LEASED, OPENING

# Reentrant, so that it knows its holder: see reentry.
_lock = threading.RLock()
# Thread identifier -> the pool that it waits for.
_waiting = {}


def enter(pool):
    """
    Note that this thread is about to wait for a pool. Raise PoolDeadlock if
    the wait could never end; nothing is noted then.
    """
    if is_inside(_lock):
        raise pool.refusal_inside()
    ident = threading.get_ident()
    # Of threads that come at once, the last closes the ring.
    with _lock:
        _waiting[ident] = pool
        if not (stuck := _find_stuck(ident, pool)):
            return
        # What an exception has lost on the way seems to be held.
        for awaited in {*stuck.values()}:
            awaited.reclaim_lost()
        if not (stuck := _find_stuck(ident, pool)):
            return
        leave()
    raise PoolDeadlock(_describe(pool, ident, stuck))


def leave():
    """
    Note that this thread doesn't wait any more. Called before it becomes the
    owner of what it was served.
    """
    _waiting.pop(threading.get_ident(), None)


def forget():
    """After a fork, in the child: no other thread exists."""
    global _lock
    _lock = threading.RLock()
    _waiting.clear()


def _find_stuck(ident, pool):
    """
    Return thread -> pool of those who wait without hope, empty if a given
    thread, which waits for a given pool, isn't one of them.
    """
    if not _is_hopeless(pool, _waiting):
        # As good as always.
        return {}
    stuck = {**_waiting, ident: pool}
    # Whoever has a hope gives hope to those who wait for what it holds.
    while hopeful := [t for t, pool in stuck.items() if not _is_hopeless(pool, stuck)]:
        for thread in hopeful:
            del stuck[thread]
        if ident not in stuck:
            return {}
    return stuck


def _is_hopeless(pool, stuck):
    """
    Return whether a pool's connections are all held, or being opened, by
    threads stuck.
    """
    for slot in pool.slots():
        # It may change hands just now: the owner is unknown meanwhile.
        holding = holding_of(slot.owner)
        if (
            slot.status not in (LEASED, OPENING)
            or holding is None
            or holding.ident is None
            or holding.ident not in stuck
        ):
            return False
    return not pool.closed and not pool.may_open()


def _describe(pool, ident, stuck):
    frames = sys._current_frames()
    pools = set()
    lines = [
        f"Waiting for a connection of the pool {pool.name!r} could never end: all who "
        "hold one wait for a connection themselves. Give back what is held first, "
        "or raise max_size."
    ]
    unseen = [pool]
    while unseen:
        if (awaited := unseen.pop()) in pools:
            continue
        pools.add(awaited)
        for slot in awaited.slots():
            if (holding := holding_of(slot.owner)) is None:
                continue
            thread = holding.ident
            waits_for = stuck.get(thread)
            if waits_for is None:
                continue
            unseen.append(waits_for)
            who = f"{holding}, which is this thread" if thread == ident else holding
            lines.append(
                f"A connection of {awaited.name!r} is "
                f"{'held' if slot.status is LEASED else 'being opened'} by {who}. "
                f"It waits for {waits_for.name!r}, here:"
            )
            if thread in frames:
                stack = traceback.format_stack(frames[thread])
                lines.append("".join(stack).rstrip())
    # One of them is this function's. In a cycle with it, what their variables
    # refer to would seem to be in use.
    frames.clear()
    return "\n".join(lines)
