"""The CPU time of processes and of all that they started, from /proc."""

import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    """
    Return the CPU time of a process and of its descendants, those that have
    ended and been waited for included.
    """
    children = {}
    times = {}
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                stat = (directory / "stat").read_text()
            except OSError:
                # It has ended meanwhile.
                continue
            # The name, in parentheses, may hold anything.
            fields = stat.rpartition(")")[2].split()
            number = int(directory.name)
            children.setdefault(int(fields[1]), []).append(number)
            # utime, stime, and the same of children that were waited for.
            times[number] = sum(map(int, fields[11:15])) / TICKS
    total = 0.0
    pending = [pid]
    while pending:
        number = pending.pop()
        total += times.get(number, 0.0)
        pending += children.get(number, ())
    return total
