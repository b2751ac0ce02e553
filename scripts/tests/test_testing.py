"""Tests of the parts of scripts/test and scripts/demo that decide things."""

import contextlib
import io
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pooltools import (  # NOQA: E402
    ToolError,
    demo_load,
    packages,
    pythons,
    testing,
    testing_plan,
)
from pooltools.envs import Environment, read_requirements  # NOQA: E402
from pooltools.testing_report import Outcome, Report  # NOQA: E402
from pooltools.testing_run import Runner, read_results, top_label  # NOQA: E402


class PlanTests(unittest.TestCase):
    def titles(self, *arguments):
        return [step.title for step in testing.plan(testing.parse(arguments))]

    def test_default_is_everything(self):
        titles = self.titles()
        self.assertEqual(titles[:2], ["patches, tree and style", "tests of the tools"])
        for database, drivers in testing_plan.DRIVERS.items():
            if database == testing_plan.PGBOUNCER:
                continue
            for driver in drivers:
                name = f"{database} {driver}" if len(drivers) > 1 else database
                self.assertIn(f"{name}, pool on", titles)
        # With the pool off, one driver is enough.
        off = [title for title in titles if title.endswith("pool off")]
        self.assertEqual(len(off), len(testing_plan.DATABASES) - 1)

    def test_pgbouncer(self):
        title = "pgbouncer, pool on, lease transaction"
        self.assertIn(title, self.titles())
        self.assertIn(title, self.titles("--full"))
        self.assertNotIn(title, self.titles("--pool=off"))
        self.assertEqual(self.titles("--database=pgbouncer"), [title])
        [variant] = testing_plan.variants(["pgbouncer"])
        # All of Django's tests is too much for it.
        self.assertEqual(variant.labels(full=True), testing_plan.PGBOUNCER_LABELS)
        self.assertIn("--keepdb", variant.options)
        [variant] = testing_plan.variants(["sqlite"], pools=[True])
        self.assertEqual((variant.labels(full=True), variant.options), ([], []))

    def test_options_choose(self):
        self.assertEqual(
            self.titles("--driver=psycopg2", "--pool=both"),
            ["postgresql psycopg2, pool on", "postgresql psycopg2, pool off"],
        )
        self.assertEqual(
            self.titles("--database=sqlite", "--pool=on", "basic"), ["sqlite, pool on"]
        )
        self.assertEqual(
            self.titles("--full", "--database=mariadb"),
            ["mariadb mysqlclient, pool on", "mariadb mysqlclient, pool off"],
        )

    def test_driver_of_another_database(self):
        with self.assertRaises(SystemExit):
            self.titles("--driver=pymysql", "--database=sqlite")


class ResultsTests(unittest.TestCase):
    def read(self, *records):
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "results"
            lines = (x if isinstance(x, str) else json.dumps(x) for x in records)
            file.write_text("\n".join(lines))
            return read_results(file)

    def record(self, test, outcome):
        return {"id": test, "outcome": outcome, "details": "why"}

    def test_outcomes(self):
        outcome, finished = self.read(
            self.record("a", "passed"),
            self.record("b", "failed"),
            self.record("c", "skipped"),
            {"finished": True},
        )
        self.assertTrue(finished)
        self.assertEqual(outcome.passed, {"a"})
        self.assertEqual(outcome.failed, {"b": "why"})
        self.assertEqual(outcome.skipped, {"c"})

    def test_failed_subtest_fails_the_test(self):
        records = [self.record("a", "failed"), self.record("a", "passed")]
        outcome, _ = self.read(*records, {"finished": True})
        self.assertEqual(outcome.passed, set())
        self.assertEqual(list(outcome.failed), ["a"])

    def test_killed_run_is_not_finished(self):
        outcome, finished = self.read(self.record("a", "passed"), '{"id": "b", "ou')
        self.assertFalse(finished)
        self.assertEqual(outcome.passed, {"a"})

    def test_run_that_wrote_nothing(self):
        outcome, finished = read_results(Path("/nonexistent/results"))
        self.assertFalse(finished)

    def test_top_label(self):
        tests = {
            "backends.tests.Tests.test_it": "backends",
            "setUpClass (backends.tests.Tests)": "backends",
            "unittest.loader._FailedTest.backends": "backends",
            "unittest.loader._FailedTest.backends.base": "backends",
        }
        for test, label in tests.items():
            with self.subTest(test=test):
                self.assertEqual(top_label(test), label)


