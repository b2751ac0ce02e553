"""
The one background thread of a process, shared by all its pools.

It decides nothing: it takes back what was abandoned, then asks each pool to
do what's due and sleeps until there's something to do again. It's started by
the first pool that has a connection and ends when none has any.
"""

import logging
import queue
import threading
import time
from functools import partial, wraps

from .reentry import is_inside

logger = logging.getLogger("django.db.pool")

# Tuples of a step and its arguments, None to look at all pools again. It's a
# SimpleQueue because its put() may be called by a destructor that interrupts
# another put() or the holder of any lock.
_inbox = queue.SimpleQueue()
# Reentrant, so that it knows its holder: see wake().
_lock = threading.RLock()
# Held for each step, and by a thread that forks: the library of a driver may
# hold locks of its own meanwhile, as SQLite does when it opens a database, and
# nobody would ever release them in the child. Reentrant, for a step may fork.
_at_work = threading.RLock()
# Held while _at_work is acquired, so that one step after the other doesn't
# keep out a thread that forks.
_turn = threading.RLock()
_thread = None
# When the present step began, on time.monotonic()'s clock, None between steps.
_begun = None
_exit_arranged = False

# The longest sleep in seconds, whatever is due.
LONGEST_SLEEP = 3600.0

# After how many seconds in one step the thread is held to be late.
LATE = 0.1

# For how many seconds a fork waits for a step that waits for a server.
FORK_TIMEOUT = 1.0


def put(step, *arguments):
    """
    Have a callable called with some arguments. Takes no lock. The thread
    exists as long as any pool has a connection.
    """
    _inbox.put((step, *arguments))


def put_and_wake(step, *arguments):
    """The same, also if nothing has been opened so far: there's no thread."""
    put(step, *arguments)
    # Not before: it ends when there's nothing left to do.
    wake()


def put_off_inside(method):
    """
    Have a method called by the maintenance thread if this thread holds the
    lock of its object, see reentry. True is returned then, and what the method
    raises is logged.
    """

    @wraps(method)
    def call(self, *args, **kwargs):
        # is_inside(), without the call.
        if self._lock._is_owned():
            put_and_wake(partial(method, self, *args, **kwargs))
            return True
        return method(self, *args, **kwargs)

    return call


def is_late():
    """Return whether the thread has been waiting for something for long."""
    begun = _begun
    return begun is not None and time.monotonic() - begun > LATE


def wake():
    """Have all pools looked at. Start the thread if there's none."""
    global _thread
    if is_inside(_lock):
        # This is a finalizer. Whoever it has interrupted sees to the thread.
        _inbox.put(None)
        return
    with _lock:
        if _thread is None:
            _arrange_exit()
            thread = threading.Thread(
                target=_run, name="django-db-pool-maintenance", daemon=True
            )
            try:
                thread.start()
                _thread = thread
            except RuntimeError:
                # The interpreter is shutting down, or out of threads. The
                # next connect tries again.
                pass
        # With the lock held: the thread doesn't end meanwhile.
        _inbox.put(None)


def join(timeout):
    """
    Wait until the thread has done what it was given, at exit: it may be
    opening a connection that wants to be closed.

    timeout: how long to wait at most, in seconds.
    """
    done = threading.Event()
    with _lock:
        if _thread is None:
            return
        put(done.set)
    done.wait(timeout)


def _arrange_exit():
    global _exit_arranged
    if not _exit_arranged:
        from . import registry

        registry.arrange_exit()
        _exit_arranged = True


def pause_for_fork():
    """Before a fork: let the thread end its step, and begin no other one."""
    with _turn:
        _at_work.acquire(timeout=FORK_TIMEOUT)


def go_on_after_fork():
    """After a fork, in the parent."""
    try:
        _at_work.release()
    except RuntimeError:
        # It wasn't acquired in time.
        pass


def forget():
    """After a fork, in the child: there's no thread."""
    global _inbox, _lock, _at_work, _turn, _thread, _begun, _exit_arranged
    _exit_arranged = False
    _inbox = queue.SimpleQueue()
    _lock = threading.RLock()
    _at_work = threading.RLock()
    _turn = threading.RLock()
    _thread = _begun = None


def _run():
    global _thread
    pause = 0.0
    try:
        while True:
            _work(pause)
            pause = _maintain_all()
            if pause is None and _retire():
                return
    except BaseException:
        # SystemExit in a callable of the project's, or a greenlet killed. The
        # next connect starts another thread.
        with _lock:
            _thread = None
        raise


def _work(pause):
    """Do what comes until nothing more has come for a pause."""
    try:
        message = _inbox.get(timeout=pause or 0)
        while True:
            if message is not None:
                _guarded(*message)
            message = _inbox.get_nowait()
    except queue.Empty:
        pass


def _maintain_all():
    """
    Have all pools do what's due. Return the seconds until there will be
    something to do, None if no pool needs the thread.
    """
    from . import registry

    _guarded(registry.close_orphans)
    pause = None
    for pool in registry.all_pools():
        due_in = _guarded(pool.maintain)
        if due_in is not None:
            pause = min(due_in, LONGEST_SLEEP if pause is None else pause)
    return pause


def _retire():
    """Return whether the thread may end: nothing came meanwhile."""
    global _thread
    with _lock:
        if not _inbox.empty():
            return False
        _thread = None
    if not _inbox.empty():
        # A finalizer came in between.
        wake()
    return True


def _guarded(step, *args):
    """Run a step. One pool's trouble must not end the others' maintenance."""
    global _begun
    with _turn:
        _at_work.acquire()
    try:
        _begun = time.monotonic()
        return step(*args)
    except Exception:
        logger.exception("Maintenance of a connection pool failed.")
        return 1.0
    finally:
        _begun = None
        _at_work.release()
