"""A short run of the ASGI scenarios on SQLite."""

import importlib.util
import subprocess
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
MATRIX = ROOT / "scripts" / "asgi_matrix"
MODULES = ["asgiref", "channels", "sqlparse", "uvicorn", "websockets"]


@unittest.skipUnless(
    all(map(importlib.util.find_spec, MODULES)),
    f"One of {', '.join(MODULES)} isn't installed.",
)
@unittest.skipUnless(
    (ROOT / "build" / "django" / "db" / "pool").is_dir(),
    "There's no assembled tree in build/.",
)
class MatrixTests(unittest.TestCase):
    def run_matrix(self, *arguments):
        return subprocess.run(
            [sys.executable, MATRIX, "--pause=0.03", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            timeout=300,
        )

    def test_no_scenario_loses_anything(self):
        # The one that's canceled has 40 places for that.
        result = self.run_matrix("--count=40")
        self.assertEqual(result.returncode, 0, result.stdout)
        self.assertIn("Nothing was lost or left.", result.stdout)

    def test_what_is_lost_is_found(self):
        result = self.run_matrix("--scenarios=leak", "--count=2")
        self.assertEqual(result.returncode, 1, result.stdout)
        self.assertIn("leak: 2 slots lost", result.stdout)

    def test_unknown_scenario(self):
        result = self.run_matrix("--scenarios=sync,nothing")
        self.assertEqual(result.returncode, 2, result.stdout)
        self.assertIn("There's no scenario nothing.", result.stdout)


if __name__ == "__main__":
    unittest.main()
