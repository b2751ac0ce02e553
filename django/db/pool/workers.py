"""
Threads that asynchronous code borrows, each with its own database wrappers.

They know nothing of transactions or of where a function should run: they run
what they're given and give back the connections that it borrowed.
"""

import atexit
import itertools
import logging
import os
import queue
import threading
import time
from concurrent.futures import Executor, Future

from django.db import InterfaceError, connections
from django.db.async_routing import has_option

from . import registry
from .giving_back import give_back_all
from .querylog import logging_to

logger = logging.getLogger("django.db.pool")

# Seconds after which a worker that has nothing to do ends.
MAX_IDLE = 30.0
# At exit, seconds for which what still runs is waited for.
EXIT_TIMEOUT = 2.0


def interrupts():
    """Return whether any database's queries are canceled on the server."""
    return any(
        has_option(settings_dict, "cancel_queries")
        for settings_dict in connections.settings.values()
    )


class Job:
    """
    Something for a worker to do.

    future: a concurrent.futures.Future that gets the outcome.
    function: what to call, without arguments.
    end: called after it, also if it was canceled before it could begin, and
        before the outcome is known to anybody.
    """

    __slots__ = ("future", "function", "end", "thread", "interruption")

    def __init__(self, future, function, end=None):
        self.future = future
        self.function = function
        self.end = end
        # Where it's running.
        self.thread = None
        self.interruption = None
        if isinstance(future, Operation):
            future.job = self

    def run(self):
        result = error = None
        wanted = self.future.set_running_or_notify_cancel()
        if wanted:
            self.thread = threading.current_thread()
            try:
                result = self.function()
            except BaseException as e:
                error = e
            with _interrupting:
                self.thread = None
            if self.interruption is not None:
                # What was asked for could still hit what's run next.
                self.interruption.wait()
        end, self.function, self.end = self.end, None, None
        if end is not None:
            try:
                end()
            except BaseException:
                # SystemExit in a callable of the project's. The thread lives
                # on: others are given it.
                logger.exception("A worker couldn't give back what it borrowed.")
        # Whoever is told may look for what's left of it.
        end = None
        if not wanted:
            return
        try:
            if error is not None:
                self.future.set_exception(error)
            else:
                self.future.set_result(result)
        finally:
            # Break a reference cycle with the exception's traceback.
            self = result = error = None

    def interrupt(self):
        """Have the server cancel the queries of this job, if it's running."""
        with _interrupting:
            if self.thread is None or self.interruption is not None:
                return
            self.interruption = threading.Event()
        executor = WorkerExecutor()
        try:
            executor.put(Future(), self._interrupt, last=True)
        except Exception as e:
            # Out of threads. The query goes on.
            self.interruption.set()
            logger.debug("Canceling a query: %s", e, exc_info=True)

    def _interrupt(self):
        try:
            for borrower in registry.borrowers_of(self.thread):
                pool = borrower.pool
                lease = borrower.lease
                slot = lease and lease.slot
                if slot is None or not pool.options.cancel_queries:
                    continue
                # So that it's closed when it's given back.
                slot.generation = None
                # That may have been before, if leases end with statements. It
                # may be another borrower's by now.
                if lease.slot is slot:
                    pool.pooling.cancel_query(slot.connection)
        except Exception as e:
            logger.debug("Canceling a query: %s", e, exc_info=True)
        finally:
            self.interruption.set()


class Operation(Future):
    """The outcome of a job that may be interrupted."""

    job = None

    def cancel(self):
        """Have it not run, or interrupt it if that's wanted."""
        canceled = super().cancel()
        if not canceled and self.job is not None and interrupts():
            self.job.interrupt()
        return canceled


# Held for a few bytecodes, by a job that ends and by who wants to interrupt
# one that doesn't.
_interrupting = threading.Lock()


class Worker:
    """A thread that runs one job after the other."""

    numbers = itertools.count(1)

    def __init__(self, workers):
        self.workers = workers
        self.inbox = queue.SimpleQueue()
        self.thread = threading.Thread(
            target=self._run,
            name=f"django-db-worker-{next(self.numbers)}",
            # At exit, _Workers.stop() waits for what it's doing.
            daemon=True,
        )

    def put(self, job):
        self.inbox.put(job)

    def _run(self):
        while True:
            try:
                job = self.inbox.get(timeout=MAX_IDLE)
            except queue.Empty:
                if self.workers.retire(self):
                    break
                continue
            if job is None:
                break
            job.run()
            del job
        # Those that no pool wants back.
        connections.close_all()


