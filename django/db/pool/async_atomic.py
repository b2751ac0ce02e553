"""
Asynchronous atomic blocks.

All of a block runs in one thread, in order: on a worker, or where sync code
is that relies on its connection. A task that somebody else starts in a block
is refused there, unless it says that it joins or that it's independent.
"""

import asyncio
import sys
import threading
from asyncio import _get_running_loop
from collections import deque
from concurrent.futures import Executor, Future
from contextvars import copy_context
from copy import copy
from functools import partial
from inspect import CO_ASYNC_GENERATOR
from weakref import WeakKeyDictionary, WeakSet, proxy, ref

from asgiref.sync import AsyncToSync, SyncToAsync, ThreadSensitiveContext

from django.db import connections
from django.db.async_routing import (
    current_block,
    is_concurrent,
    outlast,
    used_wrappers,
)
from django.db.transaction import TransactionManagementError

from .aio import (
    Hold,
    is_bound,
    present_block,
    thread_sensitive_executor,
    without_holds,
)
from .querylog import current_logs, logging_to
from .workers import Job, Operation, SingleCall


class _Thread:
    """
    A thread in which asynchronous blocks are nested. Those of several tasks
    that share it wait for each other.
    """

    def __init__(self, executor, hold=None):
        self.executor = executor
        # What is let go of at the end of the outermost block.
        self.hold = hold
        # Held for a few steps, never while anything is run. Reentrant: the
        # garbage collector may close a block that was dropped meanwhile.
        self.lock = threading.RLock()
        self.is_advancing = False
        self.root = _Level()
        self.top = self.root

    @property
    def is_bound(self):
        """Return whether the connection is that of sync code."""
        return self.hold is None

    def put(self, level, job, opens=None):
        """
        Have a job run as part of a level, when no block is open in it.

        opens: the level that the job opens.
        """
        with self.lock:
            level.jobs.append((job, opens))
            self._advance()

    def close(self, level):
        """Note that a block has ended. Those outside of it go on."""
        with self.lock:
            left = [job for job, _ in level.jobs]
            level.jobs.clear()
            self.top = level.outer
            self._advance()
        for job in left:
            job.future.cancel()

    def _advance(self):
        if self.is_advancing:
            # The loop that this came in between goes on.
            return
        self.is_advancing = True
        try:
            while self.top.jobs:
                job, opens = self.top.jobs.popleft()
                if opens is not None:
                    self.top = opens
                self.executor.submit(job.run)
        finally:
            self.is_advancing = False


class _Level:
    """What is waiting to be run in a block, but not in one inside of it."""

    def __init__(self, outer=None):
        self.outer = outer
        self.jobs = deque()


def is_bridged():
    """
    Return whether sync code called this and waits for it: thread-sensitive
    code runs in its thread.
    """
    return getattr(AsyncToSync.executors, "current", None) is not None


# Where sync code is that relies on its connection -> _Thread
_bound_threads = WeakKeyDictionary()


class _Operation(Operation):
    """The outcome of an operation in a block."""

    def __init__(self, block):
        super().__init__()
        self.block = block
        # Whether its task was told how it ended, or the block that it was
        # canceled.
        self.is_told = False

    def cancel(self):
        self.is_told = True
        self.block.doom()
        return super().cancel()

    def exception(self, timeout=None):
        # asyncio asks, in the thread of the event loop, unless whoever awaits
        # it was canceled.
        self.is_told = True
        return super().exception(timeout)


class _PresentBlock(Executor):
    """
    Runs thread-sensitive code in the block that it's in.

    One is enough for all blocks. asgiref keeps what it's given as long as the
    context, and a block refers to its context: neither would ever go.
    """

    def submit(self, fn, /, *args, **kwargs):
        if (block := present_block()) is None:
            return SingleCall().submit(fn, *args, **kwargs)
        return block.submit(fn, *args, **kwargs)


_present_block = _PresentBlock()


class _Context(ThreadSensitiveContext):
    """Has thread-sensitive code run in the thread of a block."""

    def __init__(self, logs):
        super().__init__(executor=_present_block)
        self.logs = logs

    async def __aexit__(self, *args):
        try:
            await super().__aexit__(*args)
        except ValueError:
            # It was entered in another context, see Block.leave_context().
            pass
        finally:
            # For tasks that were started in the block and outlive it. The
            # block refuses them, and says why.
            self._exited = False
            SyncToAsync.context_to_thread_executor[self] = _present_block


