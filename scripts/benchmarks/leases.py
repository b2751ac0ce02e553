"""What leases that last as long as a transaction save, and what they cost."""

from .cases import Workload
from .environments import PATCHED, STOCK
from .web import InProcessCase

THREADS = 64
FEW = 4
# Seconds that a request waits for something else than the database.
PAUSE = 0.02

TRANSACTION = f"lease transaction, pool of {FEW}"
REQUEST_MANY = f"lease request, pool of {THREADS}"
REQUEST_FEW = f"lease request, pool of {FEW}"
PGBOUNCER = f"stock, PgBouncer transaction with {FEW}"
PGBOUNCER_PERSISTENT = f"stock persistent, PgBouncer transaction with {FEW}"
LEASES = ("transaction", "request")

# Rival: its environment, its server, its settings.
RIVALS = {
    TRANSACTION: (PATCHED, None, {"POOL": {"max_size": FEW, "lease": "transaction"}}),
    REQUEST_MANY: (PATCHED, None, {"POOL": {"max_size": THREADS}}),
    REQUEST_FEW: (PATCHED, None, {"POOL": {"max_size": FEW}}),
    PGBOUNCER: (STOCK, f"pgbouncer-transaction-{FEW}", {}),
    PGBOUNCER_PERSISTENT: (
        STOCK,
        f"pgbouncer-transaction-{FEW}",
        {"CONN_MAX_AGE": None},
    ),
}
KINDS = ("get()", "values_list()")
# Queries under one lease, before it's the other's turn: short against the time
# for which another process gets in the way.
BATCH = 50


class Leases(Workload):
    letter = "j"
    title = (
        f"{THREADS} threads: a query, {PAUSE * 1e3:.0f} ms of other waiting, a query"
    )
    about = (
        "Under the lease of a transaction, nobody holds a connection while they "
        "wait for something else. The other rivals hold theirs until the request "
        "ends, or leave it to PgBouncer, to which each request opens a connection, "
        "as is Django's default, or each thread keeps one. "
        "What such a lease costs a query is measured within one process, in batches "
        f"of {BATCH} under this lease and the other by turns. Each thread begins a "
        "request when its last one ends, so that their mean latency is the number "
        "of threads divided by the rate (Little's law). At the same rate, a lower "
        "median means that others wait for longer: look at p99 as well. All of them "
        "are at the limit of one interpreter, so that it's the code for each "
        "request that counts, see (m), and the switches of threads."
    )
    columns = [
        ("rate", "requests/s", 0),
        ("p50", "p50 ms", 1),
        ("p99", "p99 ms", 1),
        ("failed", "failed", 0),
        ("peak", "at once", 0),
        ("client", "CPU ms of Django", 2),
        ("switches", "switches", 1),
        ("wall", "wall us", 1),
        ("wall other", "under request", 1),
        ("wall ratio", "wall ratio", 3),
        ("cpu", "CPU us", 1),
        ("cpu other", "under request", 1),
        ("cpu ratio", "CPU ratio", 3),
    ]
    ratio = "rate"
    rounds = (2, 5)
    one_query = "an ORM query under the lease of a transaction, one thread"

    def cases(self, lab):
        for name in lab.pick(("postgresql",), ("postgresql", "mariadb")):
            for rival, (_, between, _) in RIVALS.items():
                if between is None or name == "postgresql":
                    yield self.serving(lab, name, rival)
        for kind in KINDS:
            yield self.comparing(lab, kind)

    def serving(self, lab, name, rival):
        environment, between, settings = RIVALS[rival]
        server = lab.server(name)
        arguments = {
            "database": {**lab.server(between or name).settings, **settings},
            "server": server.settings,
            "threads": THREADS,
            "pause": PAUSE,
            "requests": lab.pick(1500, 10_000),
            "seconds": lab.pick(2.0, 4.0),
        }
        scenario = self.scenario(name)
        return InProcessCase(
            scenario, rival, environment, "leases.serve", arguments, server
        )

    def comparing(self, lab, kind):
        server = lab.server("postgresql")
        arguments = {
            "database": {**server.settings, "POOL": {"max_size": FEW}},
            "leases": LEASES,
            "kind": kind,
            "batch": BATCH,
            "seconds": lab.pick(2.0, 5.0),
        }
        return InProcessCase(
            self.one_query, kind, PATCHED, "leases.one_query", arguments, server
        )

    @staticmethod
    def scenario(server):
        return {"postgresql": "PostgreSQL", "mariadb": "MariaDB"}[server]
