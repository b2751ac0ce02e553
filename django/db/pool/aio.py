"""
Asynchronous operations: each borrows a worker, runs there, and gives the
worker and its connections back.

What must stay where it is, since somebody relies on a connection, goes to
the thread where asgiref runs thread-sensitive code.
"""

import asyncio
import contextlib
import threading
from contextvars import ContextVar
from itertools import islice
from weakref import ref

from asgiref.sync import AsyncToSync, SyncToAsync

from django.db import connections, router
from django.db.async_routing import (
    _pool_settings,
    current_block,
    current_operation,
    has_option,
    used_wrappers,
)

from . import waiting
from .giving_back import give_back, give_back_idle, is_held, is_relied_on
from .options import PoolOptions
from .pool import resize_listeners
from .querylog import current_logs, logging_to
from .registry import snapshot
from .workers import SingleCall, WorkerExecutor

# What the present code holds until it's done with it.
_holds = ContextVar("holds", default=())
# What its task holds that it mustn't use, for what it goes on with later.
_kept = ContextVar("kept", default=())
# Weak references to pools whose max_size may be another than that of their
# settings.
_resized = set()
# A copy of the databases' settings, and what follows from them.
_known = None, False, (), set()


# ##### Where to run #####


def present_block():
    """
    Return the innermost block that the present code is in, None if there's
    none.

    A block that was ended in another context, or that's part of a dropped
    generator, still looks like the present one here. In its own task, what
    comes after it is outside of it.
    """
    block = current_block.get()
    while (
        block is not None and block.is_behind() and block.task is asyncio.current_task()
    ):
        block.unwind()
        block = current_block.get()
    return block


def is_bound():
    """
    Return whether the present code must go on where it is: in an atomic
    block, called by sync code that relies on its connection, or by sync code
    that a worker runs.
    """
    if present_block() is not None:
        return True
    for used in used_wrappers.get():
        if (wrapper := used()) is not None and is_relied_on(wrapper):
            return True
    operation = current_operation.get()
    return (operation is not None and operation.running) or not _look_at_settings()[0]


def _look_at_settings():
    """
    Return what follows from the settings of all databases: what
    _can_all_pool(), _limits() and _others() return.
    """
    global _known
    settings, *known = _known
    # Settings may be changed in place. Comparing them takes less time than
    # reading what's needed in them.
    if settings != connections.settings:
        settings = snapshot(connections.settings)
        known = [_can_all_pool(), _limits(), _others()]
        _known = settings, *known
    if _resized:
        # That isn't remembered: these pools may be gone next time.
        known[1] = _limits(ask_pools=True)
    return known


def _can_all_pool():
    """
    Return whether all databases with concurrent_async can have a pool, and no
    other database belongs to one thread, as an in-memory SQLite database does.
    """
    for alias, settings_dict in connections.settings.items():
        wrapper = connections.create_connection(alias)
        if has_option(settings_dict, "concurrent_async"):
            if not wrapper.pooling_class.can_pool(wrapper):
                return False
        elif wrapper.pooling_class.is_of_one_thread(wrapper):
            return False
    return True


def _others():
    """Return the aliases of the databases without concurrent_async."""
    return {
        alias
        for alias, settings_dict in connections.settings.items()
        if not has_option(settings_dict, "concurrent_async")
    }


def _is_for_another(target, using=None):
    """
    Return whether a queryset, a manager or a model instance uses a database
    without concurrent_async. Its operations run as if no other had the option.

    Called after is_bound(), which has looked at the settings.
    """
    if not (others := _known[3]):
        return False
    if using is None:
        if hasattr(target, "_meta"):
            using = router.db_for_write(target.__class__, instance=target)
        else:
            using = getattr(target, "db", None)
    return isinstance(using, str) and using in others


def _limits(ask_pools=False):
    """
    Return how many operations may run at a time, for how many seconds one may
    wait for its turn, and how many may wait.

    ask_pools: whether max_size is that of the pools, not of their settings.
    """
    size = 0
    timeout = 0.0
    max_waiting = None
    for alias, settings_dict in connections.settings.items():
        if has_option(settings_dict, "concurrent_async"):
            options = _pool_settings(settings_dict)
            pool = connections[alias].pool if ask_pools else None
            size += pool.max_size if pool else _option(options, "max_size")
            timeout = max(timeout, _option(options, "timeout"))
            if (waiting := options.get("max_waiting")) is not None:
                max_waiting = (max_waiting or 0) + waiting
    return size, timeout, max_waiting


