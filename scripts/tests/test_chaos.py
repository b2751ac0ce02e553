"""A short run of the fault campaign on each database."""

import subprocess
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pooltools.server_mariadb import MariaDB  # NOQA: E402
from pooltools.server_postgresql import PostgreSQL  # NOQA: E402

ROOT = Path(__file__).resolve().parent.parent.parent
CHAOS = ROOT / "scripts" / "chaos"

# Those that tell most in little time. scripts/chaos has more.
FAULTS = [
    "kill-idle",
    "restart-immediate",
    "kill-all",
    "black-hole",
    "rotation",
    "exhausted",
    "cut",
    "freeze",
]


class ChaosTestsMixin:
    def setUp(self):
        if self.server_class().find_programs():
            self.skipTest(f"{self.database} isn't installed")
        if not (ROOT / "build" / "django" / "db" / "pool").is_dir():
            self.skipTest("there's no assembled tree in build/")

    def run_campaign(self, *arguments):
        return subprocess.run(
            [
                sys.executable,
                CHAOS,
                f"--database={self.database}",
                "--seed=7",
                "--timeout=2",
                *arguments,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            timeout=300,
        )

    def test_no_fault_loses_anything(self):
        result = self.run_campaign("--seconds=25", f"--faults={','.join(FAULTS)}")
        self.assertEqual(result.returncode, 0, result.stdout)
        self.assertIn("No violations.", result.stdout)

    def test_violations_are_found(self):
        # The campaign is told less than the pool.
        result = self.run_campaign(
            "--seconds=2", "--faults=kill-idle", "--max-size=3", '--pool={"max_size":7}'
        )
        self.assertEqual(result.returncode, 1, result.stdout)
        self.assertRegex(result.stdout, "sessions on the server for over .* 3 are")
        self.assertRegex(result.stdout, "open sockets for over .* 3 are")


class PostgreSQLChaosTests(ChaosTestsMixin, unittest.TestCase):
    database = "postgresql"
    server_class = PostgreSQL


class MariaDBChaosTests(ChaosTestsMixin, unittest.TestCase):
    database = "mariadb"
    server_class = MariaDB


class ArgumentTests(unittest.TestCase):
    def assertRefused(self, message, *arguments):
        result = subprocess.run(
            [sys.executable, CHAOS, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )
        self.assertEqual(result.returncode, 2)
        self.assertIn(message, result.stderr)

    def test_unknown_database(self):
        self.assertRefused("nonsense", "--database=nonsense")

    def test_driver_of_another_database(self):
        self.assertRefused(
            "psycopg2 is no driver for mariadb",
            "--database=mariadb",
            "--driver=psycopg2",
        )


if __name__ == "__main__":
    unittest.main()