class FakeRunner(Runner):
    """Has its outcomes told, in the place of running anything."""

    def __init__(self, directory, *outcomes):
        super().__init__("python", directory, directory, {})
        self.outcomes = list(outcomes)
        self.calls = []

    def run_tree(self, tree, variant, labels, time_limit, name):
        self.calls.append((variant.pool, labels))
        return self.outcomes.pop(0)

    def base(self):
        return self.directory


class LeaseTests(unittest.TestCase):
    def test_the_lease_is_part_of_the_title_and_of_the_options(self):
        chosen = testing_plan.variants(["sqlite"], lease="transaction")[0]
        self.assertEqual(str(chosen), "sqlite, pool on, lease transaction")
        self.assertEqual(chosen.pool_options["lease"], "transaction")
        usual = testing_plan.variants(["sqlite"])[0]
        self.assertEqual(str(usual), "sqlite, pool on")
        self.assertNotIn("lease", usual.pool_options)


class EnvironmentFailuresTests(unittest.TestCase):
    def run_variant(self, *outcomes):
        variant = testing_plan.Variant("sqlite", "sqlite3", True)
        with tempfile.TemporaryDirectory() as directory:
            app = Path(directory) / "tests" / "app"
            app.mkdir(parents=True)
            (app / "__init__.py").touch()
            runner = FakeRunner(Path(directory), *outcomes)
            return runner.run(variant, ["app", "ours"], 1), runner.calls

    def test_what_fails_in_the_base_is_no_failure(self):
        outcome, calls = self.run_variant(
            Outcome(failed={"app.A.ours": "x", "app.A.theirs": "x"}),
            Outcome(failed={"app.A.theirs": "x", "app.A.other": "x"}),
            Outcome(failed={"app.A.ours": "x"}),
            Outcome(["app.A.ours"]),
        )
        self.assertEqual(list(outcome.failed), ["app.A.ours"])
        self.assertEqual(outcome.environment, {"app.A.theirs"})
        self.assertEqual(calls[:2], [(True, ["app", "ours"]), (False, ["app"])])

    def test_what_differs_is_run_alone(self):
        failed = {"app.A.ours": "x", "app.A.unsteady": "x", "app.A.alone": "x"}
        outcome, calls = self.run_variant(
            Outcome(failed={**failed, "setUpClass (app.B)": "x"}),
            Outcome(["app.A.ours", "app.A.unsteady", "app.A.alone", "app.B.b"]),
            Outcome(
                ["app.A.unsteady", "app.B.b"],
                {"app.A.ours": "x", "app.A.alone": "x"},
            ),
            Outcome(["app.A.ours", "app.A.unsteady", "app.B.b"], {"app.A.alone": "x"}),
        )
        self.assertEqual(list(outcome.failed), ["app.A.ours"])
        self.assertEqual(outcome.environment, {"app.A.alone"})
        self.assertEqual(outcome.unsteady, {"app.A.unsteady", "setUpClass (app.B)"})
        labels = ["app.A.alone", "app.A.ours", "app.A.unsteady", "app.B"]
        self.assertEqual(calls[2:], [(True, labels), (False, labels)])

    def test_what_was_not_run_again_has_failed(self):
        outcome, calls = self.run_variant(
            Outcome(failed={"app.A.ours": "x"}),
            Outcome(["app.A.ours"]),
            Outcome(),
            Outcome(["app.A.ours"]),
        )
        self.assertEqual(list(outcome.failed), ["app.A.ours"])

    def test_our_own_tests_are_not_compared(self):
        outcome, calls = self.run_variant(Outcome(failed={"ours.A.test": "x"}))
        self.assertEqual(list(outcome.failed), ["ours.A.test"])
        self.assertEqual(len(calls), 1)


class WorkingDirectoryTests(unittest.TestCase):
    def test_no_label_is_a_directory_there(self):
        """There's an app "base" among Django's tests."""
        with tempfile.TemporaryDirectory() as directory:
            runner = Runner("python", Path(directory), Path(directory), {})
            (Path(directory) / "base").mkdir()
            self.assertEqual(list(runner.working_directory().iterdir()), [])


