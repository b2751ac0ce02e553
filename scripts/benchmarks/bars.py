"""The numbers to reach, as ratios of what one run measured."""

from statistics import median

from . import asynchronous, bare, django_cycle, leases, web


class Bar:
    """
    A limit on the ratio of two metrics, or on a metric alone.

    one, other: (workload, scenario, rival, metric); no other for a metric
        alone.
    at_most, at_least: the limit, one of them.
    worst: whether a metric alone must be within the limit in each round.
    """

    def __init__(self, text, one, other=None, at_most=None, at_least=None, worst=False):
        self.text = text
        self.one = one
        self.other = other
        self.at_most = at_most
        self.at_least = at_least
        self.worst = worst

    def is_about(self, results):
        """Return whether what the bar is about was measured."""
        return all(
            rival in results.scenarios(workload).get(scenario, ())
            for workload, scenario, rival, _ in filter(None, (self.one, self.other))
        )

    @property
    def limit_text(self):
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return f">= {self.at_least:g}"

    def judge(self, results):
        """Return (what was measured, whether that's within the limit)."""
        if self.other is None and not self.one[-1].endswith(" ratio"):
            worst = max if self.at_least is None else min
            function = worst if self.worst else median
            measured = middle = results.summary(function, *self.one)
        else:
            measured = results.ratio(self.one, self.other)
            middle = measured and measured.median
        if measured is None:
            return None, None
        if self.at_most is not None:
            return measured, middle <= self.at_most
        return measured, middle >= self.at_least


def judge(results):
    """
    Return a list of (bar, what was measured, whether that's within the limit)
    for all that results are about. A quick run doesn't measure all of them.
    """
    return [(bar, *bar.judge(results)) for bar in bars() if bar.is_about(results)]


def one_thread(rival, metric="cpu"):
    return ("a", bare.ONE_THREAD, rival, metric)


def contended(scenario, rival, metric):
    return ("b", scenario, rival, metric)


def spike(scenario, metric, rival=bare.OURS):
    return ("c", scenario, rival, metric)


def cycle(scenario, rival, metric="wall"):
    return ("d", scenario, rival, metric)


def bars():
    """Yield all bars: those of the first pool, then those to win by."""
    ours = one_thread(bare.OURS)
    for limit in (3, 1.6):
        yield Bar("(a) pool / (deque + Lock)", ours, one_thread(bare.FLOOR), limit)
    for rival, times in (
        (bare.PSYCOPG, 1),
        (bare.FIFO, 1),
        (bare.PSYCOPG, 5),
        (bare.FIFO, 10),
        (bare.LIFO, 10),
        ("peewee", 10),
    ):
        yield Bar(f"(a) {rival} / pool", one_thread(rival), ours, at_least=times)

    for scenario in (bare.ZERO_HOLD, bare.SHORT_HOLD):
        jain = contended(scenario, bare.OURS, "jain")
        yield Bar(f"(b) Jain's index, {scenario}", jain, at_least=0.95)
        least = contended(scenario, bare.OURS, "least jain")
        text = f"(b) the same, the least of all runs, {scenario}"
        yield Bar(text, least, at_least=0.95, worst=True)
    yield Bar(
        "(b) no hold: served/s, pool / psycopg_pool",
        contended(bare.ZERO_HOLD, bare.OURS, "throughput"),
        contended(bare.ZERO_HOLD, bare.PSYCOPG, "throughput"),
        at_least=2,
    )
    p99 = contended(bare.SHORT_HOLD, bare.OURS, "p99")
    yield Bar(
        "(b) 200 us hold: p99 wait, pool / psycopg_pool",
        p99,
        contended(bare.SHORT_HOLD, bare.PSYCOPG, "p99"),
        1,
    )
    yield Bar(
        "(b) 200 us hold: max wait / p99 wait",
        contended(bare.SHORT_HOLD, bare.OURS, "max"),
        p99,
        2,
    )
    yield Bar(
        "(b) 200 us hold: max wait / p99 wait of psycopg_pool",
        contended(bare.SHORT_HOLD, bare.OURS, "max"),
        contended(bare.SHORT_HOLD, bare.PSYCOPG, "p99"),
        2,
    )

    warm = spike(bare.WARM, "started")
    yield Bar("(c) 5 warm: connections opened", warm, at_most=1)
    yield Bar("(c) 5 warm: connections opened", warm, at_most=0)
    for limit in (60, 34):
        last = spike(bare.WARM, "last")
        yield Bar("(c) 5 warm: ms until all are served", last, at_most=limit)
    yield Bar("(c) 0 warm: connections opened", spike(bare.COLD, "started"), at_most=6)

    yield from cycle_bars()
    yield from request_bars()
    yield from fault_bars()

    from_1_to_200 = [
        ("i", bare.Scaling.by_connections(count), bare.OURS, "cpu")
        for count in (200, 1)
    ]
    yield Bar("(i) (a) with 200 connections / with 1", *from_1_to_200, at_most=1.1)
    from_8_to_64 = [
        ("i", bare.Scaling.by_threads(count), bare.OURS, "throughput")
        for count in (64, 8)
    ]
    yield Bar("(i) (b) with 64 threads / with 8", *from_8_to_64, at_least=0.8)

    yield from lease_bars()
    yield from asynchronous_bars()


