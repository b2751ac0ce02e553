"""
All pools of the process: which wrapper borrows from which, and what becomes
of them at a fork and at exit.
"""

import atexit
import os
import sys
import threading
import time
import weakref
from collections.abc import MutableMapping

from django.db import connections
from django.db.backends.base.base import NO_DB_ALIAS

from . import deadlock, maintenance, watch
from .options import parse
from .pool import ConnectionPool
from .state import UNCLEAN

# Settings that don't change what a connection is.
IRRELEVANT = frozenset(
    ["ATOMIC_REQUESTS", "CONN_MAX_AGE", "DISABLE_SERVER_SIDE_CURSORS", "TEST"]
)

# At exit, seconds after which the connections not closed yet are left to the
# operating system.
EXIT_TIMEOUT = 2.0
_exit_ends_at = None

# Reentrant: a finalizer may need a pool in the midst of whatever is done here,
# so nothing that it may have put in these lists is overwritten.
_lock = threading.RLock()
_registrations = []
# Closed pools that have connections in use.
_closing = []
# Weak references to those of all pools, for a fork to reach them. A WeakSet
# can't be looked through while something may be added.
_borrowers = set()


class _Registration:
    """A pool and what it's for."""

    def __init__(self, pool, alias, identity, origin):
        self.pool = pool
        self.alias = alias
        # What decides which connections a wrapper may get.
        self.identity = identity
        # The dictionary that the wrappers of an alias share. When it's
        # changed in place, the pools made for what it was serve nobody.
        self.origin = origin
        self.borrowers = weakref.WeakSet()

    def is_orphan(self):
        """
        Return whether no wrapper can come to this pool any more: it was made
        for a copy of a wrapper with settings of its own, and the copies are
        gone.
        """
        return not self.borrowers and (
            self.alias not in connections
            or self.origin is not connections.settings[self.alias]
        )


def snapshot(value):
    """
    Return a copy of a setting that stays the same when dictionaries, lists
    and sets in it are changed in place.
    """
    if isinstance(value, dict):
        return {key: snapshot(item) for key, item in value.items()}
    if isinstance(value, (list, set)):
        return type(value)(map(snapshot, value))
    return value


def identity_of(wrapper):
    """Return what decides which connections a wrapper may get, to compare."""
    relevant = {
        key: snapshot(value)
        for key, value in wrapper.settings_dict.items()
        if key not in IRRELEVANT
    }
    return type(wrapper), relevant, wrapper.timezone_name


def pool_for(wrapper, borrower=None):
    """
    Return the pool that a wrapper borrows from, None if it has none. Raise
    ImproperlyConfigured if the options are wrong.
    """
    options = parse(wrapper.settings_dict, wrapper.alias)
    close_left_behind(wrapper)
    if (
        options is None
        or wrapper.alias == NO_DB_ALIAS
        or not wrapper.pooling_class.can_pool(wrapper)
    ):
        return None
    alias = wrapper.alias
    origin = wrapper.settings_dict
    identity = identity_of(wrapper)
    with _lock:
        # ConnectionPool.close() may be called by anybody.
        _take_out(lambda entry: entry.alias == alias and entry.pool.closed)
        if (entry := _find(alias, identity)) is not None:
            if alias in connections and origin is connections.settings[alias]:
                # It may have been made for a copy of the alias's wrapper.
                entry.origin = origin
        else:
            pool = ConnectionPool(options, wrapper.pooling_class(wrapper))
            made = _Registration(pool, alias, identity, origin)
            _registrations.append(made)
            # The first is the one to use: a finalizer may have made it before
            # this one was there to be found.
            if (entry := _find(alias, identity)) is not made:
                _registrations.remove(made)
        if borrower is not None:
            entry.borrowers.add(borrower)
            _borrowers.add(weakref.ref(borrower, _borrowers.discard))
    if options.min_size:
        maintenance.wake()
    return entry.pool


def _find(alias, identity):
    for entry in list(_registrations):
        if entry.alias == alias and entry.identity == identity:
            return entry
    return None


def _all_borrowers():
    return [b for reference in list(_borrowers) if (b := reference()) is not None]


def close_left_behind(wrapper):
    """
    Close the pools that were made for what the settings of a wrapper were
    before they were changed in place.
    """
    _, relevant, _ = identity_of(wrapper)
    with _lock:
        pools = _take_out(
            lambda entry: entry.alias == wrapper.alias
            and entry.origin is wrapper.settings_dict
            and entry.identity[1] != relevant
        )
    for pool in pools:
        pool.is_left_behind = True
        pool.close()


def _take_out(is_meant):
    """
    With the lock held, have nobody come to the pools of some entries any
    more. Return the pools, to be closed.
    """
    pools = []
    for entry in list(_registrations):
        if is_meant(entry):
            # First, for another thread may fork: all pools have to be found.
            _closing.append(entry.pool)
            if _remove(entry, _registrations):
                pools.append(entry.pool)
    return pools


