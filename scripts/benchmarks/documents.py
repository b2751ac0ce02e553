"""Write results into the documentation: tables, and charts beside them."""

import tempfile
import textwrap
from pathlib import Path

from pooltools.processes import run

from . import report
from .cases import clean_environment
from .environments import CHARTS, ROOT

FILE = ROOT / "docs" / "internals" / "contributing" / "pool-benchmarks.txt"
IMAGES = FILE.parent / "_images"

WIDTH = 79
TITLE = "Benchmarks of connection pooling"
INTRODUCTION = """\
What this page shows was measured by ``scripts/bench``, which anyone can run.
All rivals take turns, each measurement in a process of its own. A figure is
the median of the rounds; a ratio is followed by the least and the most that a
round had.
"""


def write(results, workloads, lab):
    """Write the page about results, and its charts."""
    draw(results, lab)
    border = "=" * len(TITLE)
    lines = [border, TITLE, border, "", INTRODUCTION, *about(results.about), ""]
    for workload in workloads:
        if not results.scenarios(workload.letter):
            continue
        title = capitalize(workload.title)
        lines += [title, "=" * len(title), ""]
        for scenario, header, rows in report.table(workload, results):
            heading = capitalize(scenario)
            lines += [heading, "-" * len(heading), ""]
            lines += [*report.rst_table(header, rows), ""]
    charts = sorted(IMAGES.glob("pool-*.svg"))
    if charts:
        lines += ["Charts", "======", ""]
    for chart in charts:
        name = chart.stem.replace("pool-", "").replace("-", " ")
        lines += [f".. image:: _images/{chart.name}", f"   :alt: Chart: {name}", ""]
    FILE.write_text("\n".join(lines).rstrip() + "\n")
    print(f"Wrote {FILE.relative_to(ROOT)} and {len(charts)} charts.", flush=True)


def draw(results, lab):
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="django-pool-bench-") as directory:
        file = Path(directory) / "results.json"
        results.save(file)
        run(
            [lab.python(CHARTS), "-m", "benchmarks.charts", file, IMAGES],
            "The charts could not be drawn.",
            cwd=ROOT / "scripts",
            env=clean_environment(),
        )


def about(description):
    """Return a paragraph for each part of what the results depend on."""
    machine = description["machine"]
    yield from textwrap.wrap(
        f"Measured on {description['started'][:10]} on {machine['cpus']} CPUs "
        f"({machine['processor']}), {machine['system']}:",
        WIDTH,
    )
    yield ""
    for name, packages in description["environments"].items():
        python = packages["python"].partition("(")[0].strip()
        others = ", ".join(
            f"{package} {version}"
            for package, version in sorted(packages.items())
            if package not in report.NOT_SHOWN
        )
        yield from textwrap.wrap(
            f"* {name}: {python}, {others}", WIDTH, subsequent_indent="  "
        )
    for name, version in description["servers"].items():
        yield f"* {name}: {version}"


def capitalize(text):
    return text[:1].upper() + text[1:]
