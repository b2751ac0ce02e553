"""What it costs to give back a connection that was left in some state."""

import time

from .setup import set_up, use_at_once
from .timing import time_loop
from .wire import Wire

# What a use leaves behind: what it does, and a query that tells whether that
# is still there.
LEFT_BEHIND = {
    "nothing": (["SELECT 1"], "SELECT false"),
    "a transaction": (
        ["BEGIN", "SELECT 1"],
        "SELECT now() <> statement_timestamp()",
    ),
    "a setting": (
        ["SET statement_timeout = '12345ms'"],
        "SELECT current_setting('statement_timeout') = '12345ms'",
    ),
    "a temporary table": (
        ["CREATE TEMPORARY TABLE IF NOT EXISTS left_behind (n int)"],
        "SELECT to_regclass('pg_temp.left_behind') IS NOT NULL",
    ),
    "an advisory lock": (
        ["SELECT pg_advisory_lock(42)"],
        "SELECT count(*) > 0 FROM pg_locks "
        "WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    ),
}
# For how long what the pool does in the background may take, in seconds.
SETTLE = 0.3


def dirty(database, kind, seconds):
    """Time uses one after the other. Each includes its statements."""
    use_and_close, _ = make_use(database, kind)

    def loop(n):
        for _ in range(n):
            use_and_close()

    return time_loop(loop, seconds)


def trips(database, kind, warm=1):
    """
    Count the round trips of a return, of the pool's own afterwards, and of
    the next borrowing; the connections opened meanwhile; and look whether what
    was left behind is still there.
    """
    wire = Wire(database["HOST"], database["PORT"])
    use_and_close, wrapper = make_use({**database, "HOST": wire.directory}, kind)
    statements, query = LEFT_BEHIND[kind]
    use_at_once(warm)
    for _ in range(3):
        use_and_close()
    time.sleep(SETTLE)
    run(wrapper, statements)
    used, sessions = wire.trips, wire.sessions
    wrapper.close()
    returned = wire.trips
    time.sleep(SETTLE)
    settled = wire.trips
    wrapper.ensure_connection()
    borrowed = wire.trips
    with wrapper.cursor() as cursor:
        cursor.execute(query)
        left = cursor.fetchone()[0]
    return {
        "on return": returned - used,
        "in background": settled - returned,
        "on borrowing": borrowed - settled,
        "round trips": borrowed - used,
        # Those that a borrower waits for.
        "on the way": returned - used + borrowed - settled,
        "connects": wire.sessions - sessions,
        "leaks": int(left),
    }


def make_use(database, kind):
    """Return a function that uses a connection, and the wrapper."""
    set_up(database)
    from django.db import connections

    statements, _ = LEFT_BEHIND[kind]
    wrapper = connections["default"]

    def use_and_close():
        run(wrapper, statements)
        wrapper.close()

    return use_and_close, wrapper


def run(wrapper, statements):
    with wrapper.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