def _option(options, name):
    return options.get(name, PoolOptions.__dataclass_fields__[name].default)


def _follow_size(pool):
    """Have the line follow a pool that was resized."""
    _resized.add(ref(pool, _resized.discard))
    waiting.line.set_limit(_look_at_settings()[1][0])


resize_listeners.append(_follow_size)


async def run(func, /, *args, **kwargs):
    """Run a function that needs nothing of its thread but connections."""
    target = getattr(func, "__self__", None)
    if getattr(target, "_deferred_filter", None):
        # The first to ask for its query changes it. Here, no other task does.
        target.query
    if is_bound() or _is_for_another(target, kwargs.get("using")):
        return await SyncToAsync(func)(*args, **kwargs)
    if (hold := _own_hold()) is not None:
        return await hold.run(func, *args, **kwargs)
    await give_back_before_waiting()
    waited = await waiting.line.enter(*_look_at_settings()[1], _count_kept())
    executor = SingleCall(on_release=waiting.line.leave)
    return await _on(executor, _Operation(func, waited))(*args, **kwargs)


def _on(executor, operation):
    return SyncToAsync(operation, thread_sensitive=False, executor=executor)


class _Operation:
    """
    A function, and whether it's being run.

    waited: seconds spent on waiting for the worker. The connection that's
        borrowed first has to come that much sooner.
    """

    __slots__ = ("func", "running", "waited", "logs")

    def __init__(self, func, waited=0.0):
        self.func = func
        self.running = False
        self.waited = waited
        self.logs = current_logs()

    def __call__(self, *args, **kwargs):
        self.running = True
        token = current_operation.set(self)
        used = used_wrappers.set(())
        try:
            if self.logs is None:
                return self.func(*args, **kwargs)
            with logging_to(self.logs):
                return self.func(*args, **kwargs)
        finally:
            self.running = False
            current_operation.reset(token)
            used_wrappers.reset(used)


async def give_back_before_waiting():
    """
    Give back what the thread of sync code holds that called this code or that
    was called by it, so that it isn't held while waiting for more.
    """
    for used in used_wrappers.get():
        if (wrapper := used()) is not None and is_held(wrapper):
            if wrapper._thread_ident == threading.get_ident():
                # Sync code that went on to run this event loop.
                give_back(wrapper)
            else:
                await SyncToAsync(give_back_idle)()
            if is_held(wrapper):
                # It belongs to a thread that has nothing to do with this.
                used_wrappers.set(
                    tuple(used for used in used_wrappers.get() if used() != wrapper)
                )


# ##### Holding a worker #####


class Hold:
    """
    One worker for several operations, one at a time. It may be that of
    another hold of the same task, or that of a bound connection.
    """

    def __init__(self):
        self.executor = None
        self.task = None
        self.is_over = False
        self.outer = None
        # Seconds spent on waiting for the worker, until something has run.
        self.waited = 0.0
        # Holds that use this one's worker, itself included.
        self.users = 1
        # Held for a few steps. The worker may end one while its task ends
        # another, or the same because it was canceled. Reentrant, for the
        # garbage collector may end one of the same worker in between.
        self.lock = threading.RLock()

    async def start(self, queryset=None):
        self.task = asyncio.current_task()
        if is_bound() or (queryset is not None and _is_for_another(queryset)):
            return self
        if (outer := _own_hold()) is not None:
            self.outer = outer
            with outer.lock:
                outer.users += 1
            return self
        await give_back_before_waiting()
        self.waited = await waiting.line.enter(*_look_at_settings()[1], _count_kept())
        self.executor = WorkerExecutor(on_release=waiting.line.leave)
        alive = [held for held in _holds.get() if _is_alive(held)]
        _holds.set((*alive, ref(self)))
        return self

    async def run(self, func, /, *args, **kwargs):
        if self.outer is not None:
            return await self.outer.run(func, *args, **kwargs)
        if self.executor is None:
            return await SyncToAsync(func)(*args, **kwargs)
        return await _on(self.executor, self.operation(func))(*args, **kwargs)

    def operation(self, func):
        """Return a function as an operation that this hold's worker runs."""
        waited, self.waited = self.waited, 0.0
        return _Operation(func, waited)

    def end(self, last=None, on_worker=False):
        """
        Let go of the worker, after it has run what it was given.

        last: a function to call before, whose outcome nobody waits for.
        on_worker: whether it's the worker that calls this, at the end of the
            last that it was given. It's free then before the task goes on,
            which may have a use for it.
        """
        hold = self.outer or self
        with hold.lock:
            if self.is_over:
                return
            self.is_over = True
            if hold.executor is None:
                return
            if last is not None and hold.executor.worker is not None:
                hold.executor.submit(last)
            hold.users -= 1
            if hold.users:
                return
        hold.executor.release(on_worker)


