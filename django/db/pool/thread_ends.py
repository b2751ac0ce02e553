"""
The borrowers of each thread: what they hold is given back when their thread
ends, and, as far as they don't need it, before it waits for a connection.
"""

import logging
import threading
import weakref

from .policy import may_use
from .queueing import wait_listeners

logger = logging.getLogger("django.db.pool")


class _ThreadEnd:
    """Its destructor runs when its thread has ended, in that thread."""

    def __init__(self):
        # Weak references. A WeakSet would take several times as long to look
        # through, which is done before each wait for a connection.
        self.references = set()
        self.ident = threading.get_ident()

    def add(self, borrower):
        self.references.add(weakref.ref(borrower, self.references.discard))

    def __del__(self):
        # In a forked child, the other threads' destructors run in this one,
        # and the connections are the parent's. A greenlet's destructor may
        # run anywhere. In both cases the leases are taken back as abandoned.
        try:
            if threading.get_ident() == self.ident:
                for reference in list(self.references):
                    if (borrower := reference()) is not None:
                        borrower.end_with_thread()
        except Exception:
            # The interpreter is shutting down, its modules are gone.
            pass


_thread_ends = threading.local()


def end_with_thread(borrower):
    """Have a borrower give back what it holds when its thread ends."""
    try:
        end = _thread_ends.end
    except AttributeError:
        end = _thread_ends.end = _ThreadEnd()
    end.add(borrower)


def _rest_in_thread():
    """
    Give back what this thread's wrappers have no use for. What a dropped
    exception or cursor kept with them would only be given back after their
    next statement. Return whether they hold anything else.
    """
    if (end := getattr(_thread_ends, "end", None)) is None:
        return False
    holds = False
    for reference in list(end.references):
        if (borrower := reference()) is None:
            continue
        if (
            borrower.lease is not None
            and borrower.per_statement
            and not borrower.is_borrowing
            and (wrapper := borrower.wrapper()) is not None
            and may_use(wrapper)
        ):
            try:
                borrower.policy.rest(borrower, wrapper)
            except Exception as e:
                logger.debug("Giving back before waiting: %s", e)
        if borrower.lease is not None or borrower.is_opening:
            holds = True
    return holds


wait_listeners.append(_rest_in_thread)
