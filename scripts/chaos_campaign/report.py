"""The table of what was injected and what became of the requests."""

import statistics

HEADER = (
    "fault",
    "times",
    "seconds",
    "ok",
    "failed",
    "to fail",
    "connects/s",
    "ok after",
    "failed after",
    "recovery",
    "worst",
    "longest borrow",
)

# Violations of one kind that are printed in full.
SHOWN = 20


def table(windows, requests):
    """Return the rows: one for each fault, one for all."""
    rows = [HEADER]
    requests = sorted(requests, key=lambda request: request.ended)
    for name in dict.fromkeys(window.name for window in windows):
        rows.append(row(name, [w for w in windows if w.name == name], requests))
    failed = [request for request in requests if request.error]
    rows.append(("all", str(len(windows)), "", str(len(requests)), str(len(failed))))
    return rows


def row(name, windows, requests):
    during, after = [], []
    for window in windows:
        for request in requests:
            if window.began <= request.ended and request.started <= window.ended:
                during.append(request)
            elif window.ended < request.started and request.ended < window.until:
                after.append(request)
    failed = [request for request in during if request.error]
    times = [request.ended - request.started for request in failed]
    seconds = sum(window.ended - window.began for window in windows)
    recoveries = [w.recovery for w in windows if w.recovery is not None]
    return (
        name,
        str(len(windows)),
        f"{seconds:.1f}",
        str(len(during) - len(failed)),
        str(len(failed)),
        f"{statistics.median(times) * 1000:.0f} ms" if times else "",
        f"{sum(window.connects for window in windows) / seconds:.0f}",
        str(sum(request.error is None for request in after)),
        str(sum(request.error is not None for request in after)),
        f"{statistics.median(recoveries) * 1000:.0f} ms" if recoveries else "",
        f"{max(recoveries) * 1000:.0f} ms" if recoveries else "",
        f"{max((r.borrowing for r in during + after), default=0):.2f} s",
    )


def print_report(campaign):
    rows = table(campaign.windows, campaign.workload.requests)
    sizes = [max(len(row[n]) for row in rows if len(row) > n) for n in range(12)]
    for first, *others in rows:
        cells = [cell.rjust(size) for cell, size in zip(others, sizes[1:])]
        print("  ".join([first.ljust(sizes[0]), *cells]).rstrip())
    print(
        "\nok, failed: requests that met the fault. after: later than it, those "
        "during the recovery included.\nto fail: median of the time that a failed "
        "request took. recovery: until every thread was served again, median."
    )
    kinds = {}
    for request in campaign.workload.requests:
        if request.error:
            kind = request.error[:100]
            kinds[kind] = kinds.get(kind, 0) + 1
    print("\nErrors:")
    for kind, count in sorted(kinds.items(), key=lambda item: -item[1])[:SHOWN]:
        print(f"  {count:5} {kind}")
    if campaign.violations:
        print(f"\nVIOLATIONS: {len(campaign.violations)}")
        for violation in campaign.violations[:SHOWN]:
            print(f"- {violation}")
    else:
        print("\nNo violations.")