def cycle_bars():
    """
    The end of a use is close() where there's a pool, and what ends it without
    closing where the connection is persistent.
    """
    for metric in ("wall", "cpu"):
        for through in django_cycle.THROUGH:
            text = f"(d) {metric}, {through}: "
            close = django_cycle.scenario("close()", through)
            old = django_cycle.scenario("close_old_connections()", through)
            ours = cycle(close, django_cycle.OURS, metric)
            persistent = cycle(old, django_cycle.PERSISTENT, metric)
            stock = cycle(close, django_cycle.STOCK_POOL, metric)
            yield Bar(text + "pool / persistent", ours, persistent, 2)
            yield Bar(text + "pool / persistent", ours, persistent, 1.25)
            yield Bar(text + "stock's pool / pool", stock, ours, at_least=3)
            yield Bar(text + "stock's pool / pool", stock, ours, at_least=5)
            checked = cycle(close, django_cycle.STOCK_POOL_CHECKED, metric)
            for rival in (django_cycle.OURS, django_cycle.OURS_CHECKED):
                yield Bar(
                    f"{text}stock's pool, health checks / {rival}",
                    checked,
                    cycle(close, rival, metric),
                    at_least=20,
                )
    # The same way of ending a use for both: it's what a request does.
    for through in django_cycle.THROUGH:
        old = django_cycle.scenario("close_old_connections()", through)
        yield Bar(
            f"(d) cpu, {through}, close_old_connections(): pool / persistent",
            cycle(old, django_cycle.OURS, "cpu"),
            cycle(old, django_cycle.PERSISTENT, "cpu"),
            2,
        )


def request_bars():
    """A quick run has those of PostgreSQL with gunicorn, with some rivals."""
    for interface in web.INTERFACES:
        for database, rivals in web.RIVALS.items():
            yield from request_bars_of(database, interface, [*rivals])


def request_bars_of(database, interface, rivals):
    scenario = web.Requests.scenario(database, interface)
    text = f"(e) {scenario}: "

    def requests(rival, metric):
        return ("e", scenario, rival, metric)

    others = [rival for rival in rivals if not rival.startswith(django_cycle.OURS)]
    turns = web.TURNS[database] if interface == "wsgi" else ()
    for metric in ("rate", "p99"):
        for rival in others:
            limit = {"at_least": 1} if metric == "rate" else {"at_most": 1}
            if metric == "rate" and rival == django_cycle.PERSISTENT:
                limit = {"at_least": 0.98}
            if (pair := (django_cycle.OURS, rival)) in turns:
                where = ("e", f"{scenario}, by turns", " / ".join(pair))
                figures = [(*where, f"{metric} ratio")]
                if metric == "rate":
                    yield Bar(
                        f"{text}failed requests, by turns with {rival}",
                        (*where, "failed"),
                        at_most=0,
                        worst=True,
                    )
            else:
                figures = [requests(one, metric) for one in pair]
            yield Bar(f"{text}{metric}, pool / {rival}", *figures, **limit)
    if database != "SQLite":
        peak = requests(django_cycle.OURS, "peak")
        most = django_cycle.MAX_SIZE
        yield Bar(text + "connections at once", peak, at_most=most, worst=True)
    failed = requests(django_cycle.OURS, "failed")
    yield Bar(text + "failed requests", failed, at_most=0, worst=True)


