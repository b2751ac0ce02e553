"""Tests of the benchmarks. Nothing is installed for them."""

import asyncio
import contextlib
import io
import os
import socket
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import cli, documents, report, serving, web  # NOQA: E402
from benchmarks.bare import FLOOR, ONE_THREAD, OURS  # NOQA: E402
from benchmarks.bars import Bar, bars  # NOQA: E402
from benchmarks.cases import Workload  # NOQA: E402
from benchmarks.cpu import cpu_seconds  # NOQA: E402
from benchmarks.lab import Lab  # NOQA: E402
from benchmarks.measures import (  # NOQA: E402
    asynchronous,
    bare,
    instructions,
    leases,
    parts,
    timing,
    watch,
)
from benchmarks.measures.wire import Wire  # NOQA: E402
from benchmarks.results import Results, show  # NOQA: E402
from benchmarks.runner import run  # NOQA: E402

from pooltools import ToolError  # NOQA: E402


class FakeServer:
    name = "postgresql"
    settings = {"ENGINE": "django.db.backends.postgresql", "HOST": "", "NAME": "x"}


class FakeLab:
    """Enough of a Lab to list cases."""

    def __init__(self, quick):
        self.quick = quick
        self.stack = contextlib.ExitStack()

    def pick(self, quick, full):
        return quick if self.quick else full

    def server(self, name):
        return FakeServer


class FakeCase:
    def __init__(self, rival, figures, log):
        self.scenario = "somewhere"
        self.rival = rival
        self.figures = iter(figures)
        self.log = log

    def measure(self, lab):
        self.log.append(self.rival)
        figure = next(self.figures)
        if isinstance(figure, Exception):
            raise figure
        return {"speed": figure}


class FakeWorkload(Workload):
    letter = "x"
    title = "nothing in particular"
    columns = [("speed", "Speed", 1)]
    ratio = "speed"

    def __init__(self, *cases):
        self.all_cases = cases

    def cases(self, lab):
        return self.all_cases


def run_quietly(*args):
    with contextlib.redirect_stdout(io.StringIO()) as output:
        run(*args)
    return output.getvalue()


class RunnerTests(unittest.TestCase):
    def test_rounds_are_interleaved(self):
        log = []
        workload = FakeWorkload(
            FakeCase("a", [1, 2, 3], log), FakeCase("b", [4, 5, 6], log)
        )
        results = Results()
        run_quietly(workload, FakeLab(True), results, 3)
        self.assertEqual("".join(log), "ababab")
        values = results.values("x", "somewhere", "b", "speed")
        self.assertEqual(values, [4, 5, 6])

    def test_a_workload_has_its_own_number_of_rounds(self):
        for quick, number in ((True, 1), (False, 2)):
            log = []
            workload = FakeWorkload(FakeCase("a", [1, 2, 3], log))
            workload.rounds = (1, 2)
            results = Results()
            run_quietly(workload, FakeLab(quick), results, None)
            self.assertEqual(len(log), number)
            self.assertEqual(results.most_rounds(), number)

    def test_a_rival_that_fails_does_not_stop_the_others(self):
        log = []
        workload = FakeWorkload(
            FakeCase("a", [1, ToolError("It broke."), 3], log),
            FakeCase("b", [4, 5, 6], log),
        )
        results = Results()
        output = run_quietly(workload, FakeLab(True), results, 3)
        self.assertIn("FAILED", output)
        self.assertEqual("".join(log), "ababb")
        self.assertEqual(len(results.errors), 1)
        self.assertEqual(results.errors[0]["error"], "It broke.")


