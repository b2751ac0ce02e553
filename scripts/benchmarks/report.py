"""Show results as text: tables of medians, ratios, bars."""

from statistics import median

from .results import show

# What came with the environment, and the Python, which is shown apart.
NOT_SHOWN = ("python", "pip", "setuptools", "wheel")


def table(workload, results):
    """Return (title, header, rows) for each scenario of a workload."""
    for scenario, rivals in results.scenarios(workload.letter).items():
        columns = [
            column
            for column in workload.columns
            if any(
                column[0] in figures for rounds in rivals.values() for figures in rounds
            )
        ]
        header = ["", *(heading for _, heading, _ in columns)]
        ours = next(iter(rivals))
        has_ratio = workload.ratio in [metric for metric, *_ in columns]
        if has_ratio:
            header.append(f"{ratio_name(workload)} / {ours}'s")
        rows = []
        for rival in rivals:
            where = (workload.letter, scenario, rival)
            row = [rival]
            for metric, _, decimals in columns:
                function = workload.extreme.get(metric, median)
                value = results.summary(function, *where, metric)
                row.append("-" if value is None else f"{value:,.{decimals}f}")
            if has_ratio:
                other = (workload.letter, scenario, ours, workload.ratio)
                ratio = results.ratio((*where, workload.ratio), other)
                row.append("-" if ratio is None else str(ratio))
            rows.append(row)
        yield scenario, header, rows


def ratio_name(workload):
    return next(c[1] for c in workload.columns if c[0] == workload.ratio)


def widths(header, rows):
    return [max(len(row[n]) for row in [header, *rows]) for n in range(len(header))]


def text_table(header, rows):
    """Return the lines of a table: the first column left, the others right."""
    sizes = widths(header, rows)

    def line(row):
        first, *others = row
        cells = [first.ljust(sizes[0])]
        cells += [cell.rjust(size) for cell, size in zip(others, sizes[1:])]
        return "  ".join(cells).rstrip()

    return [line(header), *map(line, rows)]


def rst_table(header, rows):
    """Return the lines of a simple table in reST."""
    # An empty first cell would continue the row before.
    header = [header[0] or "\\", *header[1:]]
    sizes = widths(header, rows)
    border = "  ".join("=" * size for size in sizes)
    lines = text_table(header, rows)
    return [border, lines[0], border, *lines[1:], border]


def print_workload(workload, results):
    print(f"\n({workload.letter}) {workload.title}")
    for scenario, header, rows in table(workload, results):
        print(f"\n  {scenario}")
        for line in text_table(header, rows):
            print(f"    {line}")


def print_about(about):
    """Print the machine and the versions, those of the rivals included."""
    machine = about["machine"]
    load = ", ".join(f"{part:.1f}" for part in machine["load"])
    print(
        f"{machine['processor']}, {machine['cpus']} CPUs, {machine['system']}, "
        f"load at the start {load}"
    )
    for name, packages in about["environments"].items():
        print(f"{name}: {packages['python']}: {list_versions(packages)}")
    for name, version in about["servers"].items():
        print(f"{name}: {version}")


def list_versions(packages):
    return ", ".join(
        f"{package} {version}"
        for package, version in sorted(packages.items())
        if package not in NOT_SHOWN
    )


def bars_table(judged):
    """Return the header and the rows for bars, as judge() returns them."""
    header = ["bar", "limit", "measured (spread)", ""]
    rows = []
    for bar, measured, ok in judged:
        verdict = {True: "ok", False: "NOT MET", None: "not measured"}[ok]
        value = show(measured) if isinstance(measured, (int, float)) else str(measured)
        rows.append([bar.text, bar.limit_text, value, verdict])
    return header, rows


def print_bars(judged):
    print()
    for line in text_table(*bars_table(judged)):
        print(line)


def print_errors(errors):
    """Print what went wrong, each only once."""
    seen = {}
    for error in errors:
        where = f"({error['workload']}) {error['scenario']}: {error['rival']}"
        seen.setdefault(error["error"], []).append(where)
    for text, places in seen.items():
        print()
        for place in places:
            print(f"FAILED: {place}")
        print(f"  {text}")
