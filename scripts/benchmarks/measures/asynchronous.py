"""The site under its ASGI application, in an event loop of this process."""

import asyncio
import time
from statistics import median

from .setup import set_up_site
from .timing import count_switches, quantile, time_loop
from .watch import Watcher

# It has three queries.
WARM_UP = "/async/"
# Seconds of one batch of queries, which is a request: long against what else
# a request takes.
SERIAL_BATCH = 0.2


def one_by_one(database, path, times):
    """Send a request after the other. Return the milliseconds of one."""
    application = make_application(database)

    async def run():
        await get(application, path)
        took = []
        for _ in range(times):
            start = time.perf_counter()
            await get(application, path)
            took.append(time.perf_counter() - start)
        return median(took)

    took = asyncio.run(run())
    return {"rate": 1 / took, "p50": took * 1e3}


def together(database, server, path, clients, each):
    """Some clients at once, each with some requests, one after the other."""
    application = make_application(database)
    took = []
    failures = []

    async def client(path, count):
        for _ in range(count):
            start = time.perf_counter()
            try:
                await get(application, path)
            except RequestFailed as error:
                failures.append(error)
            else:
                took.append(time.perf_counter() - start)

    async def run():
        # The first ones open connections and start threads.
        await asyncio.gather(*[client(WARM_UP, 1) for _ in range(clients)])
        took.clear()
        failures.clear()
        cpu, switches = time.process_time(), count_switches()
        start = time.perf_counter()
        await asyncio.gather(*[client(path, each) for _ in range(clients)])
        total = time.perf_counter() - start
        return time.process_time() - cpu, count_switches() - switches, total

    with Watcher(server) as watcher:
        cpu, switches, total = asyncio.run(run())
    ordered = sorted(took)
    return {
        "rate": len(ordered) / total,
        "p50": quantile(ordered, 0.50) * 1e3,
        "p99": quantile(ordered, 0.99) * 1e3,
        "failed": len(failures),
        "peak": watcher.peak,
        "client": cpu / max(1, len(ordered)) * 1e3,
        "switches": switches / max(1, len(ordered)),
    }


def serial(database, path, seconds):
    """
    Time queries that a request awaits one after the other.

    path: with a place for how many.
    """
    application = make_application(database)
    with asyncio.Runner() as runner:

        def loop(n):
            runner.run(get(application, path.format(n)))

        figures = time_loop(loop, seconds, SERIAL_BATCH)
    return {"rate": 1e6 / figures["wall"], **figures}


def make_application(database):
    set_up_site(database)
    from django.core.asgi import get_asgi_application

    return get_asgi_application()


class RequestFailed(Exception):
    pass


async def get(application, path):
    """Send a request as a server does. The client stays until the answer."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")],
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 12345),
    }
    requests = iter([{"type": "http.request", "body": b"", "more_body": False}])
    answers = []

    async def receive():
        for message in requests:
            return message
        await asyncio.Event().wait()

    async def send(message):
        answers.append(message)

    await application(scope, receive, send)
    if not answers or answers[0]["status"] != 200:
        raise RequestFailed(f"{path}: {answers[:1]}")
