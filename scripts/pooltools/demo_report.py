"""Print what the demo measured, side by side."""

ROWS = [
    # Title, key, factor, digits.
    ("requests", "requests", 1, 0),
    ("requests per second", "requests per second", 1, 0),
    ("latency p50, ms", "p50", 1000, 1),
    ("latency p99, ms", "p99", 1000, 1),
    ("failed requests", "failed", 1, 0),
    # These from the start, the warming up included.
    ("connections opened", "opened", 1, 0),
    ("connections reused", "reused", 1, 0),
]


def print_comparison(off, on):
    print(f"\n{'':24}{'pool off':>14}{'pool on':>14}")
    for title, key, factor, digits in ROWS:
        cells = (f"{run[key] * factor:,.{digits}f}" for run in (off, on))
        print(f"{title:24}" + "".join(f"{cell:>14}" for cell in cells))


def print_pool(stats):
    """Print the statistics of the pool, whichever there are."""
    print("\nThe pool's statistics:")
    for name, value in (stats or {}).items():
        print(f"  {name:18} {describe(value)}")


def describe(value):
    if isinstance(value, dict):
        return ", ".join(f"{k} {describe(v)}" for k, v in value.items()) or "none"
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".")
    return str(value)
