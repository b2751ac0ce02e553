"""Asynchronous requests on PostgreSQL, sync views behind an ASGI server."""

from . import django_cycle
from .cases import Workload
from .environments import PATCHED, STOCK
from .web import CLIENTS, InProcessCase, RequestsCase

CONCURRENT = f"{django_cycle.OURS}, concurrent_async"
OURS = django_cycle.OURS
STOCK_POOL = django_cycle.STOCK_POOL
NO_POOL = "stock without a pool"

QUICK = (CONCURRENT, STOCK_POOL)
ALL = (CONCURRENT, OURS, STOCK_POOL, NO_POOL)
# That option is of no use to a sync view.
SYNC_QUICK = (OURS, NO_POOL)
SYNC = (OURS, STOCK_POOL, NO_POOL)

# Milliseconds.
NAP = 300
PAUSE = 100

NAPS = f"two queries of {NAP} ms at once in a request"
SHORT = f"50 clients, three queries each, {django_cycle.MAX_SIZE} connections"
PAUSES = f"100 clients, {PAUSE} ms between two queries, 4 connections"
SERIAL = "an aget() after the other in a request"
SYNC_VIEW = f"a sync view with three queries, uvicorn, {CLIENTS} clients"


def settings(rival, size):
    """Return (environment, settings) of a rival with so many connections."""
    return {
        CONCURRENT: (PATCHED, {"POOL": {"max_size": size, "concurrent_async": True}}),
        OURS: (PATCHED, {"POOL": {"max_size": size}}),
        STOCK_POOL: (STOCK, {"OPTIONS": {"pool": {"max_size": size}}}),
        NO_POOL: (STOCK, {}),
    }[rival]


class Asynchronous(Workload):
    letter = "k"
    title = "asyncio: within a request, many requests, a sync view"
    about = (
        "All but the sync view is served by Django's ASGI application in the process "
        "that measures, without a web server. Switches are those of threads, by the "
        "operating system, in the time of a request. With 50 clients, most of the "
        "time goes there: a query begins and ends in the thread of the event loop, "
        "and in between that competes with the threads that query for the "
        "interpreter's lock, with either pool."
    )
    columns = [
        ("rate", "per second", 1),
        ("p50", "p50 ms", 1),
        ("p99", "p99 ms", 1),
        ("failed", "failed", 0),
        ("opened", "connections opened", 0),
        ("peak", "at once", 0),
        ("client", "CPU ms of Django", 2),
        ("switches", "switches", 1),
        ("server", "CPU ms of the database", 2),
        ("wall", "wall us", 0),
        ("cpu", "CPU us", 0),
    ]
    ratio = "rate"
    rounds = (2, 4)

    def cases(self, lab):
        size = django_cycle.MAX_SIZE
        server = lab.server("postgresql")
        for rival in lab.pick(QUICK, ALL):
            yield self.case(
                lab,
                *(NAPS, rival, size, "one_by_one"),
                path=f"/async/naps/{NAP}/",
                times=lab.pick(3, 6),
            )
        for rival in lab.pick(QUICK, ALL):
            yield self.case(
                lab,
                *(SHORT, rival, size, "together"),
                path="/async/",
                server=server.settings,
                clients=50,
                each=lab.pick(20, 40),
            )
        for rival in lab.pick(QUICK, ALL):
            yield self.case(
                lab,
                *(PAUSES, rival, 4, "together"),
                path=f"/async/pause/{PAUSE}/",
                server=server.settings,
                clients=100,
                each=lab.pick(1, 3),
            )
        for rival in lab.pick(QUICK, ALL):
            yield self.case(
                lab,
                *(SERIAL, rival, size, "serial"),
                path="/async/serial/{}/",
                seconds=lab.pick(1.5, 4.0),
            )
        for rival in lab.pick(SYNC_QUICK, SYNC):
            environment, options = settings(rival, size)
            yield RequestsCase(
                "PostgreSQL",
                "asgi",
                rival,
                environment,
                {**server.settings, **options},
                server,
                page="sync",
                scenario=SYNC_VIEW,
            )

    def case(self, lab, scenario, rival, size, function, **arguments):
        environment, options = settings(rival, size)
        server = lab.server("postgresql")
        arguments["database"] = {**server.settings, **options}
        function = f"asynchronous.{function}"
        return InProcessCase(scenario, rival, environment, function, arguments, server)
