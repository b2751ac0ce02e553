"""
Processes that end while they have connections, with a server that answers
and with one that doesn't any more.
"""

import itertools
import sys
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from chaos_campaign.proxy import Proxy  # NOQA: E402
from hosts.cases import HostTestCase, needs  # NOQA: E402

from pooltools.processes import wait_until  # NOQA: E402

SITUATIONS = [
    "idle",
    "borrowed",
    "transaction",
    "unread",
    "executor",
    "resetting",
    "connecting",
]
WAYS = {"return": 0, "exit": 3, "exception": 1, "sigterm": 0}
RETURNS = [(situation, "return") for situation in SITUATIONS]
EVERYTHING = RETURNS + [
    (situation, way)
    for situation in ["idle", "borrowed"]
    for way in ["exit", "exception", "sigterm"]
]

# Seconds that the pool may take, and those that Python takes to end on a
# machine that has other things to do too.
LIMIT = 2 + 2


class ExitTests(HostTestCase):
    pairs = EVERYTHING

    def start_all(self, pairs, **changes):
        """Start processes. Return them by situation and way, when all wait."""
        processes = {
            pair: self.start("-m", "hosts.ending", *pair, **changes) for pair in pairs
        }
        for pair, process in processes.items():
            line = process.stdout.readline()
            self.assertEqual(line, "ready\n", f"{pair}: {self.errors}")
        return processes

    def end_all(self, processes):
        late = []
        # A few at a time: the pool's limit is no limit of the machine's.
        for some in itertools.batched(processes.items(), 3):
            for _, process in some:
                process.stdin.write("\n")
                process.stdin.flush()
            end = time.monotonic() + LIMIT
            for pair, process in some:
                while process.poll() is None and time.monotonic() < end:
                    time.sleep(0.01)
                if process.poll() is None:
                    late.append(pair)
                else:
                    self.assertEqual(process.returncode, WAYS[pair[1]], pair)
        self.assertEqual(late, [], self.errors)
        # Nothing else is printed than what is Python's to say.
        lines = [line for line in self.errors.splitlines() if "Traceback" in line]
        exceptions = [pair for pair in processes if pair[1] == "exception"]
        self.assertEqual(len(lines), len(exceptions), self.errors)
        self.assertNotRegex(self.errors, "ignored|ResourceWarning|django.db.pool")

    def test_server_that_answers(self):
        processes = self.start_all(self.pairs)
        self.end_all(processes)
        self.check_sessions_are_gone()

    def test_frozen_server(self):
        processes = self.start_all(RETURNS)
        stopped = self.server.freeze()
        try:
            self.end_all(processes)
        finally:
            self.server.thaw(stopped)
        # They are gone when the server gets to read that.
        self.assertTrue(wait_until(lambda: not self.server.sessions(), 10))

    def test_network_that_is_gone(self):
        with Proxy(self.server.port) as proxy:
            processes = self.start_all(RETURNS, HOST="127.0.0.1", PORT=str(proxy.port))
            proxy.tell("hole")
            try:
                self.end_all(processes)
            finally:
                proxy.tell("heal")
        # What the server says of them belongs to no other test.
        self.assertTrue(wait_until(lambda: not self.server.sessions(), 10))


@needs("MySQLdb")
class MariaDBExitTests(ExitTests):
    database = "mariadb"
    pairs = RETURNS
    # A frozen server is the same to the client.
    test_network_that_is_gone = None


if __name__ == "__main__":
    unittest.main()
