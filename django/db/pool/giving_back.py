"""
Giving back what a thread's wrappers hold: when that may be done, and how.
"""

import logging

from django.db import connections

logger = logging.getLogger("django.db.pool")


def is_pinned(wrapper):
    """
    Return whether what's done next must be done with the same connection of
    a wrapper.
    """
    return (
        wrapper.in_atomic_block
        or bool(wrapper.execute_wrappers)
        or bool(wrapper.force_debug_cursor)
        or (
            wrapper.connection is not None
            and wrapper.autocommit != wrapper.settings_dict["AUTOCOMMIT"]
        )
    )


def is_relied_on(wrapper):
    """
    Return whether sync code that has used a wrapper, and isn't done yet, needs
    the same connection for what it does next.
    """
    return is_pinned(wrapper) or (
        wrapper._borrower is not None and wrapper._borrower.is_relied_on()
    )


def give_back_idle():
    """
    Give back the connections of this thread, as far as nobody relies on them.
    """
    for wrapper in connections.all(initialized_only=True):
        if wrapper.connection is not None and not is_pinned(wrapper):
            close(wrapper)


def give_back_all():
    """
    Give back all connections of this thread, whatever state they're in: who
    used them has ended.
    """
    for wrapper in connections.all(initialized_only=True):
        if wrapper.connection is None:
            continue
        stuck = wrapper.in_atomic_block or wrapper.execute_wrappers
        try:
            close(wrapper)
        finally:
            if stuck:
                # Whoever left it so will never put it right.
                del connections[wrapper.alias]


def is_held(wrapper):
    """Return whether a wrapper holds a connection of a pool."""
    return wrapper._borrower is not None and wrapper._borrower.lease is not None


def close(wrapper):
    """Give a connection back. Without a pool, CONN_MAX_AGE decides."""
    try:
        if is_held(wrapper):
            wrapper.close()
        else:
            wrapper.close_if_unusable_or_obsolete()
    except Exception as e:
        logger.debug("Giving back a connection of a worker: %s", e)


def give_back(wrapper):
    """
    Give back a connection that belongs to this thread, although an event loop
    runs in it. No query is needed for that.
    """
    if not is_pinned(wrapper):
        wrapper._borrower.give_back(wrapper)
