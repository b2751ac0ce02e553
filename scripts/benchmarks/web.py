"""Whole requests: a site behind a WSGI and an ASGI server, under load."""

import concurrent.futures
import tempfile
from pathlib import Path

from . import bare, django_cycle
from .cases import Case, Workload, run_measure
from .cpu import cpu_seconds
from .environments import PATCHED, STOCK
from .serving import Site, fill_once, load

# More threads than connections in a pool (django_cycle.MAX_SIZE), as many
# clients as threads.
THREADS = 16
CLIENTS = 16
WARM_UP = 1

# Of the rivals of django_cycle, those that make sense for whole requests.
QUICK = (
    django_cycle.OURS,
    django_cycle.PERSISTENT,
    django_cycle.STOCK_POOL,
    django_cycle.THIRD_PARTY,
    "stock without a pool",
)
POSTGRESQL = (
    *QUICK,
    django_cycle.OURS_CHECKED,
    django_cycle.STOCK_POOL_CHECKED,
    "stock, PgBouncer session",
    "stock, PgBouncer transaction",
)
POOL = {"POOL": {"max_size": django_cycle.MAX_SIZE}}
SQLITE = {
    django_cycle.OURS: (PATCHED, POOL),
    django_cycle.PERSISTENT: (STOCK, {"CONN_MAX_AGE": None}),
    "stock without a pool": (STOCK, {}),
}
MARIADB = {
    **SQLITE,
    django_cycle.THIRD_PARTY: (
        STOCK,
        {
            "ENGINE": "dj_db_conn_pool.backends.mysql",
            "POOL_OPTIONS": {"POOL_SIZE": django_cycle.MAX_SIZE, "MAX_OVERFLOW": 0},
        },
    ),
}
RIVALS = {"PostgreSQL": POSTGRESQL, "MariaDB": MARIADB, "SQLite": SQLITE}
INTERFACES = ("wsgi", "asgi")
# The same once more, to see what differs between two that are the same.
AGAIN = f"{django_cycle.PERSISTENT}, again"


class Requests(Workload):
    letter = "e"
    title = f"whole requests, three queries each, {CLIENTS} clients, one process"
    columns = [
        ("rate", "requests/s", 0),
        ("p50", "p50 ms", 1),
        ("p99", "p99 ms", 1),
        ("failed", "failed", 0),
        ("opened", "connections opened", 0),
        ("peak", "at once", 0),
        ("client", "CPU ms of Django", 2),
        ("server", "CPU ms of the database", 2),
    ]
    ratio = "rate"
    # Short ones, for the machine's pace changes within seconds.
    rounds = (2, 5)
    about = (
        "What a pool takes for a request is known from (d) and (l), and small "
        "against the CPU time of all of it: (m) has the share of the code, and with "
        "it the best that can be hoped for. A wait takes about 500 instructions "
        "more. Where connections last, rivals whose CPU times are alike differ by "
        "how their threads met with each other and with what else the machine did: "
        "look at the spread of the ratios, and at the one that's there again, which "
        "is the very same thing measured a second time."
    )

    @staticmethod
    def scenario(database, interface, threads=THREADS):
        if interface == "asgi":
            return f"{database}, uvicorn"
        return f"{database}, gunicorn with {threads} threads"

    def cases(self, lab):
        for interface in lab.pick(("wsgi",), INTERFACES):
            for rival in lab.pick(QUICK, POSTGRESQL):
                environment, server, _ = django_cycle.RIVALS[rival]
                yield RequestsCase(
                    "PostgreSQL",
                    interface,
                    rival,
                    environment,
                    django_cycle.database(lab, rival),
                    lab.server("postgresql"),
                    between=server if server != "postgresql" else None,
                )
        if lab.quick:
            return
        mariadb = lab.server("mariadb")
        for name, server in (
            ("PostgreSQL", lab.server("postgresql")),
            ("MariaDB", mariadb),
        ):
            database = {**server.settings, "CONN_MAX_AGE": None}
            yield RequestsCase(name, "wsgi", AGAIN, STOCK, database, server)
        for interface in INTERFACES:
            for rival, (environment, settings) in MARIADB.items():
                database = {**mariadb.settings, **settings}
                yield RequestsCase(
                    "MariaDB", interface, rival, environment, database, mariadb
                )
            for rival, (environment, settings) in SQLITE.items():
                database = {
                    "ENGINE": "django.db.backends.sqlite3",
                    "NAME": str(self.sqlite_file(lab)),
                    **settings,
                }
                yield RequestsCase(
                    "SQLite", interface, rival, environment, database, None
                )

    def sqlite_file(self, lab):
        if not hasattr(self, "_directory"):
            temporary = tempfile.TemporaryDirectory(prefix="django-pool-bench-")
            self._directory = lab.stack.enter_context(temporary)
        return Path(self._directory) / "bench.sqlite3"


