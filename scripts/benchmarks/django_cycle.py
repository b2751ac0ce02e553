"""Workloads through Django on PostgreSQL: what a borrowing costs there."""

from . import bare
from .cases import Case, Workload
from .environments import PATCHED, STOCK

OURS = "django pool"
OURS_CHECKED = "django pool, health checks"
PERSISTENT = "stock persistent"
STOCK_POOL = "stock pool"
STOCK_POOL_CHECKED = "stock pool, health checks"
THIRD_PARTY = "django-db-connection-pool"
CHECKED = {"CONN_HEALTH_CHECKS": True}

# How many connections any of the pools may have.
MAX_SIZE = 10

# Rival: its environment, its server, its settings.
RIVALS = {
    OURS: (PATCHED, "postgresql", {"POOL": {"max_size": MAX_SIZE}}),
    OURS_CHECKED: (
        PATCHED,
        "postgresql",
        {"POOL": {"max_size": MAX_SIZE}, **CHECKED},
    ),
    PERSISTENT: (STOCK, "postgresql", {"CONN_MAX_AGE": None}),
    "stock persistent, health checks": (
        STOCK,
        "postgresql",
        {"CONN_MAX_AGE": None, **CHECKED},
    ),
    STOCK_POOL: (STOCK, "postgresql", {"OPTIONS": {"pool": {"max_size": MAX_SIZE}}}),
    STOCK_POOL_CHECKED: (
        STOCK,
        "postgresql",
        {"OPTIONS": {"pool": {"max_size": MAX_SIZE}}, **CHECKED},
    ),
    THIRD_PARTY: (
        STOCK,
        "postgresql",
        {
            "ENGINE": "dj_db_conn_pool.backends.postgresql",
            "POOL_OPTIONS": {"POOL_SIZE": MAX_SIZE, "MAX_OVERFLOW": 0},
        },
    ),
    "stock without a pool": (STOCK, "postgresql", {}),
    "stock, PgBouncer session": (STOCK, "pgbouncer-session", {}),
    "stock, PgBouncer transaction": (STOCK, "pgbouncer-transaction", {}),
    "patched persistent, no pool": (PATCHED, "postgresql", {"CONN_MAX_AGE": None}),
}

# Those that a quick run measures where all would take too long.
BRIEF = (OURS, PERSISTENT, STOCK_POOL, THIRD_PARTY)

THROUGH = ("wrapper", "proxy")
ENDS = ("close()", "close_old_connections()", "close_if_unusable_or_obsolete()")
SIGNALS = "request_started, ensure_connection(), request_finished"
QUERY = "request_started, SELECT 1, request_finished"


def database(lab, rival):
    """Return a rival's DATABASES["default"]."""
    _, server, settings = RIVALS[rival]
    return {**lab.server(server).settings, **settings}


def scenario(end, through):
    return f"ensure_connection() + {end}, {through}"


class Cycle(Workload):
    """
    A use of the connection, and what ends it: for a persistent connection,
    that isn't close(), which would close it.
    """

    letter = "d"
    title = "a use of the connection through Django, PostgreSQL on its socket (us)"
    columns = [("wall", "wall us", 2), ("cpu", "CPU us", 2)]
    ratio = "wall"
    about = (
        "What the pool does in that time is in (l). A persistent connection isn't "
        "looked at, neither its socket nor what its last user has left behind: "
        "that's about a third of the pool's time. Stock's pool takes its own time, "
        "that of psycopg_pool in (a), and does neither unless told to. With health "
        "checks, it asks the server."
    )

    def cases(self, lab):
        for end in ENDS:
            for through in THROUGH:
                for rival in RIVALS:
                    if self.is_worth(lab, rival, end, through):
                        name = scenario(end, through)
                        yield self.case(lab, name, rival, end=end, through=through)
        for name in lab.pick((QUERY,), (SIGNALS, QUERY)):
            for rival in lab.pick(BRIEF, RIVALS):
                yield self.case(lab, name, rival, end="signals", query=name == QUERY)

    def is_worth(self, lab, rival, end, through):
        persistent = "persistent" in rival
        if end == "close()":
            # That would close a persistent connection. And where connecting
            # takes milliseconds, the way to it is all the same.
            connects = rival.startswith(("stock without", "stock, PgBouncer"))
            return not persistent and (through == "wrapper" or not connects)
        if lab.quick:
            wanted = end == "close_old_connections()"
            return wanted and (persistent or rival == OURS)
        return not rival.startswith(("stock without", "stock, PgBouncer"))

    def case(self, lab, name, rival, **arguments):
        return Case(
            name,
            rival,
            RIVALS[rival][0],
            "cycle.cycle",
            {
                "database": database(lab, rival),
                "seconds": lab.pick(0.3, 1.2),
                **arguments,
            },
        )