def _is_alive(held):
    hold = held()
    return hold is not None and not hold.is_over


def _count_kept():
    """Return how many workers the present task keeps from ending."""
    kept = _kept.get()
    return sum(map(_is_own, kept)) if kept else 0


def _is_own(held):
    return _is_alive(held) and held().task is asyncio.current_task()


def _own_hold():
    """Return what the present task holds already, or None."""
    if holds := _holds.get():
        task = asyncio.current_task()
        for held in holds:
            hold = held()
            if hold is not None and not hold.is_over and hold.task is task:
                return hold
    return None


def without_holds():
    """
    Have the present code use nothing that its task holds. Return pairs of a
    context variable and the token that resets it.
    """
    kept = (*_kept.get(), *_holds.get())
    return [(_kept, _kept.set(kept)), (_holds, _holds.set(()))]


def copy_of(queryset):
    """
    Return a copy of a QuerySet or a RawQuerySet to be evaluated by a worker.

    Evaluating changes the query for a time, and another task may evaluate the
    same queryset meanwhile, in another thread.
    """
    copy = queryset._clone()
    if copy.query is queryset.query:
        copy.query = queryset.query.clone(queryset.db)
        copy._fetch_mode = queryset._fetch_mode
    return copy


async def fetch_copy(queryset):
    """Evaluate a copy of a queryset, and have its results in the original."""
    copy = copy_of(queryset)
    before = vars(copy).copy()
    await run(copy._fetch_all)
    # Another task may have been quicker.
    if queryset._result_cache is None:
        # Subclasses may keep more than the results.
        vars(queryset).update(
            {
                name: value
                for name, value in vars(copy).items()
                if name not in before or before[name] is not value
            }
        )


async def iterate(iterable, chunk_size):
    """
    Iterate over an iterable of the ORM, asynchronously. The worker is held
    until the last chunk was read, or until this generator is closed.
    """
    iterable.queryset = copy_of(iterable.queryset)
    generator = iter(iterable)
    hold = await Hold().start(iterable.queryset)
    try:
        while True:
            chunk = await hold.run(_slice, generator, chunk_size, hold)
            for item in chunk:
                yield item
            if len(chunk) < chunk_size:
                break
    finally:
        if not hold.is_over:
            if hold.executor is None and hold.outer is None:
                with contextlib.suppress(Exception):
                    await SyncToAsync(generator.close)()
            hold.end(generator.close)


def _slice(generator, size, hold):
    chunk = list(islice(generator, size))
    if len(chunk) < size:
        # Nothing is held while the last ones are looked at.
        hold.end(on_worker=True)
    return chunk


def thread_sensitive_executor():
    """Return where asgiref would run thread-sensitive code, or None."""
    if (executor := getattr(AsyncToSync.executors, "current", None)) is not None:
        return executor
    if (context := SyncToAsync.thread_sensitive_context.get(None)) is not None:
        return SyncToAsync.context_to_thread_executor.get(context)
    loop = asyncio.get_running_loop()
    return AsyncToSync.loop_thread_executors.get(
        loop, SyncToAsync.single_thread_executor
    )
