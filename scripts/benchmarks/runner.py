"""Run the workloads: A B C, A B C, ... with a line for each measurement."""

import time

from pooltools import ToolError


def run(workload, lab, results, rounds):
    """Measure all cases of a workload in interleaved rounds."""
    cases = list(workload.cases(lab))
    rounds = rounds or lab.pick(*workload.rounds)
    total = rounds * len(cases)
    print(f"\n({workload.letter}) {workload.title}", flush=True)
    broken = set()
    for number in range(rounds):
        for position, case in enumerate(cases):
            if case in broken:
                continue
            start = time.monotonic()
            done = number * len(cases) + position + 1
            where = f"  {done:3}/{total} {case.scenario}: {case.rival}"
            try:
                figures = case.measure(lab)
            except ToolError as error:
                # It isn't tried again: the others' rounds go on.
                broken.add(case)
                results.add_error(workload.letter, case, error)
                print(f"{where}: FAILED, see below", flush=True)
                continue
            results.add(workload.letter, case, figures)
            took = time.monotonic() - start
            print(f"{where}  [{took:.1f} s]  {summary(workload, figures)}", flush=True)


def summary(workload, figures):
    parts = [
        f"{heading} {figures[metric]:.{decimals}f}"
        for metric, heading, decimals in workload.columns
        if metric in figures
    ]
    return ", ".join(parts)
