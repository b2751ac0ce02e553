"""What the tests of ConnectionPool with a fake driver share."""

import itertools
import threading

from django.db.pool import PoolTimeout
from django.test import SimpleTestCase

from .fakes import Clock, borrow

# For a wait that is to end at its deadline, in seconds.
BRIEF = 0.01


class Interrupt(BaseException):
    """Like gevent.Timeout: not an Exception."""


def interrupt(*args):
    """Stand for something that's interrupted when it's called."""
    raise Interrupt


class SlowCall:
    """
    Stands in for a function that takes its time: ``begun`` is set when it's
    called, and it goes on when ``go_on`` is.
    """

    def __init__(self, function=lambda *args: None):
        self.function = function
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, *args):
        self.begun.set()
        self.go_on.wait(10)
        return self.function(*args)


class HookedLock:
    """
    Calls a function each time before a thread takes the lock, except for what
    that function does itself.
    """

    def __init__(self, lock, hook, thread):
        self.lock = lock
        self.hook = hook
        self.thread = thread
        self.busy = False

    def __enter__(self):
        if threading.current_thread() is self.thread and not self.busy:
            self.busy = True
            try:
                self.hook()
            finally:
                self.busy = False
        return self.lock.__enter__()

    def __exit__(self, *exc_info):
        return self.lock.__exit__(*exc_info)

    def _is_owned(self):
        return self.lock._is_owned()


def hook_lock(pool, hook):
    """
    Call a function before this thread takes the pool's lock: that is, after
    it decided something on what it saw without the lock.
    """
    pool._lock = HookedLock(pool._lock, hook, threading.current_thread())


def once_in_line(pool, function):
    """Call a function once, just before a waiter takes the lock again."""
    calls = itertools.count()

    def hook():
        if pool.stats().waiting and not next(calls):
            function()

    hook_lock(pool, hook)


class PoolTestCase(SimpleTestCase):
    def assertPool(self, pool, **numbers):
        stats = pool.stats()
        found = {name: getattr(stats, name) for name in numbers}
        self.assertEqual(found, numbers)

    def assertNothingLost(self, pool, size):
        """As many connections can be had as ever, and no more."""
        self.assertPool(pool, in_use=0, connecting=0, waiting=0)
        if isinstance(pool._clock, Clock):
            pool._clock.run()
        leases = [borrow(pool, timeout=10) for _ in range(size)]
        connections = {lease.connection for lease in leases}
        self.assertEqual(len(connections), size)
        with self.assertRaises(PoolTimeout):
            borrow(pool, timeout=BRIEF)
        for lease in leases:
            self.assertIs(pool.release(lease), True)
        self.assertEqual(pool.pooling.server.violations, [])