class ResultsTests(unittest.TestCase):
    def setUp(self):
        self.results = Results()
        log = []
        cases = FakeCase("ours", [1, 2, 9], log), FakeCase("other", [2, 8, 9], log)
        run_quietly(FakeWorkload(*cases), FakeLab(True), self.results, 3)
        self.ours = ("x", "somewhere", "ours", "speed")
        self.other = ("x", "somewhere", "other", "speed")

    def test_ratio_is_of_rounds_not_of_medians(self):
        ratio = self.results.ratio(self.other, self.ours)
        self.assertEqual((ratio.median, ratio.least, ratio.most), (2, 1, 4))

    def test_what_was_not_measured_has_no_median_and_no_ratio(self):
        missing = ("x", "somewhere", "nobody", "speed")
        self.assertIsNone(self.results.median(*missing))
        self.assertIsNone(self.results.ratio(self.ours, missing))
        bar = Bar("no bar", missing, at_most=1)
        self.assertEqual(bar.judge(self.results), (None, None))

    def test_saved_results_are_the_same_when_loaded(self):
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "results.json"
            self.results.save(file)
            loaded = Results.load(file)
        self.assertEqual(loaded.rounds, self.results.rounds)
        self.assertEqual(loaded.about, self.results.about)

    def test_bars_are_judged_by_the_median(self):
        below = Bar("", self.other, self.ours, at_most=2)
        self.assertIs(below.judge(self.results)[1], True)
        above = Bar("", self.other, self.ours, at_least=2.1)
        self.assertIs(above.judge(self.results)[1], False)
        alone = Bar("", self.ours, at_least=2)
        self.assertEqual(alone.judge(self.results), (2, True))

    def test_tables(self):
        workload = FakeWorkload()
        [(scenario, header, rows)] = report.table(workload, self.results)
        self.assertEqual(scenario, "somewhere")
        self.assertEqual(header, ["", "Speed", "Speed / ours's"])
        self.assertEqual(rows[0], ["ours", "2.0", "1 (1-1)"])
        self.assertEqual(rows[1], ["other", "8.0", "2 (1-4)"])
        lines = report.rst_table(header, rows)
        self.assertEqual(lines[0], lines[2])
        self.assertEqual(set(lines[0]), {"=", " "})

    def test_scenario_without_the_compared_metric_has_no_ratio(self):
        workload = FakeWorkload()
        workload.ratio = "distance"
        [(_, header, rows)] = report.table(workload, self.results)
        self.assertEqual(header, ["", "Speed"])
        self.assertEqual(rows[0], ["ours", "2.0"])

    def test_page_lists_workloads(self):
        workload = FakeWorkload()
        workload.about = "They are measured in the dark."
        page = documents.page(Results(), [workload])
        self.assertIn("* ``x``: nothing in particular.\n\n  They are", page)

    def test_page_says_which_limits_are_kept(self):
        results = Results()
        machine = {"cpus": 2, "processor": "x", "system": "y", "load": [0.1]}
        results.about.update(machine=machine, environments={}, servers={})
        for figure in (1, 3, 2):
            for rival, cpu in ((OURS, 1.7 * figure), (FLOOR, figure)):
                case = FakeCase(rival, [], [])
                case.scenario = ONE_THREAD
                results.add("a", case, {"cpu": cpu})
        [kept, exceeded] = [
            line for line in documents.page(results, []).splitlines() if "Lock)" in line
        ]
        self.assertRegex(kept, r"<= 3 +1\.7 \(1\.7-1\.7\) +ok$")
        self.assertRegex(exceeded, r"<= 1\.6 +1\.7 \(1\.7-1\.7\) +NOT MET$")

    def test_show(self):
        for number, text in [(0, "0"), (1.2345, "1.23"), (1234.5, "1234")]:
            with self.subTest(number=number):
                self.assertEqual(show(number), text)


class BarsTests(unittest.TestCase):
    def test_every_bar_is_about_something_that_is_measured(self):
        full, quick = self.measured(False), self.measured(True)
        # What takes too long for a quick run.
        left_out = set()
        for bar in bars():
            places = {where[:3] for where in (bar.one, bar.other) if where}
            with self.subTest(bar=bar.text):
                self.assertLessEqual(places, full)
            if not places <= quick:
                left_out.add(bar.one[0])
        self.assertEqual(left_out, {"e", "j", "k"})

    def measured(self, quick):
        lab = FakeLab(quick)
        with lab.stack:
            return {
                (letter, case.scenario, case.rival)
                for letter, workload in cli.WORKLOADS.items()
                for case in workload.cases(lab)
            }

    def test_a_bar_may_judge_the_worst_round(self):
        results = Results()
        for figures in ({"jain": 1}, {"jain": 0.5}, {"jain": 1}):
            results.add("b", FakeCase("ours", [], []), figures)
        where = ("b", "somewhere", "ours", "jain")
        self.assertEqual(Bar("", where, at_least=0.95).judge(results), (1, True))
        worst = Bar("", where, at_least=0.95, worst=True)
        self.assertEqual(worst.judge(results), (0.5, False))
        self.assertTrue(worst.is_about(results))
        self.assertFalse(Bar("", (*where[:2], "x", "jain")).is_about(results))

    def test_requests_by_turns_are_judged_instead_of_those_apart(self):
        judged = {bar.text: bar for bar in bars() if bar.one[0] == "e"}
        wsgi, asgi = (
            web.Requests.scenario("PostgreSQL", name) for name in web.INTERFACES
        )
        ours = web.django_cycle.OURS
        for rival in (web.django_cycle.PERSISTENT, web.django_cycle.STOCK_POOL):
            for metric in ("rate", "p99"):
                with self.subTest(rival=rival, metric=metric):
                    bar = judged[f"(e) {wsgi}: {metric}, pool / {rival}"]
                    pair = f"{ours} / {rival}"
                    place = ("e", f"{wsgi}, by turns", pair, f"{metric} ratio")
                    self.assertEqual((bar.one, bar.other), (place, None))
                    # Not with uvicorn.
                    bar = judged[f"(e) {asgi}: {metric}, pool / {rival}"]
                    self.assertEqual(bar.one, ("e", asgi, ours, metric))
                    self.assertEqual(bar.other, ("e", asgi, rival, metric))

    def test_an_unknown_workload_is_named(self):
        with contextlib.redirect_stderr(io.StringIO()) as output:
            with self.assertRaises(SystemExit):
                cli.parse(["a", "z"])
        self.assertIn("'z'", output.getvalue())