class Block(Executor):
    """
    An atomic block, as the executor of what's done in it.

    atomic: an Atomic that's like the one that it's made of.
    """

    def __init__(self, atomic, thread, outer):
        # Another one, for the wrapper keeps it: a block with its task, if
        # that's dropped, should go when nobody else refers to it.
        self.atomic = copy(atomic)
        self.atomic._async_blocks = ()
        self.thread = thread
        self.outer = outer
        self.level = _Level(thread.root if outer is None else outer.level)
        self.task = asyncio.current_task()
        self.joined = WeakSet()
        self.generators = _running_generators()
        # Each task's last operation.
        self.operations = WeakKeyDictionary()
        self.is_ending = False
        self.wrapper = None
        self.logs = current_logs()
        self.context = _Context(self.logs)
        # What thread-sensitive code outside of the block has.
        self.outer_context = SyncToAsync.thread_sensitive_context.get(None)
        self.outer_bridge = getattr(AsyncToSync.executors, "current", None)

    # ##### Who may #####

    def is_behind(self):
        """
        Return whether what the block's own task does now comes after it: it
        has ended, or will, since the generator that it's part of was dropped.
        """
        return self.is_ending or any(found() is None for found in self.generators)

    def check_task(self):
        """Raise TransactionManagementError in a task that isn't part of it."""
        task = asyncio.current_task()
        if is_bridged():
            # Called by sync code of the block, which waits in its thread.
            return
        if task is not self.task and task not in self.joined:
            raise TransactionManagementError(
                "This task was started in an atomic block that belongs to another "
                "task. Start it with transaction.joined(...) to have its queries "
                "run in that transaction, one at a time, or with "
                "transaction.independent(...) to have them run outside of it, on "
                "another connection."
            )
        if self.is_ending:
            raise TransactionManagementError(
                "The atomic block that this task joined has ended."
            )

    def wrapper_for(self, using):
        """Return the block's wrapper of a database, None if it isn't its."""
        self.check_task()
        block = self
        while block is not None:
            if block.wrapper is not None and block.wrapper.alias == using:
                return block.wrapper
            block = block.outer
        return None

    # ##### Running #####

    def submit(self, fn, /, *args, **kwargs):
        self.check_task()
        task = asyncio.current_task()
        self.check_operation(task)
        self.operations[task] = future = _Operation(self)
        self.thread.put(self.level, Job(future, partial(self._run, fn, args, kwargs)))
        return future

    def _run(self, fn, args, kwargs):
        with logging_to(self.logs):
            return fn(*args, **kwargs)

    def check_operation(self, task):
        """
        Note that a task goes on. If it wasn't told how its last operation
        ended, that was canceled, of which asyncio tells its future only later.
        It may have ended meanwhile.
        """
        operation = self.operations.get(task)
        if operation is not None and not operation.is_told:
            self.doom()

    def doom(self):
        """
        Have the block rolled back, for an operation in it was canceled:
        nobody knows how far it got.
        """
        if not self.is_ending:
            self.thread.put(self.level, Job(Future(), self._doom))

    def _doom(self):
        if self.wrapper is not None and self.wrapper.in_atomic_block:
            self.wrapper.needs_rollback = True
            self.wrapper.rollback_exc = asyncio.CancelledError(
                "An operation in the atomic block was canceled."
            )

    # ##### Beginning and ending #####

    async def begin(self):
        future = Future()
        enter = self._enter
        if self.outer is None and self.thread.hold is not None:
            enter = self.thread.hold.operation(enter)
        # Its own, so that what sync code notes doesn't outlive the block.
        run = partial(copy_context().run, enter)
        outer = self.level.outer
        self.thread.put(outer, Job(future, run), opens=self.level)
        canceled = None
        try:
            canceled = await _finish(future)
            future.result()
        except BaseException:
            self.thread.close(self.level)
            if self.outer is None and self.thread.hold is not None:
                self.thread.hold.end()
            raise
        if canceled is not None:
            await self._end((type(canceled), canceled, None), wait=False)
            raise canceled
        await self.context.__aenter__()
        self.token = current_block.set(self)

    def _enter(self):
        with logging_to(self.logs):
            self.wrapper = connections[self.atomic.using or "default"]
            self.atomic.__enter__()

    async def leave_context(self, exc_info):
        await self.context.__aexit__(*exc_info)
        try:
            current_block.reset(self.token)
        except ValueError:
            # The block was entered in another context: it's part of a
            # coroutine or an asynchronous generator that was dropped, for
            # one. The present code may be in a block that goes on.
            if current_block.get() is self:
                self.unwind()

    def unwind(self):
        """Leave the block in a context that isn't that of its beginning."""
        if (hold := self.thread.hold) is not None and self.outer is None:
            # Until the block has ended, its worker serves nobody else.
            (hold.outer or hold).task = None
        current_block.set(self.outer)
        SyncToAsync.thread_sensitive_context.set(self.outer_context)
        AsyncToSync.executors.current = self.outer_bridge

    async def end(self, exc_info):
        await self.leave_context(exc_info)
        if not self.thread.is_bound and self.thread.executor.released:
            # The garbage collector, which keeps no order, has dropped the
            # worker before the task. It has rolled back by itself.
            return
        # A canceled operation may still be running.
        for task in list(self.operations):
            if task is self.task or task.done():
                self.check_operation(task)
        # Who closes a coroutine that was dropped can't wait either.
        wait = not (
            exc_info[0]
            and issubclass(exc_info[0], (asyncio.CancelledError, GeneratorExit))
        )
        await self._end(exc_info, wait)

    async def _end(self, exc_info, wait):
        self.is_ending = True
        future = Future()
        exit = partial(self._exit, exc_info)
        if self.outer is None and self.thread.hold is not None:
            # What hooks of on_commit() call asynchronously stays there.
            exit = self.thread.hold.operation(exit)
        run = partial(copy_context().run, exit)
        # Closed before anybody knows of the end: what's done next must not
        # find it open.
        close = partial(self._close_soon, _get_running_loop())
        self.thread.put(self.level, Job(future, run, close))
        if wait:
            canceled = await _finish(future)
            future.result()
            if canceled is not None:
                raise canceled

    def _exit(self, exc_info):
        with logging_to(self.logs):
            self.atomic.__exit__(*exc_info)

    def _close_soon(self, loop):
        if self.thread.is_bound and loop is not None:
            try:
                # Not in the thread itself: asgiref's takes no work of its own.
                loop.call_soon_threadsafe(self._close)
                return
            except RuntimeError:
                # Nobody is left in the loop who could wait for this thread.
                pass
        self._close()

    def _close(self):
        self.thread.close(self.level)
        if self.outer is None and self.thread.hold is not None:
            self.thread.hold.end(on_worker=True)