def _remove(item, items):
    """Take an item out of a list. Return whether it was there."""
    try:
        items.remove(item)
    except ValueError:
        return False
    return True


def close_pool(pool):
    """Close a pool and forget it. Whoever comes next gets a new one."""
    with _lock:
        _take_out(lambda entry: entry.pool is pool)
    pool.close()


def close_pools_of(wrapper):
    """
    Close the pools of a wrapper's database: the one it borrows from, and those
    made for what its settings were before.
    """
    identity = identity_of(wrapper)
    with _lock:
        pools = _take_out(
            lambda entry: entry.alias == wrapper.alias
            and (entry.origin is wrapper.settings_dict or entry.identity == identity)
        )
    for pool in pools:
        pool.close()


def borrowers_of(thread):
    """Return the borrowers of a thread that hold a connection."""
    return [
        borrower
        for borrower in _all_borrowers()
        if borrower.thread is thread and borrower.lease is not None
    ]


def close_all():
    """Close all pools. Whoever comes next gets a new one."""
    with _lock:
        pools = _take_out(lambda entry: True)
    for pool in pools:
        pool.close()


def all_pools():
    """Return the pools that may need maintenance."""
    with _lock:
        for pool in list(_closing):
            if pool.is_empty():
                _remove(pool, _closing)
        return [entry.pool for entry in _registrations] + _closing


def close_orphans():
    """Close the pools that no wrapper can come to any more."""
    with _lock:
        # Taken out at once, so that no wrapper gets one that's closed then.
        pools = _take_out(_Registration.is_orphan)
    for pool in pools:
        pool.close()


class PoolsByAlias(MutableMapping):
    """
    The newest pool of each alias, as ``DatabaseWrapper._connection_pools``.
    Packages and fork hooks written for Django 5.1 to 6.1 look there, and
    delete what they find.
    """

    def _read(self):
        with _lock:
            return {entry.alias: entry.pool for entry in _registrations}

    def __getitem__(self, alias):
        return self._read()[alias]

    def __setitem__(self, alias, pool):
        raise TypeError("A pool is made from DATABASES, it can't be set.")

    def __delitem__(self, alias):
        close_pool(self[alias])

    def __iter__(self):
        return iter(self._read())

    def __len__(self):
        return len(self._read())


def _forget():
    """After a fork, in the child: nothing of the parent's may be touched."""
    global _lock, _exit_ends_at
    _lock = threading.RLock()
    _exit_ends_at = None
    maintenance.forget()
    watch.forget()
    deadlock.forget()
    # The wrappers first, so that they let go of the connections.
    for borrower in _all_borrowers():
        borrower.forget()
    for pool in [entry.pool for entry in _registrations] + _closing:
        pool.forget()


def _close_at_exit(**kwargs):
    """
    Close all connections politely, for as long as that's quick. Called once
    by each of those that were asked to, see arrange_exit().
    """
    global _exit_ends_at
    if _exit_ends_at is None:
        _exit_ends_at = time.monotonic() + EXIT_TIMEOUT
    leases = {entry.pool: [] for entry in list(_registrations)}
    # All are taken from their wrappers first: whatever else is run at exit
    # mustn't find a server there that doesn't answer.
    for borrower in _all_borrowers():
        if (lease := borrower.let_go_at_exit()) is not None:
            leases.setdefault(borrower.pool, []).append(lease)
    # On the maintenance thread, for a driver may wait for its server. There's
    # no such thread if there's nothing to close.
    for pool, held in leases.items():
        # Threads that don't end before the process, daemons that is, go on.
        pool.is_left_behind = True
        pool.shut()
        maintenance.put(_close_one_at_exit, pool, held)
    maintenance.join(max(_exit_ends_at - time.monotonic(), 0))


def _close_one_at_exit(pool, leases):
    for lease in leases:
        pool.discard(lease, UNCLEAN)
    close_pool(pool)


def arrange_exit():
    """
    See to it that the connections of this process are closed when it ends,
    also if it's a child of multiprocessing, billiard or Celery, which leaves
    without a call of what atexit knows.
    """
    for name in ("multiprocessing.util", "billiard.util"):
        if (util := sys.modules.get(name)) is not None:
            util.Finalize(None, _close_at_exit, exitpriority=0)
    # The children of Celery's prefork pool don't call billiard's either.
    if (signals := sys.modules.get("celery.signals")) is not None:
        signals.worker_process_shutdown.connect(_close_at_exit)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=maintenance.pause_for_fork,
        after_in_parent=maintenance.go_on_after_fork,
        after_in_child=_forget,
    )
atexit.register(_close_at_exit)
