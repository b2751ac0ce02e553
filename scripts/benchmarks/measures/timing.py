"""Time a loop so that a busy machine does little harm to the result."""

import resource
import time
from statistics import median

# Seconds that a batch takes: long against the clocks' resolution, short
# against the time for which another process gets in the way.
BATCH = 0.02


def time_loop(loop, seconds, batch=BATCH):
    """
    Run loop(n), which does something n times, for some seconds in batches.
    Return what one time takes: the medians over the batches, in microseconds,
    of the time on the wall and of the CPU time of all threads.
    """
    n = calibrate(loop, batch)
    wall, cpu = [], []
    end = time.perf_counter() + seconds
    while not wall or time.perf_counter() < end:
        cpu_start, start = time.process_time(), time.perf_counter()
        loop(n)
        wall.append((time.perf_counter() - start) / n * 1e6)
        cpu.append((time.process_time() - cpu_start) / n * 1e6)
    return {"wall": median(wall), "cpu": median(cpu)}


def calibrate(loop, batch=BATCH):
    """Return how many times fill a batch. Warms up, too."""
    n = 1
    while True:
        start = time.perf_counter()
        loop(n)
        took = time.perf_counter() - start
        if took >= batch / 2:
            return max(1, round(n * batch / took))
        n *= 2


def quantile(ordered, fraction):
    """Return a quantile of a sorted list, the nearest rank."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def count_switches():
    """Return how often the threads of this process have been switched."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_nvcsw + usage.ru_nivcsw