class ReportTests(unittest.TestCase):
    def finish(self, *outcomes):
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            report = Report(len(outcomes))
            for number, outcome in enumerate(outcomes):
                report.begin(f"step {number}")
                report.end(outcome)
            status = report.finish()
        return status, output.getvalue()

    def test_totals(self):
        second = Outcome(["c"], {}, ["d"])
        second.environment = {"e"}
        status, output = self.finish(Outcome(["a", "b"]), second)
        self.assertEqual(status, 0)
        self.assertEqual(output.splitlines()[-1], "3 passed, 0 failed, 2 skipped")
        self.assertIn("e (step 1)", output)

    def test_failure(self):
        status, output = self.finish(Outcome(["a"]), Outcome(failed={"b": "because"}))
        self.assertEqual(status, 1)
        self.assertEqual(output.splitlines()[-1], "1 passed, 1 failed, 0 skipped")
        self.assertIn("because", output)

    def test_nothing_run_is_no_success(self):
        self.assertEqual(self.finish(Outcome())[0], 1)


class PythonsTests(unittest.TestCase):
    def find(self, *versions):
        found = {f"python{n}": (v, f"python{n}") for n, v in enumerate(versions)}
        with (
            mock.patch.object(pythons, "candidates", lambda: found),
            mock.patch.object(pythons, "probe", found.get),
            mock.patch.object(pythons, "unique", list),
        ):
            return found[pythons.find_python()][0]

    def test_newest_known_one(self):
        self.assertEqual(self.find((3, 12, 4), (3, 13, 1), (3, 11, 9)), (3, 13, 1))
        self.assertEqual(self.find((3, 12, 4), (3, 99, 0)), (3, 12, 4))
        self.assertEqual(self.find((3, 99, 0)), (3, 99, 0))

    def test_none(self):
        with self.assertRaisesRegex(ToolError, "uv python install"):
            self.find((3, 11, 9))

    def test_unusable_one_that_was_named(self):
        with self.assertRaisesRegex(ToolError, "/nonexistent/python"):
            pythons.find_python("/nonexistent/python")


class EnvironmentTests(unittest.TestCase):
    def test_current_until_something_changes(self):
        with tempfile.TemporaryDirectory() as directory:
            environment = Environment(Path(directory), ".venv", "python3")
            environment.python.parent.mkdir(parents=True)
            environment.python.touch()
            self.assertFalse(environment.is_current(["a"]))
            environment.complete(["a"])
            self.assertTrue(environment.is_current(["a"]))
            self.assertFalse(environment.is_current(["a", "b"]))
            environment.base_python = "python4"
            self.assertFalse(environment.is_current(["a"]))

    def test_requirements(self):
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("# Words.\n\nasgiref>=3  # More words.\n")
            file.flush()
            self.assertEqual(read_requirements(file.name), ["asgiref>=3"])


class PackagesTests(unittest.TestCase):
    def install(self, *results):
        runs = [subprocess.CompletedProcess((), x, stdout="said") for x in results]
        with (
            mock.patch("os.getuid", return_value=0),
            mock.patch("shutil.which", return_value="apt-get"),
            mock.patch.object(
                packages, "services_stay_stopped", contextlib.nullcontext
            ),
            mock.patch.object(packages, "apt_get", side_effect=runs) as apt_get,
            contextlib.redirect_stdout(io.StringIO()),
        ):
            packages.install(["name"], "It is needed.")
        return [call.args[0][1] for call in apt_get.call_args_list]

    def test_lists_are_updated_if_needed(self):
        self.assertEqual(self.install(0), ["install"])
        self.assertEqual(self.install(100, 0, 0), ["install", "update", "install"])

    def test_failure(self):
        with self.assertRaisesRegex(ToolError, "It is needed.*name(.|\n)*said"):
            self.install(100, 0, 100)

    def test_services_stay_stopped(self):
        with tempfile.TemporaryDirectory() as directory:
            policy = Path(directory) / "policy-rc.d"
            with mock.patch.object(packages, "POLICY", str(policy)):
                with packages.services_stay_stopped():
                    self.assertEqual(subprocess.call([str(policy)]), 101)
                self.assertFalse(policy.exists())
                policy.write_text("somebody's")
                with packages.services_stay_stopped():
                    self.assertEqual(policy.read_text(), "somebody's")
                self.assertTrue(policy.exists())


class LoadTests(unittest.TestCase):
    def test_percentile(self):
        self.assertEqual(demo_load.percentile([], 50), 0.0)
        self.assertEqual(demo_load.percentile([1], 99), 1)
        self.assertEqual(demo_load.percentile(list(range(1, 101)), 50), 50)
        self.assertEqual(demo_load.percentile(list(range(1, 101)), 99), 99)

    def test_site_that_is_down(self):
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            demo_load.main(port=1, seconds=0.1, clients=2)
        result = json.loads(output.getvalue())
        self.assertEqual(result["requests"], 0)
        self.assertEqual(result["failed"], 2)
