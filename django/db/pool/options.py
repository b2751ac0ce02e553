"""
The options of a connection pool: their names, defaults, units and limits.

This module reads settings and judges them. It makes no pool.
"""

import math
from dataclasses import dataclass, fields
from difflib import get_close_matches

from django.core.exceptions import ImproperlyConfigured

# Options of the driver pools that Django 5.1 to 6.1 passed through, which
# this pool can't honor. Each says what to use in its place.
DRIVER_POOL_OPTIONS = {
    # psycopg_pool.ConnectionPool
    "configure": "connect to the connection_created signal, which is sent once "
    "for every new connection",
    "connection_class": "set OPTIONS['cursor_factory'], or subclass the backend",
    "conninfo": "set NAME, USER, PASSWORD, HOST, PORT and OPTIONS",
    "kwargs": "set NAME, USER, PASSWORD, HOST, PORT and OPTIONS",
    "close_returns": "remove it, connection.close() always gives back",
    "drain": "remove it",
    "num_workers": "use 'connecting' to bound the connects in flight",
    "open": "remove it, the pool opens at its first use",
    "reconnect_failed": "read 'open_failures' in connection.pool.stats()",
    # oracledb.create_pool()
    "min": "use 'min_size'",
    "max": "use 'max_size'",
    "increment": "use 'connecting' to bound the connects in flight",
    "getmode": "use 'timeout' and 'max_waiting'",
    "wait_timeout": "use 'timeout', in seconds instead of milliseconds",
    "max_lifetime_session": "use 'max_lifetime'",
    "max_sessions_per_shard": "remove it",
    "ping_interval": "use 'check'",
    "ping_timeout": "use 'check'",
    "session_callback": "connect to the connection_created signal, which is "
    "sent once for every new connection",
    "soda_metadata_cache": "remove it",
    "homogeneous": "remove it, all connections of a pool have the same user",
    "external": "set OPTIONS['externalauth']",
    "pool_alias": "use 'name'",
    "pool_class": "subclass the backend",
    "connectiontype": "subclass the backend",
    # SQLAlchemy's QueuePool, from third-party packages.
    "pool_size": "use 'max_size'",
    "max_overflow": "use 'max_size'",
    "recycle": "use 'max_lifetime'",
    "pre_ping": "use 'check'",
}

ORDERS = ("lifo", "fifo")
LEASES = ("request", "transaction")
RESETS = ("auto", "always", "never")


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolOptions:
    """
    What DATABASES[alias]["POOL"] may hold. All times are in seconds.

    min_size: connections kept open and ready, also while nobody uses them.
    max_size: connections that may exist, those being opened included.
    timeout: how long a borrower may take to get a connection; one deadline
        for waiting, connecting and checking. 0 serves an idle connection or
        fails at once.
    max_waiting: borrowers that may wait; one more fails at once. None for no
        limit.
    max_lifetime: age at which a connection is closed, None for no limit. Each
        connection gets a lifetime of its own, up to 25 % shorter, so that
        those opened together aren't closed together.
    max_idle: time after which a connection that nobody used is closed, down
        to min_size connections. None for no limit.
    reconnect_timeout: how long the pool goes on trying, on its own account,
        to bring back min_size connections while connecting fails.
    check: when an idle connection is tested by a round trip before it's
        served. False for never (its socket is always looked at), True for
        always, a number for when it has been idle that long, or a callable
        that takes the driver's connection and raises if it's bad.
    reset: when the session's state is brought back before a connection is
        lent again. "auto" if SQL was run that may have changed it, "always",
        "never", or a callable that takes the driver's connection, which is
        then called whenever one is given back.
    leak_warning: time after which a connection that is still held is logged
        as a warning, once, with the borrower and the stack that borrowed it.
        None for never. It costs each borrower a look at its stack.
    lease: for how long a borrower has a connection. "request" from its first
        statement to close(), which is called when a request ends, or
        "transaction" to the end of the statement or the transaction, unless
        it's pinned: see policy.py.
    report_pins: whether to log what pinned a connection beyond a statement,
        with the code that did. For "transaction" only.
    connecting: connects that may be in flight.
    order: which idle connection is served first, "lifo" for the one used
        last or "fifo" for the one idle longest.
    name: the pool's name in statistics and messages. The alias by default.
    concurrent_async: whether each asynchronous operation borrows a connection
        of its own, so that several of one request may run at a time.
    cancel_queries: whether the server is asked to cancel the query of an
        asynchronous operation that's canceled. Its connection is closed then.
    """

    min_size: int = 0
    max_size: int = 10
    timeout: float = 30.0
    max_waiting: int | None = None
    max_lifetime: float | None = 3600.0
    max_idle: float | None = 600.0
    reconnect_timeout: float = 300.0
    check: object = False
    reset: object = "auto"
    leak_warning: float | None = None
    lease: str = "request"
    report_pins: bool = False
    connecting: int = 2
    order: str = "lifo"
    name: str | None = None
    concurrent_async: bool = False
    cancel_queries: bool = False


