"""Threads that need their connection now and then; a query by itself."""

import threading
import time
from statistics import median

from .setup import set_up_site
from .timing import count_switches, quantile
from .watch import Watcher

# Requests of each thread before the time starts: they open connections.
WARM_UP = 2


def serve(database, server, threads, pause, requests, seconds):
    """
    Have some threads serve requests: a query, a wait for something else, a
    query. That ends when a number of requests was served or time is up.

    server: where sessions are counted, behind a proxy if there's one.
    """
    set_up_site(database)
    clock = time.perf_counter
    work_left = iter(range(requests))
    took = [[] for _ in range(threads)]
    failures = [0] * threads
    ended = [0.0] * threads
    barrier = threading.Barrier(threads + 1)
    begin = None

    def work(number):
        try:
            for _ in range(WARM_UP):
                request(pause)
        except BaseException:
            barrier.abort()
            raise
        barrier.wait()
        barrier.wait()
        for _ in work_left:
            start = clock()
            if start - begin > seconds:
                break
            try:
                request(pause)
            except Exception:
                failures[number] += 1
            else:
                took[number].append(clock() - start)
        ended[number] = clock()

    workers = [threading.Thread(target=work, args=[n]) for n in range(threads)]
    for worker in workers:
        worker.start()
    barrier.wait()
    with Watcher(server) as watcher:
        cpu, switches = time.process_time(), count_switches()
        begin = clock()
        barrier.wait()
        for worker in workers:
            worker.join()
        cpu = time.process_time() - cpu
        switches = count_switches() - switches
    ordered = sorted(each for part in took for each in part)
    return {
        "rate": len(ordered) / (max(ended) - begin),
        "p50": quantile(ordered, 0.50) * 1e3,
        "p99": quantile(ordered, 0.99) * 1e3,
        "failed": sum(failures),
        "peak": watcher.peak,
        "client": cpu / max(1, len(ordered)) * 1e3,
        "switches": switches / max(1, len(ordered)),
    }


def request(pause):
    """What Django does for a request that queries, waits, and queries."""
    from shop.models import Author, Book
    from shop.views import AUTHOR

    from django.core.signals import request_finished, request_started

    request_started.send(sender=None)
    try:
        author = Author.objects.get(pk=AUTHOR)
        time.sleep(pause)
        Book.objects.filter(author=author).count()
    finally:
        request_finished.send(sender=None)


def one_query(database, leases, kind, batch, seconds):
    """
    Run a query under each of two leases, in batches by turns. Return what it
    takes, in microseconds, and the median of the ratios of the turns: what
    else the machine does goes by at other times than a turn's.

    leases: the one that is compared, and the one that it's compared with.
    """
    databases = [
        {**database, "POOL": {**database["POOL"], "lease": lease}} for lease in leases
    ]
    set_up_site(databases[0], other=databases[1])
    loops = [make_loop(kind, alias) for alias in ("default", "other")]
    return compare_by_turns(*loops, batch, seconds)


def compare_by_turns(one, other, batch, seconds):
    """
    Return what two loops take for one of a batch, in microseconds, and the
    medians of the ratios of the turns.
    """
    for loop in (one, other):
        loop(batch)
    loops = [one, other]
    turns = []
    end = time.perf_counter() + seconds
    while not turns or time.perf_counter() < end:
        times = {loop: time_batch(loop, batch) for loop in loops}
        turns.append([times[one], times[other]])
        # So that neither is always the first.
        loops.reverse()
    figures = {}
    for position, metric in enumerate(["wall", "cpu"]):
        mine, others = zip(*([times[position] for times in turn] for turn in turns))
        figures[metric] = median(mine)
        figures[f"{metric} other"] = median(others)
        figures[f"{metric} ratio"] = median(a / b for a, b in zip(mine, others))
    return figures


def make_loop(kind, alias):
    from shop.models import Author
    from shop.views import AUTHOR

    authors = Author.objects.using(alias)

    def get(n):
        for _ in range(n):
            authors.get(pk=AUTHOR)

    def values_list(n):
        for _ in range(n):
            list(authors.filter(pk=AUTHOR).values_list("name"))

    return {"get()": get, "values_list()": values_list}[kind]


def time_batch(loop, n):
    """Return what one time takes, on the wall and of the CPU."""
    cpu, start = time.process_time(), time.perf_counter()
    loop(n)
    wall = time.perf_counter() - start
    return wall / n * 1e6, (time.process_time() - cpu) / n * 1e6