class LabTests(unittest.TestCase):
    def test_pgbouncer_may_have_few_connections(self):
        lab = Lab(None)
        lab.servers["postgresql"] = FakeServer
        few = lab.make_server("pgbouncer-transaction-4")
        self.assertEqual(few.mode, "transaction")
        self.assertIn("default_pool_size = 4", few.options)
        self.assertEqual(len(lab.make_server("pgbouncer-session").options), 1)


class MeasuresTests(unittest.TestCase):
    def test_jain(self):
        self.assertEqual(bare.jain([5, 5, 5, 5]), 1)
        self.assertEqual(bare.jain([5, 0, 0, 0]), 0.25)
        self.assertEqual(bare.jain([0, 0]), 0)

    def test_quantile(self):
        ordered = list(range(100))
        self.assertEqual(timing.quantile(ordered, 0.5), 50)
        self.assertEqual(timing.quantile(ordered, 0.99), 99)
        self.assertEqual(timing.quantile([], 0.5), 0)

    def test_time_loop_tells_sleep_from_work(self):
        def loop(n):
            for _ in range(n):
                time.sleep(0.005)

        figures = timing.time_loop(loop, 0.1)
        self.assertGreaterEqual(figures["wall"], 5000)
        self.assertLess(figures["cpu"], 2500)

    def test_contended_queue_serves(self):
        figures = bare.contend("queue.LifoQueue", 2, 4, 0.001, 0, 0.3)
        self.assertGreater(figures["throughput"], 10)
        # Two connections, a millisecond each.
        self.assertLessEqual(figures["throughput"], 2000)
        self.assertLessEqual(figures["jain"], 1)
        self.assertLessEqual(figures["paused"], figures["max"])
        self.assertLessEqual(figures["paused"], figures["pause"])

    def test_longest_pause(self):
        moments = [1.0, 2.0, 5.0, 5.5]
        for span, pause in (
            ((), 3.0),
            # Of what's longer, only the part within counts.
            ((3.0, 5.5), 2.0),
            ((0.0, 1.5), 0.5),
            ((5.1, 5.2), 0.1),
            ((6.0, 7.0), 0.0),
        ):
            with self.subTest(span=span):
                self.assertAlmostEqual(bare.longest_pause(moments, *span), pause)
        self.assertEqual(bare.longest_pause([1.0]), 0.0)

    def test_a_pause_is_told_from_a_wait(self):
        class Pool:
            """Serves nobody for a while, all at once afterwards."""

            def __init__(self):
                self.begin = time.perf_counter()

            def acquire(self):
                now = time.perf_counter() - self.begin
                if 0.1 < now < 0.3:
                    time.sleep(0.3 - now)
                else:
                    time.sleep(0.001)

            def release(self, handle):
                pass

        run = bare.contend_once(Pool(), 4, 0, 0, 0.5)
        longest, paused = run["longest"]
        self.assertGreater(longest, 0.15)
        self.assertGreater(paused, 0.15)
        self.assertGreater(run["pause"], 0.15)

    def test_parts_are_measured_without_their_loop(self):
        def least(statement):
            runs = [parts.measure(statement, {"clock": clock}, 0.02) for _ in range(9)]
            return min(run["cpu"] for run in runs)

        clock = time.monotonic
        once, nothing = least("clock()"), least("pass")
        self.assertLess(abs(nothing), once / 2)
        self.assertGreater(least("clock(); clock(); clock(); clock()"), 2 * once)

    @unittest.skipUnless(hasattr(sys, "monitoring"), "They are counted by CPython.")
    def test_instructions(self):
        def count(function):
            return instructions.count(function)["instructions"]

        def work(times):
            return lambda: [sum(()) for _ in range(times)]

        # The same number each time, and one that grows with what's done.
        self.assertEqual(count(work(10)), count(work(10)))
        growth = count(work(20)) - count(work(10))
        self.assertGreater(growth, 0)
        self.assertEqual(count(work(30)) - count(work(20)), growth)
        # Only this thread's.
        end = threading.Event()

        def run():
            while not end.is_set():
                pass

        thread = threading.Thread(target=run)
        thread.start()
        try:
            self.assertEqual(count(work(20)) - count(work(10)), growth)
        finally:
            end.set()
            thread.join()

    def test_one_thread(self):
        figures = bare.cycle(FLOOR, 8, 0.05)
        self.assertGreater(figures["cpu"], 0)


