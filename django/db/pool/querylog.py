"""
With DEBUG, what workers run is found in ``connection.queries`` of the code
that they run it for.
"""

from collections import deque
from contextlib import contextmanager

from asgiref.sync import SyncToAsync

from django.conf import settings
from django.db import connections
from django.db.async_routing import used_wrappers


def new_logs():
    """Return an empty log for each alias, None without DEBUG."""
    if not settings.DEBUG:
        return None
    return {
        alias: deque(maxlen=connections[alias].queries_limit) for alias in connections
    }


def current_logs():
    """Return the logs of the present asynchronous code by alias, or None."""
    if not settings.DEBUG:
        return None
    context = SyncToAsync.thread_sensitive_context.get(None)
    if (logs := getattr(context, "logs", None)) is not None:
        return logs
    used = [wrapper for used in used_wrappers.get() if (wrapper := used())]
    return {wrapper.alias: wrapper.queries_log for wrapper in used}


@contextmanager
def logging_to(logs):
    """Have the wrappers of this thread log there."""
    if not logs:
        yield
        return
    wrappers = [connections[alias] for alias in logs]
    own_logs = [wrapper.queries_log for wrapper in wrappers]
    for wrapper in wrappers:
        wrapper.queries_log = logs[wrapper.alias]
    try:
        yield
    finally:
        for wrapper, log in zip(wrappers, own_logs):
            wrapper.queries_log = log