class _Workers:
    """The workers of the process."""

    def __init__(self):
        # The last was used last. Its pop() and remove() hand each worker to
        # one caller only.
        self.idle = []
        self.all = set()
        # Held for a few bytecodes, when a worker starts or ends.
        self.lock = threading.Lock()

    @property
    def busy(self):
        """The workers that somebody has."""
        with self.lock:
            return self.all.difference(self.idle)

    def take(self):
        """Return a worker that nobody else has. Start one if there's none."""
        try:
            return self.idle.pop()
        except IndexError:
            pass
        worker = Worker(self)
        worker.thread.start()
        with self.lock:
            self.all.add(worker)
        return worker

    def put_back(self, worker):
        """Take back a worker that has nothing left to do."""
        with self.lock:
            # It isn't one of them any more after stop().
            if worker in self.all:
                self.idle.append(worker)

    def retire(self, worker):
        """Return whether a worker may end: nobody has it."""
        try:
            self.idle.remove(worker)
        except ValueError:
            return False
        with self.lock:
            self.all.discard(worker)
        return True

    def stop(self):
        """
        End the workers, after what they're doing now, but don't wait for that
        for long.
        """
        with self.lock:
            workers = [*self.all]
            self.all.clear()
            self.idle.clear()
        for worker in workers:
            worker.put(None)
        end = time.monotonic() + EXIT_TIMEOUT
        for worker in workers:
            worker.thread.join(max(0, end - time.monotonic()))


class WorkerExecutor(Executor):
    """
    Runs functions on one worker until released. The worker is taken when
    there's something to run.

    after_each: called on the worker after each function.
    """

    # With DEBUG, where queries are logged.
    logs = None

    def __init__(self, after_each=None, on_release=None):
        self.after_each = after_each
        self.on_release = on_release
        self.worker = None
        self.released = False

    def submit(self, fn, /, *args, **kwargs):
        future = Operation()
        if self.logs is not None:
            fn = logging_to(self.logs)(fn)
        self.put(future, _bind(fn, args, kwargs))
        return future

    def put(self, future, function, last=False):
        """
        Have a function run, with its outcome in a given future.

        last: whether the worker is released after it.
        """
        if self.released:
            raise InterfaceError("The worker has been given back.")
        if self.worker is None:
            self.worker = workers.take()
        if last:
            self.released = True
            self.worker.put(Job(future, function, self._end))
        else:
            self.worker.put(Job(future, function, self.after_each))

    def release(self, on_worker=False):
        """
        Let go of the worker when it has run what it has been given.

        on_worker: whether this is called at the end of that, by the worker.
        """
        if self.released:
            return
        self.released = True
        if self.worker is None:
            if self.on_release is not None:
                self.on_release()
        elif on_worker and self.worker.inbox.empty():
            self._end()
        else:
            self.worker.put(Job(Future(), _nothing, self._end))

    def _end(self):
        worker = self.worker
        try:
            give_back_all()
        finally:
            workers.put_back(worker)
            if self.on_release is not None:
                self.on_release()

    def __del__(self):
        try:
            self.release()
        except Exception:
            # The interpreter is shutting down, its modules are gone.
            pass


class SingleCall(WorkerExecutor):
    """Runs one function, and is released by its end."""

    def submit(self, fn, /, *args, **kwargs):
        future = Operation()
        self.put(future, _bind(fn, args, kwargs), last=True)
        return future


def _bind(fn, args, kwargs):
    return (lambda: fn(*args, **kwargs)) if args or kwargs else fn


def _nothing():
    pass


workers = _Workers()


def _forget():
    """After a fork, in the child: there are no workers."""
    global workers, _interrupting
    workers = _Workers()
    _interrupting = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
# Before the pools are closed, for this module is imported after the registry.
atexit.register(lambda: workers.stop())