class FakeWatcher:
    """Sees as many connections as it's told, without a server."""

    def __init__(self, server):
        self.peak = server["peak"]

    def __enter__(self):
        return self

    def __exit__(self, *args):
        pass


class WatcherTests(unittest.TestCase):
    def test_the_most_is_kept_and_the_last_look_is_after_the_end(self):
        counts = iter([3, 1])
        inside = threading.Event()

        def count():
            number = next(counts, 2)
            inside.set()
            return number

        with mock.patch.object(watch, "postgresql", lambda database: count):
            watcher = watch.Watcher(FakeServer.settings)
        with watcher:
            inside.wait(10)
        self.assertFalse(watcher.thread.is_alive())
        self.assertEqual(watcher.peak, 3)
        counts = iter([7])
        with mock.patch.object(watch, "postgresql", lambda database: count):
            with watch.Watcher(FakeServer.settings) as watcher:
                pass
        self.assertEqual(watcher.peak, 7)


class LeasesTests(unittest.TestCase):
    def setUp(self):
        for name, value in (("set_up_site", mock.Mock()), ("Watcher", FakeWatcher)):
            self.enterContext(mock.patch.object(leases, name, value))

    def serve(self, request, **arguments):
        default = {"threads": 3, "pause": 0.001, "requests": 10, "seconds": 30}
        with mock.patch.object(leases, "request", request):
            return leases.serve({}, {"peak": 2}, **{**default, **arguments})

    def test_as_many_requests_as_wanted_are_served(self):
        request = mock.Mock(side_effect=time.sleep)
        figures = self.serve(request)
        self.assertEqual(request.call_count, 3 * leases.WARM_UP + 10)
        # Three at once, a millisecond each.
        self.assertGreater(figures["rate"], 0)
        self.assertLessEqual(figures["rate"], 3000)
        self.assertGreaterEqual(figures["p50"], 1)
        self.assertGreaterEqual(figures["p99"], figures["p50"])
        self.assertEqual((figures["failed"], figures["peak"]), (0, 2))

    def test_failed_requests_are_counted_and_not_timed(self):
        results = iter([None] * leases.WARM_UP + [OSError, None, OSError, None])
        request = mock.Mock(side_effect=results)
        figures = self.serve(request, threads=1, requests=4)
        self.assertEqual(figures["failed"], 2)
        self.assertEqual(request.call_count, leases.WARM_UP + 4)

    def test_it_ends_when_time_is_up(self):
        figures = self.serve(time.sleep, requests=10**9, seconds=0.05)
        self.assertGreater(figures["rate"], 0)

    def test_a_request_that_fails_before_the_start_hangs_nothing(self):
        with mock.patch("threading.excepthook"):
            with self.assertRaises(threading.BrokenBarrierError):
                self.serve(mock.Mock(side_effect=OSError))

    def test_one_query_compares_turns(self):
        databases = {}
        order = []

        def set_up(database, other):
            databases.update(default=database, other=other)

        def make_loop(kind, alias):
            def loop(n):
                order.append(alias)
                time.sleep(n * {"default": 0.002, "other": 0.001}[alias])

            return loop

        leases.set_up_site.side_effect = set_up
        with mock.patch.object(leases, "make_loop", make_loop):
            figures = leases.one_query(
                {"POOL": {"max_size": 4}}, ["transaction", "request"], "get()", 5, 0.1
            )
        self.assertEqual(
            {alias: settings["POOL"] for alias, settings in databases.items()},
            {
                "default": {"max_size": 4, "lease": "transaction"},
                "other": {"max_size": 4, "lease": "request"},
            },
        )
        # Both warm up, then each is the first of a turn by turns.
        self.assertEqual(order[:6], ["default", "other"] * 2 + ["other", "default"])
        self.assertGreaterEqual(figures["wall"], 2000)
        self.assertGreater(figures["wall ratio"], 1)
        self.assertIn("cpu ratio", figures)


