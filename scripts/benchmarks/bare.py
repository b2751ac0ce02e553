"""Workloads on the pools alone: one thread, many threads, a spike."""

from .cases import Case, Workload
from .environments import PATCHED, STOCK

OURS = "django-pool"
READ = "django-pool-read"
FLOOR = "floor"
# No pool at all: how fair the interpreter is to its threads.
NOTHING = "nothing"
PSYCOPG = "psycopg_pool"
FIFO = "sqlalchemy-fifo"
LIFO = "sqlalchemy-lifo"

# mysql.connector's pool never waits and never grows, so it's in (a) only. The
# floor doesn't wait either, and a LifoQueue doesn't grow.
ALL = [
    OURS,
    READ,
    FLOOR,
    "floor-with",
    "queue.LifoQueue",
    PSYCOPG,
    FIFO,
    LIFO,
    "peewee",
    "dbutils",
    "mysql.connector",
]
WAITING = [OURS, PSYCOPG, FIFO, LIFO, "peewee", "dbutils", "queue.LifoQueue"]
GROWING = [OURS, PSYCOPG, FIFO, LIFO, "peewee", "dbutils"]

ONE_THREAD = "one thread"
ZERO_HOLD = "32 threads on 8, no hold"
SHORT_HOLD = "32 threads on 8, 200 us hold"
THINKING = "32 threads on 8, 200 us hold, 1 ms think"
WARM = "50 clients on 5 warm of 10"
COLD = "50 clients on 0 warm of 10"


def bare_case(scenario, rival, function, **arguments):
    environment = PATCHED if rival.startswith(OURS) else STOCK
    return Case(scenario, rival, environment, function, {"rival": rival, **arguments})


class OneThread(Workload):
    letter = "a"
    title = "borrow and give back, one thread, dummy connections (us)"
    columns = [("cpu", "CPU us", 3), ("wall", "wall us", 3)]
    ratio = "cpu"

    def cases(self, lab):
        seconds = lab.pick(0.4, 1.5)
        return [
            bare_case(ONE_THREAD, rival, "bare.cycle", size=8, seconds=seconds)
            for rival in ALL
        ]


class Contended(Workload):
    letter = "b"
    title = "more threads than connections, dummy connections"
    columns = [
        ("throughput", "served/s", 0),
        ("p50", "p50 ms", 2),
        ("p99", "p99 ms", 2),
        ("max", "max ms", 1),
        ("paused", "pause in it", 1),
        ("pause", "longest pause", 1),
        ("jain", "Jain", 2),
        ("least jain", "least Jain", 2),
        ("starved", "starved", 0),
        ("cpu", "CPU us", 2),
        ("switches", "switches", 1),
    ]
    ratio = "throughput"
    about = (
        "Switches are those of threads, by the operating system, in the time of a "
        "use. Where a connection is held for a moment, a pool that serves in order "
        "wakes a thread for each use. That thread sleeps again until it gets the "
        "interpreter's lock, as the one does that gave the connection back: this is "
        "where the time goes. Those that take few switches serve some threads and "
        "let the others starve. A pause is a time in which nobody was served at all, "
        "while there were threads that wanted to be. Threads that share nothing but "
        "the interpreter have such pauses, too, see 'nothing': the machine did "
        "something else. Who waits then, waits for longer by that. Of the least "
        "Jain's index, the maximum, the pauses and those that starve, it's the worst "
        "round that is shown; of everything else, the median."
    )
    # Of all rounds, instead of their median.
    extreme = {
        "least jain": min,
        "max": max,
        "paused": max,
        "pause": max,
        "starved": max,
    }

    def cases(self, lab):
        scenarios = {
            ZERO_HOLD: {"hold": 0, "think": 0},
            SHORT_HOLD: {"hold": 200e-6, "think": 0},
        }
        if not lab.quick:
            scenarios[THINKING] = {"hold": 200e-6, "think": 1e-3}
        brief = {"seconds": lab.pick(0.5, 1.5), "repeats": 3}
        # Where nobody sleeps, the interpreter has each thread run for 5 ms
        # in its turn: in a short time, that isn't fair by itself.
        long = {"seconds": lab.pick(2.0, 4.0), "repeats": lab.pick(1, 2)}
        for scenario, times in scenarios.items():
            is_long = scenario == ZERO_HOLD
            for rival in [*WAITING, NOTHING]:
                yield bare_case(
                    scenario,
                    rival,
                    "bare.contend",
                    size=8,
                    threads=32,
                    **times,
                    **(long if is_long else brief),
                )


class Spike(Workload):
    letter = "c"
    title = "50 clients at once, at most 10 connections, 150 ms connect, 2 ms query"
    rounds = (2, 3)
    columns = [
        ("last", "all served ms", 0),
        ("median", "half ms", 0),
        ("opened", "opened by then", 0),
        ("started", "in all", 0),
    ]
    ratio = "last"

    def cases(self, lab):
        common = {"size": 10, "clients": 50, "connect": 0.15, "query": 0.002}
        return [
            bare_case(scenario, rival, "bare.spike", warm=warm, **common)
            for scenario, warm in ((WARM, 5), (COLD, 0))
            for rival in GROWING
        ]


class Scaling(Workload):
    """(a) by the number of connections, (b) by that and by that of threads."""

    letter = "i"
    title = "scaling: (a) with 1 to 200 connections, (b) with 1 to 64 threads"
    columns = [
        ("cpu", "CPU us", 3),
        ("throughput", "served/s", 0),
        ("jain", "Jain", 2),
        ("least jain", "least Jain", 2),
    ]
    ratio = None
    about = (
        "Where there are more threads than connections and nobody ever pauses, a "
        "thread that was interrupted by the interpreter holds on to its connection "
        "until it's its turn again. With eight threads on eight connections that "
        "hinders nobody, with 64 it's a part of each turn. It takes further turns "
        "for all of them to be served alike: compare the index of fairness."
    )

    connections = (1, 10, 50, 200)
    threads = (1, 2, 4, 8, 16, 32, 64)
    rivals = (OURS, PSYCOPG, LIFO)

    @staticmethod
    def by_connections(count):
        return f"one thread, {count} connections"

    @staticmethod
    def by_threads(count):
        return f"{count} threads on 8, no hold"

    @staticmethod
    def by_connections_contended(count):
        return f"64 threads on {count}, no hold"

    def cases(self, lab):
        contended = {"hold": 0, "think": 0, "seconds": lab.pick(0.3, 0.7), "repeats": 3}
        for count in lab.pick((1, 200), self.connections):
            for rival in self.rivals:
                yield bare_case(
                    self.by_connections(count),
                    rival,
                    "bare.cycle",
                    size=count,
                    seconds=lab.pick(0.3, 1.0),
                )
        scenarios = [
            (self.by_threads(count), {"threads": count, "size": 8})
            for count in lab.pick((1, 8, 64), self.threads)
        ]
        if not lab.quick:
            # With 8, it's one of those above.
            scenarios += [
                (self.by_connections_contended(count), {"threads": 64, "size": count})
                for count in self.connections
            ]
        # A rival's own figures are compared: they follow each other.
        for rival in self.rivals:
            for scenario, sizes in scenarios:
                yield bare_case(scenario, rival, "bare.contend", **sizes, **contended)
