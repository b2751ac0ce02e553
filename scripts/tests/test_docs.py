"""
Tests that the documentation of the pool names what the code has. They need
the assembled tree, and a Python that can run it.
"""

import dataclasses
import importlib
import inspect
import re
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build"
TOPIC = ROOT / "docs" / "topics" / "db" / "pooling.txt"
SETTINGS = BUILD / "docs" / "ref" / "settings.txt"


@unittest.skipUnless(BUILD.is_dir(), "scripts/tree assemble makes the tree.")
@unittest.skipUnless(sys.version_info >= (3, 12), "Django needs Python 3.12.")
class PoolDocsTests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        sys.path.insert(0, str(BUILD))
        cls.addClassCleanup(sys.path.remove, str(BUILD))
        try:
            cls.pool = importlib.import_module("django.db.pool")
            cls.options = importlib.import_module("django.db.pool.options")
            cls.state = importlib.import_module("django.db.pool.state")
        except ImportError as e:
            raise unittest.SkipTest(f"Django's dependencies are missing: {e}")
        cls.text = TOPIC.read_text(encoding="utf-8")

    def section(self, title):
        """Return the text below a title, down to the next of its level."""
        found = re.search(rf"^{re.escape(title)}\n(=+|-+)\n", self.text, re.M)
        self.assertIsNotNone(found, title)
        rest = self.text[found.end() :]
        next_title = re.search(rf"^\S.*\n{found[1][0]}{{3,}}$", rest, re.M)
        return rest[: next_title.start()] if next_title else rest

    def attributes(self, name):
        """Return the documented attributes of a class."""
        start = self.text.index(f"\n.. class:: {name}\n") + 1
        body = re.split(r"\n(?=\S)", self.text[start:], maxsplit=1)[0]
        return re.findall(r"^    \.\. attribute:: (\w+)$", body, re.M)

    def test_option_table_names_options_and_defaults(self):
        rows = re.findall(
            r"^``(\w+)`` +``(\S+)`` +\S+ +\S", self.section("Options"), re.M
        )
        self.assertEqual(
            [(name, default.replace('"', "'")) for name, default in rows],
            [
                (field.name, repr(field.default))
                for field in dataclasses.fields(self.pool.PoolOptions)
            ],
        )

    def test_every_option_has_a_section(self):
        titles = re.findall(r"^``(\w+)``\n-+$", self.section("Options"), re.M)
        self.assertEqual(titles, list(self.options.NAMES))

    def test_setting_names_options(self):
        text = SETTINGS.read_text(encoding="utf-8")
        found = re.search(r"The keys are (.*?)\. See", text, re.S)
        self.assertEqual(re.findall(r"``(\w+)``", found[1]), list(self.options.NAMES))

    def test_statistics_are_documented(self):
        self.assertEqual(
            self.attributes("PoolStats"),
            [field.name for field in dataclasses.fields(self.pool.PoolStats)],
        )
        histogram = self.pool.Histogram
        self.assertEqual(
            set(self.attributes("Histogram")),
            {field.name for field in dataclasses.fields(histogram)}
            | {
                name
                for name, _ in inspect.getmembers(
                    histogram, lambda member: isinstance(member, property)
                )
            },
        )

    def test_reasons_for_closing_are_documented(self):
        source = inspect.getsource(self.state)
        block = source[source.index("# Reasons for closing") :].split("\n\n")[0]
        documented = re.search(
            r"attribute:: closed\n(.*?)\.\. attribute", self.text, re.S
        )
        self.assertEqual(
            set(re.findall(r'``"([a-z_ ]+)"``', documented[1])),
            set(re.findall(r'= "([a-z_ ]+)"', block)),
        )

    def test_errors_are_documented(self):
        self.assertEqual(
            set(re.findall(r"^\.\. exception:: (\w+)$", self.text, re.M)),
            {
                name
                for name in self.pool.__all__
                if isinstance(getattr(self.pool, name), type)
                and issubclass(getattr(self.pool, name), Exception)
            },
        )

    def test_refused_options_are_documented_if_django_had_them(self):
        section = self.section("Coming from the pools of database drivers")
        refused = set(self.options.DRIVER_POOL_OPTIONS)
        # From packages that had pools of their own.
        refused -= {"pool_size", "max_overflow", "recycle", "pre_ping"}
        self.assertEqual(refused - set(re.findall(r"``(\w+)``", section)), set())


if __name__ == "__main__":
    unittest.main()