class FakeSite:
    """What RequestsCase.site() has in a block."""

    def __init__(self, name):
        self.url = name
        self.process = mock.Mock(pid=name)


class TurnsTests(unittest.TestCase):
    def setUp(self):
        self.events = []
        # What they took before doesn't count.
        self.cpu = {"ours": 100.0, "other": 1.0}
        # The machine gets slower and slower. Ours takes half as long always.
        self.pace = 1.0
        for name, value in (("load", self.load), ("cpu_seconds", self.cpu.get)):
            self.enterContext(mock.patch.object(web, name, value))
        pair = []
        for name in self.cpu:
            case = web.RequestsCase("SQLite", "wsgi", name, None, {}, None)
            self.enterContext(mock.patch.object(case, "site", self.site(name)))
            self.enterContext(mock.patch.object(case, "prepare", self.prepare(name)))
            pair.append(case)
        self.case = web.TurnsCase(*pair)

    def prepare(self, name):
        return lambda lab: self.events.append(("prepare", name))

    def site(self, name):
        @contextlib.contextmanager
        def site(lab):
            self.events.append(("start", name))
            try:
                yield FakeSite(name)
            finally:
                self.events.append(("stop", name))

        return site

    def load(self, url, seconds, clients):
        self.events.append(("load", url))
        self.pace *= 0.9
        speed = self.pace * {"ours": 2.0, "other": 1.0}[url]
        self.cpu[url] += 1.0
        requests = 1000 * speed
        return {"rate": requests, "requests": requests, "p99": 1 / speed, "failed": 1}

    def test_each_is_the_first_by_turns(self):
        self.case.take_turns(FakeLab(quick=False), 3)
        self.assertEqual(
            self.events,
            [
                *(("prepare", name) for name in ("ours", "other")),
                *(("start", name) for name in ("ours", "other")),
                *(("load", name) for name in ("ours", "other", "other", "ours")),
                *(("load", name) for name in ("ours", "other")),
                *(("stop", name) for name in ("other", "ours")),
            ],
        )

    def test_ratios_are_those_of_pairs(self):
        figures = self.case.measure(FakeLab(quick=False))
        # Two loads of a pair are a tenth apart, in either direction.
        for metric, low, high in (("rate", 1.8, 2.3), ("client", 0.44, 0.56)):
            with self.subTest(metric=metric):
                self.assertGreater(figures[f"{metric} ratio"], low)
                self.assertLess(figures[f"{metric} ratio"], high)
        self.assertAlmostEqual(figures["p99 ratio"], 0.5, delta=0.06)
        self.assertGreater(figures["one rate"], figures["other rate"])
        loads = [event for event, _ in self.events].count("load")
        self.assertEqual(figures["failed"], loads)
        self.assertEqual(self.case.rival, "ours / other")

    def test_medians_are_those_of_ratios(self):
        def figures(number):
            return {"rate": number, "p99": number, "client": number, "failed": 0}

        # The ratio of the medians is 1.
        pairs = [(100, 100), (300, 150), (50, 10)]
        turns = [tuple(map(figures, pair)) for pair in pairs]
        with mock.patch.object(self.case, "take_turns", return_value=turns):
            measured = self.case.measure(FakeLab(quick=True))
        for metric in ("rate", "p99", "client"):
            with self.subTest(metric=metric):
                self.assertEqual(measured[f"{metric} ratio"], 2)
        self.assertEqual((measured["one rate"], measured["other rate"]), (100, 100))

    def test_the_first_of_a_pair_is_the_same_in_any_order(self):
        for first in (0, 1):
            for one, other in self.case.take_turns(FakeLab(quick=True), 2, first):
                self.assertGreater(one["rate"], other["rate"])

    def test_both_are_the_first_equally_often(self):
        self.case.measure(FakeLab(quick=False))
        for kind in ("start", "load"):
            with self.subTest(kind=kind):
                names = [name for event, name in self.events if event == kind]
                self.assertEqual(names[::2].count("ours"), names[::2].count("other"))

    def test_a_turn_without_an_answer_is_an_error(self):
        # As wrk has it.
        nothing = {"rate": 0.0, "requests": 0, "p99": 0.0, "failed": 0}
        with mock.patch.object(web, "load", return_value=nothing):
            with self.assertRaisesRegex(ToolError, "answered nothing"):
                self.case.measure(FakeLab(quick=True))

    def test_there_are_new_processes(self):
        for quick, starts in ((True, 4), (False, 8)):
            with self.subTest(quick=quick):
                self.events.clear()
                self.case.measure(FakeLab(quick))
                events = [event for event, _ in self.events]
                self.assertEqual(events.count("start"), starts)
                self.assertEqual(events.count("stop"), starts)

    def test_both_are_stopped_after_a_failure(self):
        with mock.patch.object(web, "load", side_effect=ToolError("wrk failed.")):
            with self.assertRaises(ToolError):
                self.case.measure(FakeLab(quick=True))
        stopped = {name for event, name in self.events if event == "stop"}
        self.assertEqual(stopped, {"ours", "other"})

    def test_a_bar_judges_the_median_of_the_rounds(self):
        results = Results()
        for ratio in (0.9, 1.0, 0.99):
            results.add("e", self.case, {"rate ratio": ratio})
        where = ("e", self.case.scenario, self.case.rival, "rate ratio")
        measured, ok = Bar("", where, at_least=0.98).judge(results)
        self.assertEqual(str(measured), "0.99 (0.9-1)")
        self.assertIs(ok, True)
        self.assertIs(Bar("", where, at_least=0.995).judge(results)[1], False)


