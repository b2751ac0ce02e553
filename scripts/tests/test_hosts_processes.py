"""
The pool in processes that are forked, spawned or started again: those of
multiprocessing, Celery's workers, and runserver's.
"""

import json
import os
import signal
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from hosts.cases import HostTestCase, needs  # NOQA: E402

from pooltools.processes import wait_until  # NOQA: E402


class MultiprocessingTests(HostTestCase):
    def check_method(self, method):
        self.start("-m", "hosts.processes", method)
        output, _ = self.process.communicate(timeout=60)
        self.assertEqual(self.process.returncode, 0, self.errors)
        before, held, after, found, codes = json.loads(output)
        self.assertEqual(codes, [0, 0, 0], self.errors)
        # The parent's lease goes on, on the session that it had before.
        self.assertEqual(after, held)
        self.assertEqual(before, held)
        for first, second in found:
            self.assertEqual(first, second)
        sessions = [first[1] for first, _ in found]
        self.assertEqual(len({*sessions, held[1]}), 4)
        self.check_end(None)

    @unittest.skipUnless(hasattr(os, "fork"), "needs fork()")
    def test_fork(self):
        self.check_method("fork")

    @unittest.skipUnless(hasattr(os, "fork"), "needs fork()")
    def test_forkserver(self):
        self.check_method("forkserver")

    def test_spawn(self):
        self.check_method("spawn")


@needs("MySQLdb")
class MariaDBMultiprocessingTests(MultiprocessingTests):
    database = "mariadb"
    # Once is enough for these.
    test_forkserver = None
    test_spawn = None


@needs("celery")
class CeleryTests(HostTestCase):
    def work(self, pool, *options):
        """Start a worker. Return what its tasks answer."""
        results = self.directory / "results"
        results.mkdir()
        self.start("-m", "hosts.queue", pool, str(results), *options)
        done = wait_until((results / "done").exists, 50, self.process)
        self.assertTrue(done, self.errors)
        answers = [json.loads(f.read_text()) for f in results.glob("*.json")]
        self.assertEqual(len(answers), 20, self.errors)
        return answers

    def check_pool(self, pool):
        answers = self.work(pool)
        self.check_workers(answers, workers=2 if pool == "prefork" else 0)
        self.check_end()

    def test_prefork(self):
        self.check_pool("prefork")

    def test_processes_that_are_replaced(self):
        answers = self.work("prefork", "--max-tasks-per-child=3")
        self.assertGreater(len({pid for pid, _ in answers}), 2)
        self.check_end()

    def test_threads(self):
        self.check_pool("threads")


@needs("MySQLdb")
class MariaDBCeleryTests(CeleryTests):
    database = "mariadb"
    test_threads = None


class RunserverTests(HostTestCase):
    """The reloader's process, and the one that serves until a file changes."""

    def start_site(self):
        self.module = self.directory / "changing.py"
        self.module.write_text("from hosts.site import urlpatterns\n")
        arguments = ["-m", "django", "runserver", "{port}", "--verbosity=0"]
        return self.serve(*arguments, urls="changing")

    def test_reload(self):
        """The sessions of the process that ends, end with it."""
        answers = self.start_site()
        self.check_workers(answers, workers=1)
        before, _ = answers[0]
        sessions = {session for _, session in answers}
        # A later time than the one that the reloader has seen.
        later = self.module.stat().st_mtime + 10
        os.utime(self.module, (later, later))
        # Requests that use the database would be cut off in the middle.
        changed = self.wait_for_answer("process", lambda answer: answer[0] != before)
        self.assertTrue(changed, self.errors)
        # A process may be gone before its server has noticed.
        gone = wait_until(lambda: not sessions & set(self.server.sessions()), 5)
        self.assertTrue(gone, f"Of {sessions} some are in {self.server.sessions()}")
        self.assertEqual(self.impolite_ends(), [])
        self.interrupt()

    def test_interrupt(self):
        self.start_site()
        self.interrupt()

    def interrupt(self):
        """Do what Ctrl-C in a terminal does."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.check_end(None)


if __name__ == "__main__":
    unittest.main()
