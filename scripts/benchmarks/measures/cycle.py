"""A use of the connection through Django, again and again in one thread."""

from .setup import set_up
from .timing import time_loop


def cycle(database, end, seconds, through="wrapper", query=False):
    set_up(database)
    from django.db import connection, connections

    used = connections["default"] if through == "wrapper" else connection
    used.ensure_connection()
    with used.cursor() as cursor:
        cursor.execute("SELECT 1")
    loop = make_loop(used, end, query)
    loop(1)
    return time_loop(loop, seconds)


def make_loop(used, end, query):
    """Return a function that uses the connection n times."""
    from django.core.signals import request_finished, request_started
    from django.db import close_old_connections

    def close(n):
        for _ in range(n):
            used.ensure_connection()
            used.close()

    def close_old(n):
        for _ in range(n):
            used.ensure_connection()
            close_old_connections()

    def close_obsolete(n):
        for _ in range(n):
            used.ensure_connection()
            used.close_if_unusable_or_obsolete()

    def signals(n):
        for _ in range(n):
            request_started.send(sender=None)
            used.ensure_connection()
            request_finished.send(sender=None)

    def signals_query(n):
        for _ in range(n):
            request_started.send(sender=None)
            with used.cursor() as cursor:
                cursor.execute("SELECT 1")
                cursor.fetchone()
            request_finished.send(sender=None)

    return {
        "close()": close,
        "close_old_connections()": close_old,
        "close_if_unusable_or_obsolete()": close_obsolete,
        "signals": signals_query if query else signals,
    }[end]
