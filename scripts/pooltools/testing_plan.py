"""What scripts/test runs: the labels, and the variants to run them in."""

import collections

# Those of Django's tests that touch connections, transactions, threads,
# signals, handlers and the test runner, or that use a database hard. The
# pool's own are part of them, in backends.pool.
LABELS = [
    "asgi",
    "async",
    "backends",
    "basic",
    "check_framework",
    "db_utils",
    "dbshell",
    "get_or_create",
    "handlers",
    "inspectdb",
    "introspection",
    "migrate_signals",
    "migrations",
    "multiple_database",
    "queries",
    "raw_query",
    "schema",
    "select_for_update",
    "servers",
    "signals",
    "test_runner",
    "test_utils",
    "transaction_hooks",
    "transactions",
    "wsgi",
]
EXTRA_LABELS = {"postgresql": ["postgres_tests"]}

# Enough to see that another driver gets along with the pool.
DRIVER_LABELS = ["backends", "basic", "handlers", "transactions"]

# PostgreSQL behind PgBouncer in transaction mode; the pool, too, lends for a
# transaction there. Its own tests are about sessions, which don't get through.
PGBOUNCER = "pgbouncer"
PGBOUNCER_LABELS = [
    "backends.base",
    "backends.postgresql",
    "backends.test_ddl_references",
    "backends.test_utils",
    "backends.tests",
    "basic",
    "queries",
    "transactions",
]

# The first of each is the one that everything is tested with.
DRIVERS = {
    "sqlite": ["sqlite3"],
    "postgresql": ["psycopg", "psycopg2", "psycopg-python"],
    "mariadb": ["mysqlclient", "pymysql"],
    PGBOUNCER: ["psycopg"],
}
DATABASES = list(DRIVERS)

# A connection that isn't given back makes a test fail soon, not hang.
POOL = {"max_size": 10, "timeout": 10}

# Seconds that a run may take: several times what it takes on two cores.
TIME_LIMIT = 600
TIME_LIMIT_FULL = 5400


LEASES = ["request", "transaction"]


class Variant(
    collections.namedtuple("Variant", "database driver pool lease", defaults=LEASES[:1])
):
    """
    A database, the driver for it, whether the pool is on, and what it lends
    connections for.
    """

    def __str__(self):
        driver = f" {self.driver}" if len(DRIVERS[self.database]) > 1 else ""
        pool = "off"
        if self.pool:
            pool = "on" if self.lease == LEASES[0] else f"on, lease {self.lease}"
        return f"{self.database}{driver}, pool {pool}"

    @property
    def pool_options(self):
        """The value of POOL."""
        return POOL if self.lease == LEASES[0] else {**POOL, "lease": self.lease}

    @property
    def is_primary(self):
        return self.driver == DRIVERS[self.database][0]

    @property
    def options(self):
        """More options of runtests.py."""
        # PgBouncer keeps connections to a database, which so can't be cloned
        # or dropped.
        return ["--keepdb", "--parallel=1"] if self.database == PGBOUNCER else []

    def labels(self, full=False):
        """Return the labels to run by default, none where that's all."""
        if self.database == PGBOUNCER:
            return PGBOUNCER_LABELS
        if full:
            return []
        if not self.is_primary:
            return DRIVER_LABELS
        return [*LABELS, *EXTRA_LABELS.get(self.database, [])]


def variants(databases=(), drivers=(), pools=(), lease=LEASES[0]):
    """
    Return the variants to run; an empty argument doesn't restrict. By default
    the second and further drivers are only run with the pool, and PgBouncer
    always is, with leases for transactions.
    """
    chosen = []
    for database, names in DRIVERS.items():
        for driver in names:
            if databases and database not in databases:
                continue
            if drivers and driver not in drivers:
                continue
            if database == PGBOUNCER:
                if True in (pools or (True,)):
                    chosen.append(Variant(database, driver, True, LEASES[1]))
                continue
            is_first = driver == names[0]
            for pool in pools or ((True, False) if is_first else (True,)):
                chosen.append(Variant(database, driver, pool, lease))
    return chosen
