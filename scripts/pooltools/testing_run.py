"""Run Django's runtests.py, and compare with the untouched Django."""

import io
import json
import os
import re
import signal
import subprocess
import tarfile
from pathlib import Path

from .processes import ends_with_parent, stop_group, tail
from .testing_report import Outcome
from .tree_git import Git

SETTINGS = Path(__file__).resolve().parent.parent / "settings"


class Runner:
    """
    Runs labels of the assembled tree in variants. ``directory`` is a
    temporary one, and ``servers`` are those that are running, by name.
    """

    def __init__(self, python, tree, directory, servers, parallel=2):
        self.python = python
        self.tree = tree
        self.directory = directory
        # Where logs and outcomes are written to.
        self.logs = directory
        self.servers = servers
        self.parallel = parallel

    def run(self, variant, labels, time_limit):
        """
        Return the outcome. What fails is run once more on Django without
        patches and pool: if it fails there, too, it isn't our failure. What
        still differs is run alone in both: some tests depend on their company
        or on luck.
        """
        name = re.sub(r"\W+", "-", str(variant))
        outcome = self.run_tree(self.tree, variant, labels, time_limit, name)
        # In the same company, since some tests fail only with others.
        suspects = {top_label(test) for test in outcome.failed}
        base_labels = [x for x in sorted(suspects) if self.base_has(x)]
        if not base_labels:
            return outcome
        off = variant._replace(pool=False)
        base = self.run_tree(self.base(), off, base_labels, time_limit, f"{name}-base")
        for test in base.failed:
            if outcome.failed.pop(test, None) is not None:
                outcome.environment.add(test)
        alone = {own_label(test): test for test in outcome.failed}
        labels = [label for label in sorted(alone) if self.base_has(top_label(label))]
        if labels:
            ours = self.run_tree(self.tree, variant, labels, time_limit, f"{name}-2")
            base = self.run_tree(self.base(), off, labels, time_limit, f"{name}-2-base")
            for label in labels:
                self.judge_again(alone[label], outcome, ours, base)
        return outcome

    def judge_again(self, test, outcome, ours, base):
        """Excuse a failed test that is the same in both when run alone."""
        if test in ours.failed and test in base.failed:
            outcome.environment.add(test)
        elif passed(test, ours) and passed(test, base):
            outcome.unsteady.add(test)
        else:
            return
        del outcome.failed[test]

    def run_tree(self, tree, variant, labels, time_limit, name):
        log = self.logs / f"{name}.log"
        results = self.logs / f"{name}.jsonl"
        command = [
            self.python,
            tree / "tests" / "runtests.py",
            f"--settings=pool_{variant.database}",
            f"--parallel={self.parallel}",
            "--noinput",
            *variant.options,
            *labels,
        ]
        with open(log, "wb") as stream:
            process = subprocess.Popen(
                ends_with_parent(map(str, command)),
                cwd=self.working_directory(),
                env=self.environment(tree, variant, results),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
            problem = wait(process, time_limit)
        outcome, finished = read_results(results)
        if not finished:
            problem = problem or f"ended with status {process.returncode}"
            lines = [f"The run {problem}. The end of its log:", *tail(log, 100)]
            reason = {f"the run of {variant}": "\n".join(lines)}
            # First, since it explains the rest.
            outcome.failed = {**reason, **outcome.failed}
            self.clean_up(variant)
        return outcome

    def environment(self, tree, variant, results):
        """Return the variables that scripts/settings reads."""
        unwanted = ("POOL_", "DJANGO_", "PG", "PYTHON", "PSYCOPG")
        env = {k: v for k, v in os.environ.items() if not k.startswith(unwanted)}
        for server in self.servers.values():
            env.update(server.environment)
        env["PYTHONPATH"] = os.pathsep.join([str(tree), str(SETTINGS)])
        env["POOL_TEST_RESULTS"] = str(results)
        env["POOL_TEST_DRIVER"] = variant.driver
        if variant.driver == "psycopg-python":
            env["PSYCOPG_IMPL"] = "python"
        if variant.pool:
            env["POOL_TEST_POOL"] = json.dumps(variant.pool_options)
        return env

    def working_directory(self):
        """Return a directory in which no label is the name of a file."""
        directory = self.directory / "cwd"
        directory.mkdir(exist_ok=True)
        return directory

    def clean_up(self, variant):
        """End the sessions of a run that was killed."""
        server = self.servers.get(variant.database)
        if server is not None:
            server.kill_sessions()

    def base_has(self, label):
        return (self.base() / "tests" / label / "__init__.py").is_file()

    def base(self):
        """Return the directory of the untouched Django, made on first use."""
        directory = self.directory / "base"
        if not directory.exists():
            archive = Git(self.tree)("archive", "--format=tar", "base")
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                tar.extractall(directory)
        return directory


def wait(process, time_limit):
    """Wait for a run; return what was wrong with it, if anything."""
    try:
        process.wait(time_limit)
        return None
    except subprocess.TimeoutExpired:
        # The signal that makes Python print the stacks of all threads.
        stop_group(process, signal.SIGABRT)
        return f"took more than {time_limit} seconds and was stopped"
    finally:
        stop_group(process)


def read_results(file):
    """Return the outcome that pool_runner wrote, and whether it's complete."""
    if not file.exists():
        return Outcome(), False
    tests, finished = {}, False
    for line in file.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            # The run was killed while it wrote.
            break
        if record.get("finished"):
            finished = True
            continue
        known = tests.get(record["id"])
        # A test with a failed subtest has failed, whatever comes after.
        if known is None or known[0] != "failed":
            tests[record["id"]] = record["outcome"], record["details"]
    outcome = Outcome(
        (test for test, (name, _) in tests.items() if name == "passed"),
        {test: text for test, (name, text) in tests.items() if name == "failed"},
        (test for test, (name, _) in tests.items() if name == "skipped"),
    )
    return outcome, finished


def own_label(test):
    """Return the label that runs a test, and as little else as possible."""
    # "setUpClass (backends.tests.Tests)" stands for the class, and
    # "unittest.loader._FailedTest.backends" for a module.
    return re.sub(r"^\w+ \(|\)$|^unittest\.loader\._FailedTest\.", "", test)


def top_label(test):
    """Return the label of the app whose test it is."""
    return own_label(test).partition(".")[0]


def passed(test, outcome):
    if test in outcome.passed:
        return True
    # What a class does before its tests isn't recorded if it works.
    label = own_label(test)
    return label != test and any(x.startswith(f"{label}.") for x in outcome.passed)
