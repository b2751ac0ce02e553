"""The table, as text and in reStructuredText."""

import statistics

HEADER = (
    "Scenario",
    "Requests",
    "Errors",
    "p50",
    "Ideal",
    "Opened",
    "Peak",
    "Stray",
    "Lost",
)

EXPLANATION = (
    "p50, ideal: milliseconds, the median and what the queries and waits of the\n"
    "clients take on so many connections. Opened: connections. Peak: sessions on\n"
    "the server at a time. When nothing was going on anymore: stray are sessions\n"
    "that the pool didn't know of, lost are connections that were still in use."
)


def row(outcome):
    timed = outcome.scenario.timed and outcome.times
    return (
        outcome.scenario.title,
        str(outcome.count),
        str(len(outcome.errors)),
        f"{statistics.median(outcome.times) * 1000:.0f}" if timed else "",
        f"{outcome.ideal * 1000:.0f}" if timed else "",
        str(outcome.opened),
        str(outcome.peak),
        str(outcome.stray),
        str(outcome.lost),
    )


def widths(rows):
    return [max(map(len, column)) for column in zip(*rows)]


def as_text(outcomes):
    rows = [HEADER, *map(row, outcomes)]
    sizes = widths(rows)
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(size) for cell, size in zip(others, sizes[1:])]
        lines.append("  ".join([first.ljust(sizes[0]), *cells]).rstrip())
    return "\n".join(lines)


def as_rst(outcomes):
    rows = [HEADER, *map(row, outcomes)]
    sizes = widths(rows)
    rule = "  ".join("=" * size for size in sizes)
    lines = [
        "  ".join(cell.ljust(size) for cell, size in zip(cells, sizes)).rstrip()
        for cells in rows
    ]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule, ""])