def fault_bars():
    def dirty(kind, metric, rival=django_cycle.OURS):
        return ("f", django_cycle.DirtyReturn.scenario(kind), rival, metric)

    spare = django_cycle.DirtyReturn.with_spare
    clean, *kinds = django_cycle.DirtyReturn.kinds
    yield Bar("(f) clean: round trips", dirty(clean, "on return"), at_most=0)
    for kind in kinds:
        text = f"(f) {kind}: "
        trips = dirty(kind, "round trips")
        yield Bar(text + "round trips", trips, at_most=1)
        yield Bar(text + "still there", dirty(kind, "leaks"), at_most=0)
        waiting = dirty(kind, "on the way", spare)
        yield Bar(text + "on the way, another idle", waiting, at_most=0)

    def recovery(metric):
        return ("g", django_cycle.Recovery.scenario, django_cycle.OURS, metric)

    yield Bar("(g) failed requests", recovery("failed"), at_most=0)
    yield Bar(
        "(g) ms until all are served, one connect left out",
        recovery("more than a connect"),
        at_most=50,
    )


def lease_bars():
    """A quick run has those of PostgreSQL."""
    for server in ("postgresql", "mariadb"):
        scenario = leases.Leases.scenario(server)
        text = f"(j) {scenario}: "

        def serving(rival, metric):
            return ("j", scenario, rival, metric)

        ours = serving(leases.TRANSACTION, "rate")
        yield Bar(
            f"{text}requests/s, {leases.TRANSACTION} / {leases.REQUEST_MANY}",
            ours,
            serving(leases.REQUEST_MANY, "rate"),
            at_least=0.9,
        )
        peak = serving(leases.TRANSACTION, "peak")
        yield Bar(text + "connections at once", peak, at_most=leases.FEW, worst=True)
        failed = serving(leases.TRANSACTION, "failed")
        yield Bar(text + "failed requests", failed, at_most=0, worst=True)
        if server == "mariadb":
            continue
        for rival in (leases.PGBOUNCER, leases.PGBOUNCER_PERSISTENT):
            for metric, limit in (("rate", {"at_least": 1}), ("p50", {"at_most": 1})):
                yield Bar(
                    f"{text}{metric}, {leases.TRANSACTION} / {rival}",
                    serving(leases.TRANSACTION, metric),
                    serving(rival, metric),
                    **limit,
                )
    for kind in leases.KINDS:
        for metric in ("wall", "cpu"):
            yield Bar(
                f"(j) {kind}: {metric}, lease transaction / lease request",
                ("j", leases.Leases.one_query, kind, f"{metric} ratio"),
                at_most=1.05,
            )


def asynchronous_bars():
    ours, stock = asynchronous.CONCURRENT, asynchronous.STOCK_POOL

    def both(scenario, metric, one=ours, other=stock):
        return [("k", scenario, rival, metric) for rival in (one, other)]

    took, _ = both(asynchronous.NAPS, "p50")
    text = f"(k) {asynchronous.NAPS}: ms"
    yield Bar(text, took, at_most=asynchronous.NAP * 1.1)

    text = f"(k) {asynchronous.SHORT}: "
    rates = both(asynchronous.SHORT, "rate")
    yield Bar(f"{text}requests/s, pool / {stock}", *rates, at_least=1)
    p99 = both(asynchronous.SHORT, "p99")
    yield Bar(f"{text}p99, pool / {stock}", *p99, at_most=1)
    peak, _ = both(asynchronous.SHORT, "peak")
    most = django_cycle.MAX_SIZE
    yield Bar(text + "connections at once", peak, at_most=most, worst=True)

    text = f"(k) {asynchronous.PAUSES}: "
    rates = both(asynchronous.PAUSES, "rate")
    yield Bar(f"{text}requests/s, pool / {stock}", *rates, at_least=5)
    for scenario in (asynchronous.SHORT, asynchronous.PAUSES):
        failed, _ = both(scenario, "failed")
        text = f"(k) {scenario}: failed requests"
        yield Bar(text, failed, at_most=0, worst=True)

    text = f"(k) {asynchronous.SERIAL}: wall, pool / {stock}"
    yield Bar(text, *both(asynchronous.SERIAL, "wall"), at_most=1.1)

    # A full run has the latter.
    for other, limit in ((asynchronous.NO_POOL, 1.3), (stock, 1)):
        text = f"(k) {asynchronous.SYNC_VIEW}: requests/s, pool / {other}"
        rates = both(asynchronous.SYNC_VIEW, "rate", asynchronous.OURS, other)
        yield Bar(text, *rates, at_least=limit)
