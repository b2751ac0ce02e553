"""What a pool and its idle connections take: bytes, threads."""

import gc
import threading
import tracemalloc
from pathlib import Path

from .rivals import RIVALS, Dummy, Opener
from .setup import set_up, use_at_once


def dummies(rival, count):
    """The pool's own part, with connections that take nothing themselves."""
    # What is imported is another matter.
    RIVALS[rival](1, Opener(), warm=1).stop()
    empty, threads = allocated(lambda: RIVALS[rival](count, Opener(), warm=0))
    full, _ = allocated(lambda: RIVALS[rival](count, Opener(), warm=count))
    dummy, _ = allocated(lambda: [Dummy() for _ in range(count)])
    return {
        "pool": empty,
        "per connection": (full - empty - dummy) / count,
        "threads": threads,
    }


def allocated(make):
    """Return (bytes, threads) that something takes while it's kept."""
    gc.collect()
    threads = threading.active_count()
    tracemalloc.start()
    kept = make()
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    threads = threading.active_count() - threads
    if hasattr(kept, "stop"):
        kept.stop()
    return size, threads


def real(database, count):
    """The resident memory of this process for real connections, idle."""
    set_up(database)
    use_at_once(1)
    before = resident()
    use_at_once(count)
    gc.collect()
    return {"resident": (resident() - before) / (count - 1)}


def resident():
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024
    raise OSError("There's no Private_Dirty in /proc/self/smaps_rollup.")