class Scaling(bare.Scaling):
    """And (e) by the number of threads, in a full run."""

    title = "scaling: (a) with 1 to 200 connections, (b) and (e) with 1 to 64 threads"
    columns = [*bare.Scaling.columns, *Requests.columns]
    extreme = bare.Contended.extreme
    rounds = (1, 3)
    gunicorn_threads = (1, 4, 16, 64)

    def cases(self, lab):
        yield from super().cases(lab)
        for threads in lab.pick((), self.gunicorn_threads):
            for rival in (django_cycle.OURS, django_cycle.PERSISTENT):
                yield RequestsCase(
                    "PostgreSQL",
                    "wsgi",
                    rival,
                    django_cycle.RIVALS[rival][0],
                    django_cycle.database(lab, rival),
                    lab.server("postgresql"),
                    threads,
                )


class InProcessCase(Case):
    """The site in the process that measures, without a web server."""

    def __init__(self, scenario, rival, environment, function, arguments, server):
        super().__init__(scenario, rival, environment, function, arguments)
        self.server = server

    def measure(self, lab):
        fill_once(lab, self.server.settings)
        # Those that PgBouncer keeps from another case.
        self.server.kill_sessions()
        return super().measure(lab)


class RequestsCase(Case):
    """A site, a server, and a load from another process."""

    def __init__(
        self,
        name,
        interface,
        rival,
        environment,
        database,
        server,
        threads=THREADS,
        between=None,
        page=None,
        scenario=None,
    ):
        scenario = scenario or Requests.scenario(name, interface, threads)
        super().__init__(scenario, rival, environment, None, None)
        self.threads = threads
        # "sync" or "async", by default what suits the interface.
        self.page = page or ("sync" if interface == "wsgi" else "async")
        # The name of the proxy in front of the server, if there's one.
        self.between = between
        self.interface = interface
        self.database = database
        self.server = server

    @property
    def own_connections(self):
        """Those of count_opened() and of the watcher, where they count."""
        return 2 if self.server.name == "mariadb" else 0

    @property
    def clients(self):
        return max(CLIENTS, self.threads)

    def measure(self, lab):
        python = lab.python(self.environment)
        fill_once(lab, self.database)
        if self.server is not None:
            # Those that PgBouncer keeps from another case.
            self.server.kill_sessions()
        opened = self.count_opened()
        with tempfile.TemporaryDirectory(prefix="django-pool-bench-") as directory:
            site = Site(python, self, Path(directory))
            try:
                site.start()
                load(site.url, WARM_UP, self.clients)
                figures = self.load(lab, site, lab.pick(3, 4))
            finally:
                site.stop()
        if opened is not None:
            figures["opened"] = self.count_opened() - opened - self.own_connections
        return figures

    def load(self, lab, site, seconds):
        """Load the site. Watch it, and the database's server, meanwhile."""
        watched = {"client": [site.process.pid]}
        if self.server is not None:
            between = lab.servers.get(self.between)
            servers = [self.server, between] if between else [self.server]
            watched["server"] = [server.process.pid for server in servers]
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            watcher = None
            if self.server is not None:
                task = {
                    "module": "watch",
                    "function": "watch",
                    "arguments": {"database": self.server.settings, "seconds": seconds},
                }
                watcher = executor.submit(
                    run_measure, lab.python(STOCK), task, seconds + 60, "watch"
                )
            before = {name: total_cpu(pids) for name, pids in watched.items()}
            figures = load(site.url, seconds, self.clients)
            for name, pids in watched.items():
                if figures["requests"]:
                    spent = total_cpu(pids) - before[name]
                    figures[name] = spent / figures["requests"] * 1e3
            if watcher is not None:
                figures.update(watcher.result())
        return figures

    def count_opened(self):
        """Return how many connections the server has had in its life."""
        if self.server is None:
            return None
        if self.server.name == "mariadb":
            query = "SHOW GLOBAL STATUS LIKE 'Connections'"
            return int(self.server.sql(query)[0].split()[-1])
        query = (
            "SELECT sessions FROM pg_stat_database "
            f"WHERE datname = '{self.server.settings['NAME']}'"
        )
        return int(self.server.sql(query)[0])


def total_cpu(pids):
    return sum(map(cpu_seconds, pids))