def _running_generators():
    """
    Return weak references to the asynchronous generator that the present code
    is part of and, if that's a context manager, to the one that uses it.
    They're dead as soon as it was dropped. It's closed by a task of its own,
    some steps later.
    """
    frames = []
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_flags & CO_ASYNC_GENERATOR:
            frames.append(frame)
            # One further out may be dropped while this one goes on.
            if frame.f_back.f_globals.get("__name__") != "contextlib":
                break
        frame = frame.f_back
    if not frames:
        return ()
    # Event loops that keep them elsewhere leave dropped ones unseen.
    known = getattr(_get_running_loop(), "_asyncgens", ())
    return [ref(found) for found in known if found.ag_frame in frames]


async def _finish(future):
    """
    Wait until something is done that can't be left half done. Return the
    cancellation that came meanwhile, or None.
    """
    future = asyncio.wrap_future(future)
    canceled = await outlast(future)
    # Its outcome is looked at by the caller.
    future.cancelled() or future.exception()
    return canceled


async def enter(atomic):
    """Do what ``async with`` does with an Atomic at the beginning."""
    if not is_concurrent():
        raise TransactionManagementError(
            "Asynchronous atomic blocks need a connection pool with the "
            "concurrent_async option."
        )
    outer = None if is_bridged() else present_block()
    if outer is not None:
        outer.check_task()
        thread = outer.thread
    elif is_bound():
        executor = thread_sensitive_executor()
        thread = _bound_threads.get(executor)
        if thread is None:
            # The keys of this dictionary are gone when nobody else has them.
            thread = _bound_threads[executor] = _Thread(proxy(executor))
    else:
        hold = await Hold().start()
        thread = _Thread((hold.outer or hold).executor, hold)
    block = Block(atomic, thread, outer)
    await block.begin()
    atomic._async_blocks += (block,)


async def exit(atomic, exc_info):
    """Do what ``async with`` does with an Atomic at the end."""
    blocks = atomic._async_blocks
    block = current_block.get()
    if block not in blocks:
        # The context isn't that in which the block was entered.
        block = blocks[-1]
    atomic._async_blocks = tuple(other for other in blocks if other is not block)
    await block.end(exc_info)


# ##### Tasks started in a block #####


async def joined(awaitable):
    block = present_block()
    if block is None:
        return await awaitable
    task = asyncio.current_task()
    if task is block.task or task in block.joined:
        return await awaitable
    block.joined.add(task)
    try:
        return await awaitable
    finally:
        block.joined.discard(task)


async def independent(awaitable):
    block = present_block()
    if block is None:
        return await awaitable
    if block.thread.is_bound:
        # There is no other connection.
        return await joined(awaitable)
    while block.outer is not None:
        block = block.outer
    context = block.outer_context or ThreadSensitiveContext()
    tokens = [
        (current_block, current_block.set(None)),
        (used_wrappers, used_wrappers.set(())),
        # The block's own task would run its queries on the block's worker.
        *without_holds(),
        (
            SyncToAsync.thread_sensitive_context,
            SyncToAsync.thread_sensitive_context.set(context),
        ),
    ]
    bridge = getattr(AsyncToSync.executors, "current", None)
    AsyncToSync.executors.current = block.outer_bridge
    try:
        return await awaitable
    finally:
        try:
            for variable, token in tokens:
                variable.reset(token)
        except ValueError:
            # Closed by the garbage collector, in a context in which there's
            # nothing to undo.
            pass
        else:
            AsyncToSync.executors.current = bridge
