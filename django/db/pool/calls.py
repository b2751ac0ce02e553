"""
Giving back at the end of a call that a ThreadPoolExecutor runs, as
asyncio.to_thread() does: its thread goes on to live, and nobody tells it that
the work is done.

The standard library has no hook for that. But the call is in the stack of
who borrows, with its future, and a future's callbacks are called by the thread
that ran it. If that changes, connections are given back with their threads.
"""

import sys
import weakref
from concurrent.futures import thread

from asgiref.sync import SyncToAsync

from django.db.async_routing import is_concurrent

_RUN = getattr(getattr(getattr(thread, "_WorkItem", None), "run", None), "__code__", 0)


def _find_item():
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _RUN:
            return frame.f_locals.get("self")
        frame = frame.f_back
    return None


def is_in_executor():
    """Return whether this thread is one of an executor's."""
    return _find_item() is not None


def end_with_call(borrower):
    """Have a borrower give back when the call that it's part of has ended."""
    if (
        borrower.call is not None
        and (future := borrower.call()) is not None
        and not future.done()
    ):
        # A thread runs one call at a time. To look for it takes a while.
        return
    item = _find_item()
    if (future := getattr(item, "future", None)) is None:
        return
    borrower.call = weakref.ref(future)
    if _is_thread_sensitive(item) and not is_concurrent():
        # There's more to come in this thread, for the same request.
        return
    # Not the borrower itself, which the future would keep alive.
    borrower = weakref.ref(borrower)
    future.add_done_callback(lambda future: _end(borrower()))


def _is_thread_sensitive(item):
    """Return whether a call is one that asgiref runs in a certain thread."""
    function = getattr(item, "fn", None) or getattr(item, "task", (None,))[0]
    owner = getattr(getattr(function, "func", None), "__self__", None)
    return isinstance(owner, SyncToAsync) and owner._thread_sensitive


def _end(borrower):
    from .giving_back import close, is_held, is_pinned

    wrapper = borrower and borrower.wrapper()
    if wrapper is not None and is_held(wrapper) and not is_pinned(wrapper):
        close(wrapper)