# The round trip that CONN_HEALTH_CHECKS asks for is spared while a connection
# was in use less than this many seconds ago: the socket test finds what was
# closed by the server, and what a silent network loses takes longer.
HEALTH_CHECK_AFTER = 1.0

NAMES = tuple(field.name for field in fields(PoolOptions))


def is_number(value):
    try:
        return (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and not math.isnan(value)
        )
    except OverflowError:
        # An integer beyond all floats, which can't be added to a time.
        return False


def is_integer(value):
    return isinstance(value, int) and not isinstance(value, bool)


def is_count(value):
    return is_integer(value) and value >= 0


def is_positive_count(value):
    return is_integer(value) and value >= 1


def is_seconds(value):
    return is_number(value) and value >= 0


def is_positive_seconds(value):
    return is_number(value) and value > 0


def is_one_of(names, value):
    # Not everything can be compared with a string, an array for one.
    return isinstance(value, str) and value in names


# name -> (test, what is allowed in words)
RULES = {
    "min_size": (is_count, "an integer, 0 or more"),
    "max_size": (is_positive_count, "an integer, 1 or more"),
    "timeout": (is_seconds, "a number of seconds, 0 or more"),
    "max_waiting": (
        lambda value: value is None or is_count(value),
        "an integer, 0 or more, or None for no limit",
    ),
    "max_lifetime": (
        lambda value: value is None or is_positive_seconds(value),
        "a number of seconds above 0, or None for no limit",
    ),
    "max_idle": (
        lambda value: value is None or is_positive_seconds(value),
        "a number of seconds above 0, or None for no limit",
    ),
    "reconnect_timeout": (is_seconds, "a number of seconds, 0 or more"),
    "check": (
        lambda value: isinstance(value, bool) or is_seconds(value) or callable(value),
        "True, False, a number of seconds, 0 or more, or a callable",
    ),
    "reset": (
        lambda value: callable(value) or is_one_of(RESETS, value),
        "'auto', 'always', 'never' or a callable",
    ),
    "leak_warning": (
        lambda value: value is None or is_positive_seconds(value),
        "a number of seconds above 0, or None for never",
    ),
    "lease": (lambda value: is_one_of(LEASES, value), "'request' or 'transaction'"),
    "report_pins": (lambda value: isinstance(value, bool), "True or False"),
    "connecting": (is_positive_count, "an integer, 1 or more"),
    "order": (lambda value: is_one_of(ORDERS, value), "'lifo' or 'fifo'"),
    "name": (
        lambda value: value is None or (isinstance(value, str) and value != ""),
        "a string that isn't empty, or None for the alias",
    ),
    "concurrent_async": (lambda value: isinstance(value, bool), "True or False"),
    "cancel_queries": (lambda value: isinstance(value, bool), "True or False"),
}


def is_configured(settings_dict):
    """Return whether a database's settings ask for a pool."""
    for value in (
        settings_dict.get("POOL"),
        (settings_dict.get("OPTIONS") or {}).get("pool"),
    ):
        if value is not None and value is not False:
            return True
    return False


