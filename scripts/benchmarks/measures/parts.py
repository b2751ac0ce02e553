"""
What a borrow and a return consist of. Each part does what the pool does there,
with the pool's own objects, again and again by itself. What the interpreter
gains or loses where parts follow each other isn't seen that way, so that they
don't add up exactly.
"""

import timeit

from .rivals import RIVALS, Opener
from .setup import set_up
from .timing import time_loop

WHOLE = "all of it"

# Of pool.release(pool.acquire()), by what it's for.
ALONE = {
    WHOLE: "release(acquire())",
    "two calls of Python functions": "give(pool, take(pool))",
    "a deque's pop() and append()": "append(pop())",
    "the clock, read on both ways": "clock(); clock()",
    "a Lease, made and ended": (
        "lease = Lease(); lease._slot = slot; lease.pool = pool; "
        "lease.deadline = None; slot = lease._slot; del lease._slot"
    ),
    "max_lifetime and max_idle": (
        "now < slot.expires_at and now < slot.idle_since + state.max_idle; "
        "now >= slot.expires_at; slot.idle_since = now"
    ),
    "who uses it, and its status": (
        "slot.status = LEASED; slot.owner = owner; slot.owner = None; "
        "slot.status = IDLE"
    ),
    "how often and how long it's used": (
        "slot.leased_at = now; used = now - slot.leased_at; used < BRIEF; "
        "slot.brief_uses += 1; slot.brief_time += used"
    ),
    "waiters, pauses, drain(), close()": (
        "state = pool._state; slot.generation != state.calm; "
        "slot.generation != state.calm"
    ),
    "fairness": "now < state.crowded_until",
}

# Of wrapper.ensure_connection() and wrapper.close().
THROUGH_DJANGO = {
    WHOLE: "wrapper.ensure_connection(); wrapper.close()",
    "the pool by itself": "pool.release(pool.acquire(None, owner, None))",
    "whether the socket is alive": "probe()",
    "whether the driver's attributes are as they were": "watch()",
    "whether the settings are as they were": "settings == wrapper.settings_dict",
    "whether anybody else has the connection": "count_references(connection)",
    "the wrapper's attributes": (
        "wrapper.connection = connection; wrapper.autocommit = autocommit; "
        "wrapper.needs_rollback = wrapper.errors_occurred = False; "
        "wrapper.health_check_done = True; wrapper.connection = None"
    ),
}


def alone(part, seconds):
    """A part of a cycle of the pool alone."""
    pool = RIVALS["django-pool"](8, Opener(), warm=8).pool
    return measure(ALONE[part], names_alone(pool), seconds)


def names_alone(pool):
    from django.db.pool.lease import Lease
    from django.db.pool.state import IDLE, LEASED
    from django.db.pool.stats import BRIEF

    lease = pool.acquire()
    slot = lease.slot
    state = pool._state
    return {
        "acquire": pool.acquire,
        "release": pool.release,
        "take": take,
        "give": give,
        "pop": state.idle.pop,
        "append": state.idle.append,
        "clock": pool._clock,
        "Lease": Lease,
        "lease": lease,
        "pool": pool,
        "slot": slot,
        "state": state,
        "owner": None,
        "now": pool.now(),
        "IDLE": IDLE,
        "LEASED": LEASED,
        "BRIEF": BRIEF,
    }


def take(pool, timeout=None, owner=None, deadline=None):
    return pool


def give(pool, lease):
    return True


def through_django(part, database, seconds):
    """A part of a cycle through Django, on a real connection."""
    set_up(database)
    from django.db import connections

    wrapper = connections["default"]
    with wrapper.cursor() as cursor:
        cursor.execute("SELECT 1")
    wrapper.close()
    figures = measure(THROUGH_DJANGO[part], names_through_django(wrapper), seconds)
    wrapper.close_pool()
    return figures


def names_through_django(wrapper):
    from django.db.backends.base.pooling import count_references

    pool = wrapper.pool
    # One of its own: the wrapper has to stay without.
    lease = pool.acquire()
    connection, session = lease.connection, lease.slot.session
    pool.release(lease)
    return {
        "wrapper": wrapper,
        "pool": pool,
        "owner": None,
        "connection": connection,
        "autocommit": True,
        "settings": wrapper._borrower.settings,
        "probe": session.probe,
        "watch": session.watch,
        "count_references": count_references,
    }


def persistent(database, seconds):
    """What Django does with a persistent connection in place of all that."""
    set_up(database)
    from django.db import connections

    wrapper = connections["default"]
    wrapper.ensure_connection()
    statement = "wrapper.ensure_connection(); wrapper.close_if_unusable_or_obsolete()"
    return measure(statement, {"wrapper": wrapper}, seconds)


def floor(seconds):
    """A deque and a lock, with nothing around them."""
    floor = RIVALS["floor"](8, Opener(), warm=8)
    names = {"acquire": floor.acquire, "release": floor.release}
    return measure("release(acquire())", names, seconds)


def measure(statement, names, seconds):
    """Return what a statement takes, in nanoseconds, without the loop."""
    # Locals are what the names are in the pool's functions.
    setup = "; ".join(f"{name} = {name}_" for name in names)
    names = {f"{name}_": value for name, value in names.items()}
    loop = timeit.Timer(statement, setup, globals=names).timeit
    empty = timeit.Timer("pass", setup, globals=names).timeit
    took = time_loop(loop, seconds)["cpu"] - time_loop(empty, seconds / 4)["cpu"]
    return {"cpu": took * 1e3}
