"""What clients do, and what they expect."""

import asyncio
import contextlib
import itertools
import json
import time
from dataclasses import dataclass, field

from .client import BrokenAnswer, get, get_and_leave

# Seconds after which a client gives up on an answer.
PATIENCE = 60.0
# Seconds after which it takes an answer for broken that doesn't go on.
STALLED = 2.0
# Seconds within which a site is quiet after the last request.
QUIET = 20.0
# Seconds within which a session that was closed is gone.
PATIENCE_FOR_STRAY = 5.0
# How many awaits the view has at least that's canceled at each of them.
AWAITS = 40


class WrongAnswer(Exception):
    pass


@dataclass
class Scenario:
    """
    name: of the scenario, and its path.
    title: for the table.
    path: the seconds that a request takes at least, in units of the pause.
    work: the seconds that it uses connections, likewise.
    ask: what one client does.
    timed: whether the time that it takes says anything.
    """

    name: str
    title: str
    path: float
    work: float
    ask: object
    timed: bool = True

    def ideal(self, pause, clients, size):
        """
        Return the seconds that a request takes if nothing but queries and
        waits takes time, and connections are never idle while one is wanted.
        """
        return pause * max(self.path, clients * self.work / size)


@dataclass
class Outcome:
    """What became of the requests of a scenario."""

    scenario: Scenario
    ideal: float
    times: list = field(default_factory=list)
    errors: list = field(default_factory=list)
    opened: int = 0
    peak: int = 0
    # Sessions on the database server that the pool doesn't know of.
    stray: int = 0
    # Connections in use when nothing is going on.
    lost: int = 0

    @property
    def count(self):
        return len(self.times) + len(self.errors)


def expects(body, status=200):
    async def ask(site, name, number):
        answer = await get(site.port, f"/{name}/")
        check(answer, (status, body))

    return ask


def check(answer, expected):
    if answer != expected:
        raise WrongAnswer(f"{answer[0]} {answer[1][:200]!r}")


async def disconnect(site, name, number):
    # On a busy machine, the answer may come before the client has left.
    await get_and_leave(site.port, "/slow/", site.pause / 2)


async def cancel(site, name, number):
    status, body = await get(site.port, f"/cancel/{number % AWAITS + 1}/")
    if status != 200 or body not in ("canceled", "done"):
        raise WrongAnswer(f"{status} {body[:200]!r}")


async def broken(site, name, number):
    # A server may end the connection properly, though what it sent isn't all,
    # or, as daphne does, not at all.
    try:
        async with asyncio.timeout(STALLED):
            status, body = await get(site.port, f"/{name}/")
    except (BrokenAnswer, TimeoutError):
        return
    if status == 200 and "Item 16\n" in body:
        raise WrongAnswer("The answer is complete.")


async def talk(site, name, number):
    import websockets

    address = f"ws://127.0.0.1:{site.port}/{name}/"
    async with websockets.connect(address, compression=None) as socket:
        for way in ("async", "channels", "sync"):
            await socket.send(way)
            if await socket.recv() != "Item 1":
                raise WrongAnswer("It isn't the item that was asked for.")


ITEMS = "".join(f"Item {n}\n" for n in range(1, 51))
# In units of the long query.
SHORT = 1 / 30
WAIT = 1 / 3

SCENARIOS = [
    Scenario("sync", "Sync view", SHORT, SHORT, expects("Item 1")),
    Scenario("async", "Async view", SHORT, SHORT, expects("Item 1")),
    Scenario("gather", "gather() of two", 1, 2, expects("Item 1 Item 1")),
    Scenario("taskgroup", "TaskGroup of two", 1, 2, expects("Item 1 Item 1")),
    Scenario("insensitive", "Not thread-sensitive", SHORT, SHORT, expects("Item 1")),
    Scenario("to-thread", "asyncio.to_thread()", SHORT, SHORT, expects("Item 1")),
    Scenario("background", "Background task", SHORT, 2 * SHORT, expects("Item 1")),
    Scenario(
        "stream", "Streaming, sync iterator", SHORT, SHORT, expects(ITEMS + "Item 1")
    ),
    Scenario(
        "stream-async",
        "Streaming, async queryset",
        SHORT,
        SHORT,
        expects(ITEMS + "Item 1"),
    ),
    Scenario(
        "waiting",
        "Waiting between queries",
        2 * SHORT + WAIT,
        2 * SHORT,
        expects("Item 1"),
    ),
    Scenario("websocket", "WebSocket", 3 * SHORT, 3 * SHORT, talk),
    Scenario("websocket-context", "WebSocket, own context", 3 * SHORT, 3 * SHORT, talk),
    Scenario("disconnect", "Client disconnects", 0.5, 1, disconnect, timed=False),
    Scenario("timeout", "Timeout", WAIT, 1, expects("Item 1"), timed=False),
    Scenario("cancel", "Canceled at each await", 0, 0, cancel, timed=False),
    Scenario("stream-error", "Error while streaming", 0, 0, broken, timed=False),
    Scenario(
        "error",
        "Error page that queries",
        2 * SHORT,
        2 * SHORT,
        expects("Item 1", status=500),
    ),
]
# For the test that losses are noticed.
LEAK = Scenario("leak", "Leak", SHORT, SHORT, expects("Item 1"), timed=False)


async def run(scenario, site, database, count, clients, seconds, progress):
    """Have clients make requests until it was enough. Return an Outcome."""
    outcome = Outcome(scenario, scenario.ideal(site.pause, clients, site.size))
    before = await statistics(site)
    numbers = itertools.count()
    end = time.monotonic() + seconds

    async def client():
        for number in numbers:
            if number >= count or time.monotonic() > end:
                return
            start = time.perf_counter()
            try:
                async with asyncio.timeout(PATIENCE):
                    await scenario.ask(site, scenario.name, number)
            except Exception as error:
                outcome.errors.append(f"{type(error).__name__}: {error}")
            else:
                outcome.times.append(time.perf_counter() - start)
            progress(scenario, outcome.count)

    watch = asyncio.create_task(watch_sessions(outcome, database))
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())
        after = await quiet(site, before, outcome)
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
    outcome.opened = after["opened"] - before["opened"]
    outcome.lost = after["in_use"]
    outcome.stray = await count_stray(site, database)
    return outcome


async def count_stray(site, database):
    """Return how many sessions there are that the pool doesn't know of."""
    end = time.monotonic() + PATIENCE_FOR_STRAY
    while True:
        sessions = len(await asyncio.to_thread(database.sessions))
        stray = max(0, sessions - (await statistics(site))["size"])
        # A session that's being closed isn't the pool's any more.
        if not stray or time.monotonic() > end:
            return stray
        await asyncio.sleep(0.1)


async def statistics(site):
    status, body = await get(site.port, "/statistics/")
    if status != 200:
        raise WrongAnswer(body)
    return json.loads(body)


async def quiet(site, before, outcome):
    """Wait until nothing is going on in the site. Return its statistics."""
    end = time.monotonic() + QUIET
    done = before["background"]
    if outcome.scenario.name == "background":
        done += outcome.count
    while True:
        now = await statistics(site)
        is_quiet = not now["in_use"] and not now["waiting"]
        if is_quiet and now["background"] >= done:
            return now
        if time.monotonic() > end:
            if now["background"] < done:
                outcome.errors.append("Some background tasks didn't end.")
            return now
        await asyncio.sleep(0.1)


async def watch_sessions(outcome, database):
    while True:
        sessions = await asyncio.to_thread(database.sessions)
        outcome.peak = max(outcome.peak, len(sessions))
        await asyncio.sleep(0.1)
