"""
Where asynchronous code runs its queries.

Without a connection pool, and with pools whose ``concurrent_async`` option is
off, that's where asgiref runs thread-sensitive code. Otherwise,
django.db.pool.aio decides. The pool isn't imported without need.
"""

import asyncio
import logging
from asyncio import _get_running_loop
from contextvars import ContextVar
from functools import partial
from weakref import ref

from asgiref import sync

from django.db import connections

logger = logging.getLogger("django.request")

# Weak references to wrappers that the present code, or sync code that called
# it, has used. asgiref carries them across its bridges.
used_wrappers = ContextVar("used_wrappers", default=())
# The innermost asynchronous atomic block that the present code is in, or in
# which its task was started.
current_block = ContextVar("current_block", default=None)
# What a worker runs that the present code is part of. For asynchronous code
# that's what the sync code is part of that called it.
current_operation = ContextVar("current_operation", default=None)


def _pool_settings(settings_dict):
    value = settings_dict.get("POOL")
    if value is None:
        value = (settings_dict.get("OPTIONS") or {}).get("pool")
    return value


def has_option(settings_dict, name):
    """Return whether a database has a pool with an option set."""
    options = _pool_settings(settings_dict)
    return isinstance(options, dict) and bool(options.get(name))


def has_pools(databases=None):
    """
    Return whether any database has a pool, of those given or of all that there
    are: their settings by alias.
    """
    if databases is None:
        databases = connections.settings
    return any(
        _pool_settings(settings_dict) not in (None, False)
        for settings_dict in databases.values()
    )


def is_concurrent():
    """Return whether any database has a pool with concurrent_async."""
    for settings_dict in connections.settings.values():
        options = _pool_settings(settings_dict)
        if options.__class__ is dict and options.get("concurrent_async"):
            return True
    return False


def sync_to_async(func):
    """
    Like asgiref's, for functions that need nothing of their thread but its
    database connections.
    """
    if not is_concurrent():
        return sync.sync_to_async(func)
    # Not "from django.db.pool import aio": each time, that takes longer.
    from django.db.pool.aio import run

    return partial(run, func)


async def fetch(queryset):
    """Have a QuerySet or a RawQuerySet evaluated."""
    if queryset._result_cache is None and is_concurrent():
        from django.db.pool.aio import fetch_copy

        await fetch_copy(queryset)
    else:
        await sync_to_async(queryset._fetch_all)()


def cache_to_async(method, thread_sensitive):
    """
    Like asgiref's, for methods of caches. Only those of a DatabaseCache are
    known to need nothing of their thread but its connections.
    """
    if is_concurrent():
        from django.core.cache.backends.db import BaseDatabaseCache

        # It may have been replaced, by a test for one.
        if isinstance(getattr(method, "__self__", None), BaseDatabaseCache):
            return sync_to_async(method)
    return sync.sync_to_async(method, thread_sensitive=thread_sensitive)


def note(wrapper):
    """Remember that a wrapper is used by the present code."""
    if is_concurrent():
        note_reference(ref(wrapper))


def note_reference(reference):
    """The same, for a weak reference to a wrapper."""
    if not (noted := used_wrappers.get()):
        used_wrappers.set((reference,))
    elif reference not in noted:
        alive = [used for used in noted if used() is not None]
        used_wrappers.set((*alive, reference))


def wrapper_of_block(using):
    """
    Return the wrapper that an asynchronous atomic block of a database holds,
    if this is asynchronous code in such a block. Raise
    TransactionManagementError if it's in a task that isn't part of it.
    """
    if current_block.get() is None or _get_running_loop() is None:
        return None
    from django.db.pool.aio import present_block

    return (block := present_block()) and block.wrapper_for(using)


def join_tasks(coroutines):
    """Have Django's own tasks take part in the atomic block they're for."""
    if current_block.get() is None:
        return coroutines
    return [join(coroutine) for coroutine in coroutines]


def request_context():
    """
    Return the asynchronous context manager that an ASGI request is handled
    in: it decides in which thread thread-sensitive code runs.
    """
    if not has_pools():
        return sync.ThreadSensitiveContext()
    from django.db.pool.requests import request_context

    return request_context()


async def serve_lifespan(receive, send):
    """Serve an ASGI server's lifespan, at whose end all pools are closed."""
    from django.db.pool.requests import lifespan

    await lifespan(receive, send)


async def to_the_end(awaitable):
    """
    With a pool, await something even if the present task is canceled
    meanwhile: connections depend on it.
    """
    if not has_pools():
        return await awaitable
    if current_block.get() is not None:
        from django.db.pool.aio import present_block

        # A task started now would look as if it were part of a block that has
        # ended, that of a response's iterator for one.
        present_block()
    return await _shield(awaitable)


async def _shield(awaitable):
    """The same, for something that's part of the present block."""
    task = asyncio.ensure_future(join(awaitable))
    if (canceled := await outlast(task)) is not None:
        raise canceled
    return task.result()


async def outlast(future):
    """
    Wait until an asyncio.Future is done, also if the present task is canceled
    meanwhile. Return the cancellation, or None.
    """
    canceled = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as e:
            canceled = e
    return canceled


async def close_stream(response):
    """
    With a pool, close the asynchronous iterator of a response that wasn't
    sent to its end. It may hold a connection, and the error that ended it is
    part of a reference cycle: only the garbage collector would let it go.
    """
    aclose = getattr(getattr(response, "_iterator", None), "aclose", None)
    if aclose is None or not has_pools():
        return
    try:
        # As part of the atomic block that it was left in, if there is one.
        await _shield(aclose())
    except Exception:
        logger.exception("Closing the iterator of a streaming response failed.")


async def join(awaitable):
    """See transaction.joined()."""
    if current_block.get() is None:
        return await awaitable
    from django.db.pool.async_atomic import joined

    return await joined(awaitable)


async def leave(awaitable):
    """See transaction.independent()."""
    if current_block.get() is None:
        return await awaitable
    from django.db.pool.async_atomic import independent

    return await independent(awaitable)
