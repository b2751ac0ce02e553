"""
The thread of a process that cuts connections whose server doesn't answer in
time. It's started when there's something to watch, and ends at the last time
limit that was set meanwhile.
"""

import logging
import threading
import time
from contextlib import contextmanager

from .reentry import is_inside

logger = logging.getLogger("django.db.pool")

# Held for a few steps, and while a connection is cut, which waits for nobody.
# Reentrant, so that it knows its holder: see reentry.
_lock = threading.RLock()
# It's entered by its lock, whose __enter__() is one step: an exception such as
# KeyboardInterrupt may come between those of a Condition, after it's locked.
_changed = threading.Condition(_lock)
_limits = set()
_thread = None
# When the thread looks at the limits again if nobody wakes it.
_looks_at = 0.0


class Limit:
    """
    A time on time.monotonic()'s clock, and a callable that cuts a connection
    if it's still waited for then.
    """

    def __init__(self, ends_at, cut):
        self.ends_at = ends_at
        self.cut = cut
        self.exceeded = False


@contextmanager
def time_limit(seconds, cut):
    """
    Call a callable if the block takes longer than some seconds, on another
    thread, to have what the block waits for fail. It isn't called any more
    when the block is over. The value of the context is a Limit.

    cut: None if there's no way to do that; then there's no limit. Nor is there
        one in a finalizer that came in the midst of this module's work.
    """
    limit = Limit(time.monotonic() + seconds, cut)
    try:
        if cut is not None and not is_inside(_lock):
            _add(limit)
        yield limit
    finally:
        with _lock:
            _limits.discard(limit)


def _add(limit):
    global _thread
    with _lock:
        _limits.add(limit)
        if _thread is None:
            # Daemonic by an argument, not by asking which thread this is: one
            # that ends isn't known any more.
            thread = threading.Thread(
                target=_watch, name="django-db-pool-watch", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:
                # The interpreter is shutting down, or out of threads. It has
                # to do without.
                return
            _thread = thread
        elif limit.ends_at < _looks_at:
            _changed.notify()


def _watch():
    global _thread, _looks_at
    with _lock:
        while True:
            now = time.monotonic()
            for limit in [limit for limit in _limits if limit.ends_at <= now]:
                _limits.discard(limit)
                limit.exceeded = True
                _cut(limit)
            if not _limits:
                _thread = None
                return
            _looks_at = min(limit.ends_at for limit in _limits)
            _changed.wait(min(_looks_at - now, threading.TIMEOUT_MAX))


def _cut(limit):
    try:
        limit.cut()
    except Exception as e:
        logger.debug("Cutting a connection: %s", e)


def forget():
    """After a fork, in the child: there's no thread."""
    global _lock, _changed, _thread
    _lock = threading.RLock()
    _changed = threading.Condition(_lock)
    _limits.clear()
    _thread = None
