"""Whole requests: a site behind a WSGI and an ASGI server, under load."""

import concurrent.futures
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from pooltools import ToolError

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
# What's compared by turns, with gunicorn; also two that are the same, to see
# what those differ by.
TURNS = {
    "PostgreSQL": (
        (django_cycle.OURS, django_cycle.PERSISTENT),
        (django_cycle.OURS, django_cycle.STOCK_POOL),
        (django_cycle.PERSISTENT, django_cycle.PERSISTENT),
    ),
    "MariaDB": ((django_cycle.OURS, django_cycle.PERSISTENT),),
    "SQLite": ((django_cycle.OURS, django_cycle.PERSISTENT),),
}


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
        # Of what's compared by turns.
        ("one rate", "requests/s of the first", 0),
        ("other rate", "of the second", 0),
        ("rate ratio", "ratio", 3),
        ("p99 ratio", "p99 ratio", 3),
        ("client ratio", "CPU ratio", 3),
    ]
    ratio = "rate"
    rounds = (2, 3)
    about = (
        "What a pool takes for a request is known from (d) and (l), and small "
        "against the CPU time of all of it: (m) has the share of the code, and with "
        "it the best that can be hoped for. A wait takes about 500 instructions "
        "more. The machine's pace changes within seconds, by more than what rivals "
        "differ by whose connections last. So those are also compared by turns: the "
        "sites of both are up, and loaded for one second each; the ratios are the "
        "medians of such pairs of seconds. Nor are two processes with the same code "
        "equally fast, by some percent, so new ones are started every few turns. "
        "What's left of all that can be seen where the same is compared with itself."
    )

    @staticmethod
    def scenario(database, interface, threads=THREADS):
        if interface == "asgi":
            return f"{database}, uvicorn"
        return f"{database}, gunicorn with {threads} threads"

    def cases(self, lab):
        for interface in lab.pick(("wsgi",), INTERFACES):
            for rival in lab.pick(QUICK, POSTGRESQL):
                yield self.case(lab, "PostgreSQL", interface, rival)
        for name in lab.pick(("PostgreSQL",), [*TURNS]):
            for pair in lab.pick(TURNS[name][:1], TURNS[name]):
                yield TurnsCase(*(self.case(lab, name, "wsgi", one) for one in pair))
        if lab.quick:
            return
        for interface in INTERFACES:
            for name in ("MariaDB", "SQLite"):
                for rival in RIVALS[name]:
                    yield self.case(lab, name, interface, rival)

    def case(self, lab, name, interface, rival):
        server = between = None
        if name == "PostgreSQL":
            environment, in_front, _ = django_cycle.RIVALS[rival]
            database = django_cycle.database(lab, rival)
            server = lab.server("postgresql")
            between = in_front if in_front != "postgresql" else None
        elif name == "MariaDB":
            environment, settings = MARIADB[rival]
            server = lab.server("mariadb")
            database = {**server.settings, **settings}
        else:
            environment, settings = SQLITE[rival]
            file = str(self.sqlite_file(lab))
            database = {"ENGINE": "django.db.backends.sqlite3", "NAME": file}
            database |= settings
        return RequestsCase(
            name, interface, rival, environment, database, server, between=between
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
        self.prepare(lab)
        opened = self.count_opened()
        with self.site(lab) as site:
            figures = self.load(lab, site, 3)
        if opened is not None:
            figures["opened"] = self.count_opened() - opened - self.own_connections
        return figures

    def prepare(self, lab):
        fill_once(lab, self.database)
        if self.server is not None:
            # Those that PgBouncer keeps from another case.
            self.server.kill_sessions()

    @contextmanager
    def site(self, lab):
        """Have a process serve the site in the block, warmed up."""
        with tempfile.TemporaryDirectory(prefix="django-pool-bench-") as directory:
            site = Site(lab.python(self.environment), self, Path(directory))
            try:
                site.start()
                load(site.url, WARM_UP, self.clients)
                yield site
            finally:
                site.stop()

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
            figures = load_and_clock(site.url, seconds, self.clients, watched)
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


class TurnsCase(Case):
    """Two rivals whose sites are up at the same time and loaded by turns."""

    # Seconds.
    turn = 1

    def __init__(self, one, other):
        scenario = f"{one.scenario}, by turns"
        super().__init__(scenario, f"{one.rival} / {other.rival}", None, None, None)
        self.pair = (one, other)

    def measure(self, lab):
        turns = []
        # Two processes with the same code may differ by some percent, for as
        # long as they live: by what lies where in their memory.
        for number in range(lab.pick(2, 4)):
            turns += self.take_turns(lab, 2, first=number % 2)
        one, other = zip(*turns)
        return {
            "one rate": median(figures["rate"] for figures in one),
            "other rate": median(figures["rate"] for figures in other),
            "failed": sum(figures["failed"] for figures in (*one, *other)),
            **{
                f"{metric} ratio": median(a[metric] / b[metric] for a, b in turns)
                for metric in ("rate", "p99", "client")
            },
        }

    def take_turns(self, lab, count, first=0):
        """
        Return pairs of the figures of the two.

        first: which of them is started first, and loaded first.
        """
        for case in self.pair:
            case.prepare(lab)
        turns = []
        order = [first, 1 - first]
        with ExitStack() as stack:
            sites = {n: stack.enter_context(self.pair[n].site(lab)) for n in order}
            for _ in range(count):
                figures = {n: self.load(sites[n], self.pair[n]) for n in order}
                turns.append((figures[0], figures[1]))
                # So that neither is always the first.
                order.reverse()
        return turns

    def load(self, site, case):
        watched = {"client": [site.process.pid]}
        figures = load_and_clock(site.url, self.turn, case.clients, watched)
        if not figures["requests"]:
            # There'd be no ratio. The other cases go on.
            raise ToolError(f"{site.url} answered nothing for {self.turn} s.")
        return figures


def load_and_clock(url, seconds, clients, watched):
    """
    Do what load() does, and note the CPU time of a request, in milliseconds.

    watched: metric -> the processes that it's about.
    """
    before = {name: total_cpu(pids) for name, pids in watched.items()}
    figures = load(url, seconds, clients)
    for name, pids in watched.items():
        if figures["requests"]:
            spent = total_cpu(pids) - before[name]
            figures[name] = spent / figures["requests"] * 1e3
    return figures


def total_cpu(pids):
    return sum(map(cpu_seconds, pids))
