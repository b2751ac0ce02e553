"""The command line of scripts/bench."""

import argparse
import time
from pathlib import Path

from pooltools import ToolError
from pooltools.command import add_python_option, run_tool

from . import (
    asynchronous,
    bare,
    django_cycle,
    documents,
    leases,
    parts,
    report,
    web,
    within,
)
from .bars import judge
from .environments import PATCHED, ROOT, STOCK
from .lab import Lab
from .results import Results
from .runner import run

WORKLOADS = {
    workload.letter: workload
    for workload in sorted(
        [
            bare.OneThread(),
            bare.Contended(),
            bare.Spike(),
            django_cycle.Cycle(),
            django_cycle.DirtyReturn(),
            django_cycle.Recovery(),
            django_cycle.Memory(),
            web.Requests(),
            web.Scaling(),
            leases.Leases(),
            asynchronous.Asynchronous(),
            parts.Parts(),
            parts.Instructions(),
            within.Within(),
        ],
        key=lambda workload: workload.letter,
    )
}


def main(arguments=None):
    return run_tool("scripts/bench", bench, parse(arguments))


def parse(arguments):
    listed = "\n".join(f"  {key}  {item.title}" for key, item in WORKLOADS.items())
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure the pool and its rivals side by side: in rounds, A B C "
        "A B C ...,\neach measurement in a process of its own.\n\n" + listed,
    )
    parser.add_argument(
        "workloads",
        nargs="*",
        metavar="WORKLOAD",
        help=f"{', '.join(WORKLOADS)}; all of them by default",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="about eight minutes instead of an hour",
    )
    parser.add_argument(
        "--bars",
        action="store_true",
        help="print the bars, and fail if one isn't met",
    )
    parser.add_argument(
        "--rounds", type=int, help="how many, by default what a workload needs"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where to write the results, JSON"
    )
    parser.add_argument(
        "--write-docs",
        action="store_true",
        help="write tables and charts into the documentation",
    )
    parser.add_argument(
        "--from",
        dest="file",
        type=Path,
        metavar="FILE",
        help="measure nothing, show the results in a file",
    )
    add_python_option(parser)
    options = parser.parse_args(arguments)
    for letter in options.workloads:
        if letter not in WORKLOADS:
            parser.error(
                f"There's no workload {letter!r}, only {', '.join(WORKLOADS)}."
            )
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be 1 or more.")
    return options


def bench(stack, options):
    start = time.monotonic()
    lab = Lab(stack, options.quick, options.python)
    if options.file:
        results = load(options.file)
    else:
        results = measure(options.workloads or list(WORKLOADS), lab, options)
    letters = [key for key in WORKLOADS if results.scenarios(key)]
    for letter in letters:
        report.print_workload(WORKLOADS[letter], results)
    print()
    report.print_about(results.about)
    met = True
    if options.bars:
        judged = judge(results)
        report.print_bars(judged)
        met = all(ok for _, _, ok in judged)
    report.print_errors(results.errors)
    if options.write_docs:
        documents.write(results, WORKLOADS.values(), lab)
    print(f"\nTook {time.monotonic() - start:.0f} s.", flush=True)
    return 0 if met and not results.errors else 1


def measure(letters, lab, options):
    """Run workloads. Return the results, which are also written to a file."""
    for name in (PATCHED, STOCK):
        lab.python(name)
    results = Results()
    results.about.update(lab.describe(), quick=options.quick)
    load_before = results.about["machine"]["load"]
    output = options.output or ROOT / "dist" / "bench" / "results.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        for letter in letters:
            run(WORKLOADS[letter], lab, results, options.rounds)
    finally:
        # Also what was measured before something went wrong. By now the
        # servers are known, too.
        results.about.update(lab.describe())
        results.about["machine"]["load"] = load_before
        results.save(output)
        print(f"\nThe results are in {output}.", flush=True)
    return results


def load(file):
    try:
        return Results.load(file)
    except (OSError, ValueError, KeyError) as error:
        raise ToolError(f"{file} can't be read as results: {error}")
