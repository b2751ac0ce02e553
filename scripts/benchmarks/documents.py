"""Write results into the documentation: tables, and charts beside them."""

import tempfile
import textwrap
from pathlib import Path

from pooltools.processes import run

from . import report
from .bars import judge
from .cases import clean_environment
from .environments import CHARTS, ROOT

FILE = ROOT / "docs" / "internals" / "contributing" / "pool-benchmarks.txt"
IMAGES = ROOT / "docs" / "internals" / "_images"

WIDTH = 79
TITLE = "Benchmarks of connection pooling"
INTRODUCTION = """\
``scripts/bench`` measures the :doc:`connection pool </topics/db/pooling>` and
what else there is to choose from: Django without a pool, with persistent
connections and with the pools of drivers, third-party pools, and PgBouncer.
All of them take turns on the same machine, each measurement in a process of
its own. Run it to see what holds on yours:

.. code-block:: console

    $ scripts/bench --quick
    $ scripts/bench --quick --bars a b
    $ scripts/bench --write-docs

The first takes some minutes, the last about an hour. The second measures only
the workloads that it names, and says which of the limits that the pool is held
to are kept. ``--write-docs`` writes the figures to this page, and
``scripts/bench --from dist/bench/results.json --write-docs`` does so again
without measuring.
"""
READING = """\
A figure is the median of the rounds. A ratio is the median of the ratios in
each round, followed by the least and the most. "Least" and "max" are those of
all rounds. Trust the ratios more than the figures: all rivals had to bear with
the same machine.
"""
LIMITS = """\
What the pool is held to, by ``--bars``. Most limits are on a ratio of two
figures of the same round.
"""
# For each chart, what it shows.
CAPTIONS = {
    "pool-one-thread": "CPU time of a borrow and a return, one thread.",
    "pool-fairness": "Fairness, where 1 means that all threads are served alike.",
    "pool-longest-wait": "The longest wait of 32 threads for 8 connections.",
    "pool-spike": "50 clients at once, where connecting takes 150 ms.",
    "pool-cycle": "Borrowing and giving back through Django, on PostgreSQL.",
    "pool-requests": "Whole requests per second, with 16 clients.",
    "pool-leases": "Requests per second of threads that wait for other things, too.",
    "pool-asyncio": "Asynchronous requests per second, with 100 clients.",
    "pool-threads": "Uses per second by the number of threads.",
}


def write(results, workloads, lab):
    """Write the page about results, and its charts."""
    charts = draw(results, lab)
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(page(results, workloads, charts))
    print(f"Wrote {FILE.relative_to(ROOT)} and {len(charts)} charts.", flush=True)


def page(results, workloads, charts=()):
    """
    Return the page.

    charts: names of those that were drawn.
    """
    border = "=" * len(TITLE)
    lines = [border, TITLE, border, "", INTRODUCTION]
    lines += [*heading("The workloads", "="), *listing(workloads)]
    if results.rounds:
        lines += [*heading("What was measured", "="), READING]
        lines += [*about(results.about, results.most_rounds()), ""]
    else:
        lines += ["There are no figures on this page yet.", ""]
    machine = caption_of_machine(results.about) if charts else ""
    for name in charts:
        lines += [f".. figure:: /internals/_images/{name}.svg"]
        lines += [f"   :alt: {CAPTIONS[name]}", ""]
        lines += [*wrap(f"{CAPTIONS[name]} {machine}", "   ", "   "), ""]
    if judged := judge(results):
        lines += [*heading("Limits", "="), LIMITS]
        lines += [*report.rst_table(*report.bars_table(judged)), ""]
    for workload in workloads:
        if not results.scenarios(workload.letter):
            continue
        lines += heading(capitalize(workload.title), "=")
        for scenario, header, rows in report.table(workload, results):
            lines += heading(capitalize(scenario), "-")
            lines += [*report.rst_table(header, rows), ""]
    return "\n".join(lines).rstrip() + "\n"


def listing(workloads):
    """Return a list of the workloads: their names, what they are."""
    for workload in workloads:
        yield from wrap(f"* ``{workload.letter}``: {workload.title}.", indent="  ")
        if workload.about:
            yield ""
            yield from wrap(workload.about, "  ", "  ")
        yield ""


def draw(results, lab):
    """Draw the charts in place of those of before. Return their names."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name in CAPTIONS:
        (IMAGES / f"{name}.svg").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="django-pool-bench-") as directory:
        file = Path(directory) / "results.json"
        results.save(file)
        run(
            [lab.python(CHARTS), "-m", "benchmarks.charts", file, IMAGES],
            "The charts could not be drawn.",
            cwd=ROOT / "scripts",
            env=clean_environment(),
        )
    return [name for name in CAPTIONS if (IMAGES / f"{name}.svg").exists()]


def about(description, rounds):
    """Return a paragraph for each part of what the results depend on."""
    machine = description["machine"]
    kind = "a quick run" if description.get("quick") else "a full run"
    kind += " of one round" if rounds == 1 else f" of at most {rounds} rounds"
    yield from wrap(
        f"Measured on {description['started'][:10]} by {kind}, on "
        f"{machine['cpus']} CPUs ({machine['processor']}), {machine['system']}, "
        f"with a load of {machine['load'][0]:.1f} at the start:"
    )
    yield ""
    for name, packages in description["environments"].items():
        python = packages["python"].partition("(")[0].strip()
        others = report.list_versions(packages)
        yield from wrap(f"* {name}: {python}, {others}", indent="  ")
    for name, version in description["servers"].items():
        yield from wrap(f"* {name}: {version}", indent="  ")


def caption_of_machine(description):
    """Return the machine and the main versions, in a sentence."""
    machine = description["machine"]
    versions = [
        f"{name}: {packages['python'].partition('(')[0].strip()}, "
        f"Django {packages.get('django', '-')}"
        for name, packages in description["environments"].items()
    ]
    versions += description["servers"].values()
    text = "; ".join(dict.fromkeys(versions))
    return f"{machine['cpus']} CPUs, {machine['processor']}. {capitalize(text)}."


def heading(text, line):
    return [text, line * len(text), ""]


def wrap(text, first="", indent=""):
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def capitalize(text):
    return text[:1].upper() + text[1:]
