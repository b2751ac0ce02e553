"""Pools alone: one thread, many threads, a spike."""

import math
import threading
import time
from itertools import pairwise
from statistics import median

from .rivals import RIVALS, Opener
from .timing import count_switches, quantile, time_loop


def cycle(rival, size, seconds):
    """Borrow and give back in one thread, all connections open."""
    pool = RIVALS[rival](size, Opener(), warm=size)
    figures = time_loop(pool.loop, seconds)
    pool.stop()
    return figures


def contend(rival, size, threads, hold, think, seconds, repeats=1):
    """
    More threads than connections, each at it again at once. That's done some
    times over: chance decides who gets ahead at the start, and a run in which
    that goes wrong must not get lost.
    """
    pool = RIVALS[rival](size, Opener(), warm=size)
    runs = [contend_once(pool, threads, hold, think, seconds) for _ in range(repeats)]
    pool.stop()
    # The waits of all runs are looked at together.
    ordered = sorted(wait for run in runs for wait in run.pop("waits"))
    longest, paused = max(run.pop("longest") for run in runs)
    pause = max(run.pop("pause") for run in runs)
    figures = {name: median(run[name] for run in runs) for name in runs[0]}
    return {
        **figures,
        "p50": quantile(ordered, 0.50) * 1e3,
        "p99": quantile(ordered, 0.99) * 1e3,
        "max": longest * 1e3,
        "paused": paused * 1e3,
        "pause": pause * 1e3,
        "least jain": min(run["jain"] for run in runs),
        "starved": max(run["starved"] for run in runs),
    }


def contend_once(pool, threads, hold, think, seconds):
    clock = time.perf_counter
    # Numbers, not pairs of them: those would keep the garbage collector busy.
    asked = [[] for _ in range(threads)]
    got = [[] for _ in range(threads)]
    served = [0] * threads
    barrier = threading.Barrier(threads + 1)
    end = None

    def work(number):
        acquire, release = pool.acquire, pool.release
        note_asked, note_got = asked[number].append, got[number].append
        count = 0
        barrier.wait()
        while True:
            note_asked(clock())
            handle = acquire()
            # The last wait may end after the end: it isn't served, but it
            # was waited for.
            note_got(now := clock())
            if now >= end:
                release(handle)
                break
            count += 1
            if hold:
                time.sleep(hold)
            release(handle)
            if think:
                time.sleep(think)
        served[number] = count

    workers = [threading.Thread(target=work, args=[n]) for n in range(threads)]
    for worker in workers:
        worker.start()
    cpu, switches = time.process_time(), count_switches()
    end = clock() + seconds
    barrier.wait()
    for worker in workers:
        worker.join()
    cpu = time.process_time() - cpu
    switches = count_switches() - switches
    total = sum(served)
    times = [pair for pairs in map(zip, asked, got) for pair in pairs]
    # That anybody was served, until the end.
    moments = sorted(now for _, now in times if now < end)
    start, now = max(times, key=lambda pair: pair[1] - pair[0])
    return {
        "throughput": total / seconds,
        "waits": [now - start for start, now in times],
        "longest": (now - start, longest_pause(moments, start, now)),
        "pause": longest_pause(moments),
        "jain": jain(served),
        "starved": sum(count == 0 for count in served),
        "cpu": cpu / total * 1e6,
        "switches": switches / total,
    }


def longest_pause(moments, start=-math.inf, end=math.inf):
    """
    Return the longest time between two moments of a sorted list, as far as
    it's between a start and an end.
    """
    pauses = (min(b, end) - max(a, start) for a, b in pairwise(moments))
    return max([0.0, *pauses])


def jain(counts):
    """
    Return Jain's index of fairness: 1 if all are served alike, 1/n if one of n
    is served alone.
    """
    squares = sum(count * count for count in counts)
    return sum(counts) ** 2 / (len(counts) * squares) if squares else 0.0


def spike(rival, size, warm, clients, connect, query):
    """Many clients at once, for each one short query; connecting is slow."""
    opener = Opener(connect)
    pool = RIVALS[rival](size, opener, warm=warm)
    opened = opener.finished
    started = opener.started
    clock = time.perf_counter
    done = [0.0] * clients
    # The latter with a timeout, for a pool that loses one.
    ready, go = threading.Barrier(clients + 1), threading.Event()

    def work(number):
        ready.wait()
        go.wait()
        handle = pool.acquire()
        time.sleep(query)
        pool.release(handle)
        done[number] = clock()

    workers = [threading.Thread(target=work, args=[n]) for n in range(clients)]
    for worker in workers:
        worker.start()
    ready.wait()
    # All are asleep then.
    time.sleep(0.1)
    begin = clock()
    go.set()
    for worker in workers:
        worker.join()
    at_the_end = opener.finished - opened
    # What was started is opened sooner or later.
    time.sleep(2 * connect)
    result = {
        "last": (max(done) - begin) * 1e3,
        "median": (sorted(done)[clients // 2] - begin) * 1e3,
        "opened": at_the_end,
        "started": opener.started - started,
    }
    pool.stop()
    return result