def find_problems(settings_dict):
    """
    Return what is wrong with a database's pool options as a list of
    (what, hint) pairs of strings. The list is empty if all is well or if
    there is no pool.
    """
    if not is_configured(settings_dict):
        return []
    top = settings_dict.get("POOL")
    nested = (settings_dict.get("OPTIONS") or {}).get("pool")
    if top is not None and nested is not None:
        return [
            (
                "Both POOL and OPTIONS['pool'] are set.",
                "They mean the same. Keep POOL and remove OPTIONS['pool'].",
            )
        ]
    spelling, value = ("POOL", top) if nested is None else ("OPTIONS['pool']", nested)
    if value is True:
        value = {}
    elif not isinstance(value, dict):
        return [
            (
                f"{spelling} is {value!r}.",
                f"Set {spelling} to True, False, or a dictionary of options.",
            )
        ]
    problems = []
    for name, setting in value.items():
        if name not in RULES:
            problems.append(describe_unknown(spelling, name, setting))
            continue
        test, allowed = RULES[name]
        if not test(setting):
            problems.append(
                (
                    f"{spelling}[{name!r}] is {setting!r}.",
                    f"Set it to {allowed}.",
                )
            )
    if not problems:
        problems.extend(find_contradictions(spelling, value))
    if value.get("concurrent_async") is True and not settings_dict.get(
        "AUTOCOMMIT", True
    ):
        problems.append(
            (
                f"{spelling}['concurrent_async'] is True and AUTOCOMMIT is False: "
                "each operation would have a transaction of its own that nobody "
                "commits.",
                "Remove 'concurrent_async', or AUTOCOMMIT.",
            )
        )
    if settings_dict.get("CONN_MAX_AGE", 0) != 0:
        problems.append(
            (
                "Pooling doesn't support persistent connections. CONN_MAX_AGE is "
                f"{settings_dict['CONN_MAX_AGE']!r}.",
                "Remove CONN_MAX_AGE or set it to 0. Use the pool's 'max_lifetime' "
                "to bound the age of connections.",
            )
        )
    return problems


def describe_unknown(spelling, name, setting):
    what = f"{spelling}[{name!r}] ({setting!r}) isn't an option of the pool."
    if name in DRIVER_POOL_OPTIONS:
        return (
            f"{spelling}[{name!r}] ({setting!r}) belongs to a driver's pool that "
            "Django doesn't use any more.",
            f"Instead of {name!r}, {DRIVER_POOL_OPTIONS[name]}.",
        )
    if matches := get_close_matches(str(name).lower(), NAMES, n=1):
        return what, f"Did you mean {matches[0]!r}?"
    return what, f"The options are {', '.join(NAMES)}."


def find_contradictions(spelling, value):
    max_size = value.get(
        "max_size", PoolOptions.__dataclass_fields__["max_size"].default
    )
    min_size = value.get("min_size", 0)
    if min_size > max_size:
        yield (
            f"{spelling}['min_size'] is {min_size}, above 'max_size', which is "
            f"{max_size}.",
            "Lower 'min_size' or raise 'max_size'.",
        )
    if value.get("timeout") == 0 and min_size == 0:
        yield (
            f"{spelling}['timeout'] is 0 and 'min_size' is 0: a borrower that may "
            "not wait can't wait for a connect either, so none would ever be "
            "opened.",
            "Raise 'timeout', or set 'min_size' for connections opened in advance.",
        )


def parse(settings_dict, alias):
    """
    Return the PoolOptions of a database, or None if it has no pool.

    Raise ImproperlyConfigured, naming the alias, the option, its value and
    the remedy, if an option is wrong.
    """
    if not is_configured(settings_dict):
        return None
    if problems := find_problems(settings_dict):
        raise ImproperlyConfigured(
            "\n".join(f"DATABASES[{alias!r}]: {what} {hint}" for what, hint in problems)
        )
    value = settings_dict.get("POOL")
    if value is None:
        value = settings_dict["OPTIONS"]["pool"]
    chosen = {} if value is True else dict(value)
    if "check" not in chosen and settings_dict.get("CONN_HEALTH_CHECKS"):
        chosen["check"] = HEALTH_CHECK_AFTER
    if chosen.get("name") is None:
        chosen["name"] = alias
    return PoolOptions(**chosen)