class SiteTests(unittest.TestCase):
    """RequestsCase.site(), without a process."""

    def setUp(self):
        self.calls = mock.Mock()
        self.calls.Site.return_value = self.calls.site
        for name in ("Site", "load"):
            self.enterContext(mock.patch.object(web, name, getattr(self.calls, name)))
        self.case = web.RequestsCase("SQLite", "wsgi", "ours", None, {}, None)

    def names(self):
        return [name for name, *_ in self.calls.mock_calls if name != "Site"]

    def test_it_is_warmed_up_before_the_block_and_stopped_after_it(self):
        with self.case.site(mock.Mock()) as site:
            self.assertIs(site, self.calls.site)
            self.assertEqual(self.names(), ["site.start", "load"])
        self.assertEqual(self.names()[2:], ["site.stop"])

    def test_it_is_stopped_after_a_failure(self):
        def fail(*args):
            raise ToolError("It broke.")

        for where in ("start", "warm-up", "block"):
            with self.subTest(where=where):
                self.calls.reset_mock()
                self.calls.site.start.side_effect = fail if where == "start" else None
                self.calls.load.side_effect = fail if where == "warm-up" else None
                with self.assertRaises(ToolError):
                    with self.case.site(mock.Mock()):
                        fail()
                self.assertEqual(self.names()[-1], "site.stop")