class DirtyReturn(Workload):
    letter = "f"
    title = "a return after a use that left something behind, PostgreSQL"
    columns = [
        ("wall", "wall us", 1),
        ("cpu", "CPU us", 1),
        ("on return", "round trips on return", 0),
        ("in background", "afterwards", 0),
        ("on borrowing", "on next borrowing", 0),
        ("connects", "connects", 0),
        ("leaks", "still there", 0),
    ]
    ratio = "wall"
    # Most of it are counts.
    rounds = (1, 3)
    kinds = (
        "nothing",
        "a transaction",
        "a setting",
        "a temporary table",
        "an advisory lock",
    )
    rivals = (OURS, STOCK_POOL, THIRD_PARTY)
    with_spare = f"{OURS}, another idle"

    @staticmethod
    def scenario(kind):
        return f"leaves {kind}"

    def cases(self, lab):
        for kind in self.kinds:
            for rival in self.rivals:
                # Two measurements: counting takes its time.
                yield self.case(lab, kind, rival, "trips")
                yield self.case(lab, kind, rival, "dirty", seconds=lab.pick(0.2, 1.0))
            yield self.case(lab, kind, OURS, "trips", spare=True, warm=2)

    def case(self, lab, kind, rival, function, spare=False, **arguments):
        settings = database(lab, rival)
        # With one only, the next borrower gets what the last one left.
        limit(settings, 2 if spare else 1)
        return Case(
            self.scenario(kind),
            self.with_spare if spare else rival,
            RIVALS[rival][0],
            f"dirty.{function}",
            {"database": settings, "kind": kind, **arguments},
        )


class Recovery(Workload):
    letter = "g"
    title = "serving again after all 8 idle connections were killed, PostgreSQL"
    columns = [
        ("killed", "killed", 0),
        ("failed", "failed requests", 0),
        ("first", "first served ms", 1),
        ("all", "all served ms", 1),
        ("connect", "one connect ms", 1),
    ]
    ratio = "all"
    scenario = "8 threads"

    def cases(self, lab):
        for rival, (environment, server, _) in RIVALS.items():
            if server != "postgresql" or rival == "stock without a pool":
                continue
            arguments = {"database": database(lab, rival), "threads": 8}
            yield Case(self.scenario, rival, environment, "recovery.recover", arguments)


class Memory(Workload):
    letter = "h"
    title = "memory of a pool and of its idle connections (bytes)"
    columns = [
        ("pool", "empty pool", 0),
        ("threads", "threads", 0),
        ("per connection", "per connection", 0),
        ("resident", "resident per connection", 0),
    ]
    rounds = (1, 3)
    dummies = "dummy connections, what Python allocated"
    real = "PostgreSQL connections, resident memory of the process"
    count = 50

    def cases(self, lab):
        for rival in (bare.OURS, bare.PSYCOPG, bare.LIFO, "peewee", "dbutils"):
            yield bare.bare_case(
                self.dummies, rival, "memory.dummies", count=self.count
            )
        for rival in (OURS, STOCK_POOL, THIRD_PARTY):
            settings = database(lab, rival)
            limit(settings, self.count)
            arguments = {"database": settings, "count": self.count}
            yield Case(self.real, rival, RIVALS[rival][0], "memory.real", arguments)


def limit(settings, size):
    """Let a pool in settings have so many connections, and keep them."""
    if "POOL" in settings:
        settings["POOL"] = {"max_size": size}
    elif "POOL_OPTIONS" in settings:
        settings["POOL_OPTIONS"] = {"POOL_SIZE": size, "MAX_OVERFLOW": 0}
    else:
        settings["OPTIONS"] = {"pool": {"min_size": 1, "max_size": size}}
