"""
Draw results. Run with matplotlib's environment:

    python -m benchmarks.charts RESULTS DIRECTORY
"""

import io
import sys
from pathlib import Path
from statistics import median

from . import asynchronous, bare, django_cycle, leases, web
from .results import Results

CLOSE = django_cycle.scenario("close()", "wrapper")
WSGI = web.Requests.scenario("PostgreSQL", "wsgi")
LEASES = leases.Leases.scenario("postgresql")

OURS, OTHERS = "#0c4b33", "#60b58f"
BOLD = (
    *(bare.OURS, bare.READ, django_cycle.OURS, django_cycle.OURS_CHECKED),
    *(leases.TRANSACTION, asynchronous.CONCURRENT),
)

# File: title, workload, scenario, metric, axis, whether it's logarithmic.
BARS = {
    "pool-one-thread": (
        "Borrow and give back, one thread",
        *("a", bare.ONE_THREAD, "cpu", "CPU time (us)", False),
    ),
    "pool-fairness": (
        "Fairness: 32 threads on 8 connections, 200 us each",
        *("b", bare.SHORT_HOLD, "jain", "Jain's index", False),
    ),
    "pool-longest-wait": (
        "Longest wait: 32 threads on 8 connections, 200 us each",
        *("b", bare.SHORT_HOLD, "max", "ms", True),
    ),
    "pool-spike": (
        "50 clients at once on 5 open connections",
        *("c", bare.WARM, "last", "ms until all are served", True),
    ),
    "pool-cycle": (
        "ensure_connection() + close() through Django",
        *("d", CLOSE, "wall", "us", True),
    ),
    "pool-requests": (
        "Whole requests: gunicorn, PostgreSQL",
        *("e", WSGI, "rate", "requests/s", False),
    ),
    "pool-leases": (
        "64 threads: a query, 20 ms of other waiting, a query",
        *("j", LEASES, "rate", "requests/s", False),
    ),
    "pool-asyncio": (
        "asyncio: 100 ms between two queries, 4 connections",
        *("k", asynchronous.PAUSES, "rate", "requests/s", False),
    ),
}


def main(file, directory):
    import matplotlib

    matplotlib.use("svg")
    # The same results give the same file.
    matplotlib.rcParams["svg.hashsalt"] = "django"
    results = Results.load(Path(file))
    for name, description in BARS.items():
        draw_bars(results, Path(directory) / f"{name}.svg", *description)
    draw_scaling(results, Path(directory) / "pool-threads.svg")


def draw_bars(results, file, title, workload, scenario, metric, label, log):
    """Draw a bar for each rival's median, and its least and most."""
    rivals = [
        rival
        for rival in results.scenarios(workload).get(scenario, {})
        if results.values(workload, scenario, rival, metric)
    ]
    if not rivals:
        return
    values = [results.values(workload, scenario, rival, metric) for rival in rivals]
    middle = [median(each) for each in values]
    errors = [
        [m - min(each) for m, each in zip(middle, values)],
        [max(each) - m for m, each in zip(middle, values)],
    ]
    figure, axes = new_figure(0.6 + 0.35 * len(rivals))
    if log:
        # Where there's no zero, the length of a bar would say nothing.
        axes.errorbar(middle, rivals, xerr=errors, fmt="o", color=OTHERS, capsize=2)
        ours = [(m, rival) for m, rival in zip(middle, rivals) if rival in BOLD]
        if ours:
            axes.plot(*zip(*ours), "o", color=OURS, zorder=9)
        axes.set_xscale("log")
        axes.grid(axis="x")
    else:
        colors = [OURS if rival in BOLD else OTHERS for rival in rivals]
        axes.barh(rivals, middle, xerr=errors, color=colors, capsize=2)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.set_title(title)
    save(figure, file)


def draw_scaling(results, file):
    """Draw a line for each rival: served per second by number of threads."""
    counts = [
        count
        for count in bare.Scaling.threads
        if bare.Scaling.by_threads(count) in results.scenarios("i")
    ]
    if not counts:
        return
    figure, axes = new_figure(3)
    for rival in bare.Scaling.rivals:
        where = [("i", bare.Scaling.by_threads(count), rival) for count in counts]
        medians = [results.median(*each, "throughput") for each in where]
        axes.plot(counts, medians, marker="o", label=rival)
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, counts)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("threads")
    axes.set_ylabel("served/s")
    axes.set_title("Threads on 8 connections, without a pause")
    axes.legend()
    save(figure, file)


def new_figure(height):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, height), layout="constrained")
    return figure, figure.subplots()


def save(figure, file):
    with io.StringIO() as stream:
        figure.savefig(stream, format="svg", metadata={"Date": None})
        # Without spaces at the ends of lines, as all files here.
        lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    file.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