class AsynchronousTests(unittest.TestCase):
    def setUp(self):
        self.paths = []
        self.at_once = self.most_at_once = 0
        for name, value in (
            ("make_application", lambda database: self.application),
            ("Watcher", FakeWatcher),
        ):
            self.enterContext(mock.patch.object(asynchronous, name, value))

    async def application(self, scope, receive, send):
        self.paths.append(scope["path"])
        self.assertFalse((await receive())["more_body"])
        # The client doesn't go away.
        disconnected = asyncio.ensure_future(receive())
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        # As many queries as the path says: without them, the loop that's timed
        # would grow for ever.
        _, kind, *number = scope["path"].split("/")
        await asyncio.sleep(0.001 * int(number[0]) if kind == "serial" else 0.001)
        self.at_once -= 1
        self.assertFalse(disconnected.done())
        disconnected.cancel()
        status = 500 if scope["path"] == "/broken/" else 200
        await send({"type": "http.response.start", "status": status})
        await send({"type": "http.response.body", "body": b""})

    def test_one_by_one(self):
        figures = asynchronous.one_by_one({}, "/naps/", 3)
        self.assertEqual(self.paths, ["/naps/"] * 4)
        self.assertEqual(self.most_at_once, 1)
        self.assertGreaterEqual(figures["p50"], 1)
        self.assertAlmostEqual(figures["rate"], 1e3 / figures["p50"])

    def test_together(self):
        figures = asynchronous.together({}, {"peak": 2}, "/page/", 4, 3)
        warm_up, measured = self.paths[:4], self.paths[4:]
        self.assertEqual(set(warm_up), {asynchronous.WARM_UP})
        self.assertEqual(measured, ["/page/"] * 12)
        self.assertEqual(self.most_at_once, 4)
        self.assertLessEqual(figures["rate"], 4000)
        self.assertEqual((figures["failed"], figures["peak"]), (0, 2))

    def test_failed_requests_are_counted_and_not_timed(self):
        figures = asynchronous.together({}, {"peak": 2}, "/broken/", 2, 3)
        self.assertEqual((figures["failed"], figures["rate"]), (6, 0))

    def test_a_failed_request_is_named(self):
        with self.assertRaisesRegex(asynchronous.RequestFailed, "/broken/.*500"):
            asynchronous.one_by_one({}, "/broken/", 3)

    def test_serial(self):
        with mock.patch.object(asynchronous, "SERIAL_BATCH", 0.01):
            figures = asynchronous.serial({}, "/serial/{}/", 0.05)
        self.assertIn("/serial/1/", self.paths)
        self.assertAlmostEqual(figures["rate"], 1e6 / figures["wall"])


class WireTests(unittest.TestCase):
    def test_answers_are_counted_however_they_arrive(self):
        with tempfile.TemporaryDirectory() as directory:
            server = socket.socket(socket.AF_UNIX)
            server.bind(str(Path(directory) / ".s.PGSQL.1"))
            server.listen()
            wire = Wire(directory, 1)
            client = socket.socket(socket.AF_UNIX)
            client.connect(str(Path(wire.directory) / ".s.PGSQL.1"))
            session, _ = server.accept()
            client.sendall(b"query")
            self.assertEqual(session.recv(5), b"query")
            ready = b"Z\0\0\0\5I"
            # A row that looks like it, and one in two parts.
            row = b"D\0\0\0\x0aZ\0\0\0\5I"
            answer = row + ready + ready
            for part in (answer[:-3], answer[-3:]):
                session.sendall(part)
                received = b""
                while len(received) < len(part):
                    received += client.recv(100)
            self.assertEqual(wire.trips, 2)
            self.assertEqual(wire.sessions, 1)
            for connection in (client, session, server):
                connection.close()


WRK = """\
Running 3s test @ http://127.0.0.1:8000/sync/
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    33.46ms    6.94ms  97.09ms   89.55%
    Req/Sec   480.87     34.79   530.00     80.00%
  Latency Distribution
     50%   32.39ms
     75%   35.29ms
     90%   39.64ms
     99%    1.05s
  1437 requests in 3.00s, 403.98KB read
  Socket errors: connect 1, read 2, write 0, timeout 4
  Non-2xx or 3xx responses: 10
Requests/sec:    478.60
Transfer/sec:    134.55KB
"""


class ServingTests(unittest.TestCase):
    def test_wrk_is_understood(self):
        figures = serving.parse(WRK)
        self.assertEqual(figures["rate"], 478.6)
        self.assertEqual(figures["requests"], 1437)
        self.assertEqual(figures["failed"], 17)
        self.assertEqual(figures["p50"], 32.39)
        self.assertEqual(figures["p99"], 1050)

    @unittest.skipUnless(os.path.isdir("/proc/self"), "needs /proc")
    def test_cpu_of_threads_and_ended_children_counts(self):
        before = cpu_seconds(os.getpid())
        thread = threading.Thread(target=burn)
        thread.start()
        thread.join()
        self.assertGreaterEqual(cpu_seconds(os.getpid()) - before, 0.1)
        before = cpu_seconds(os.getpid())
        child = os.fork()
        if not child:
            burn()
            os._exit(0)
        os.waitpid(child, 0)
        self.assertGreaterEqual(cpu_seconds(os.getpid()) - before, 0.1)


def burn(seconds=0.2):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


if __name__ == "__main__":
    unittest.main()
