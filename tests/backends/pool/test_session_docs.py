"""What the documentation says of sessions is what the tests find."""

import re
from pathlib import Path

from django.db import connection

from .session_cases import SessionTestCase
from .session_kinds import (
    closes_instead,
    is_pymysql,
    is_sqlite,
    mysql_kinds,
    postgresql_kinds,
    sqlite_kinds,
)

PAGE = Path(__file__).parents[3] / "docs/topics/db/pooling.txt"
SECTIONS = {
    "postgresql": "PostgreSQL",
    "mysql": "MySQL and MariaDB [4]_",
    "sqlite": "SQLite",
}
KINDS = {
    "postgresql": postgresql_kinds,
    "mysql": mysql_kinds,
    "sqlite": sqlite_kinds,
}
# The names of the kinds that a row is about, a regular expression.
ROWS = {
    "postgresql": {
        "Parameters, by ``SET`` or in other ways": "(custom )?parameter.*",
        "Role and session authorization": "role|session authorization",
        "``search_path``, time zone, encoding": "search_path|time zone|character set",
        "Isolation level, read-only mode": "isolation level|session characteristics",
        "Temporary tables and sequences": "temporary .*",
        "Statements prepared by ``PREPARE``": "prepared statement",
        "Advisory locks": "advisory lock.*",
        "``LISTEN``, notifications not yet read": "LISTEN|notifications .*",
        "Cursors ``WITH HOLD``": "cursor WITH HOLD",
        "``currval()`` after ``nextval()``": "value of a sequence",
        "Attributes of the driver [1]_": r"driver: \w*(_\w+|readonly|rable|commit)",
        "Adapters and handlers of the driver [2]_": (
            "driver: (adapters|loaders|.* handler|encoding|types)"
        ),
    },
    "mysql": {
        "User variables": "user variable.*",
        "Session variables, ``sql_mode``": "session variable|sql_mode",
        "``foreign_key_checks``": "foreign_key_checks",
        "Time zone, character set, collation": "time zone|character set|collation",
        "Current database": "current database",
        "Isolation level, read-only mode": "isolation level|read only",
        "``autocommit``": "(driver: )?autocommit",
        "Temporary tables": "temporary table",
        "Prepared statements": "prepared statement",
        "``GET_LOCK()``, ``LOCK TABLES``": "GET_LOCK|LOCK TABLES",
        "The driver's ``cursorclass``": "driver: cursorclass",
        "The driver's character set, converters": (
            "driver: (character set|encoders|decoders|converter)"
        ),
    },
    "sqlite": {
        "``PRAGMA``": "PRAGMA .*",
        "Attached databases": "attached database",
        "Temporary tables and views": "temporary (table|view)",
        "Attributes of the driver [1]_": "driver: .*",
        "Functions, collations, callbacks, limits": (
            "(window )?function|aggregate|collation|progress handler|"
            "trace callback|authorizer|limit|configuration"
        ),
    },
}
HIDDEN = "Hidden changes [3]_"


def read_table(text):
    """Return section -> row -> what "auto", "always" and "never" do."""
    rows = text.partition("\nState ")[2].splitlines()[2:]
    sections = {}
    for line in rows:
        cells = re.split("  +", line)
        if line.startswith("="):
            return sections
        if line.startswith("-"):
            continue
        if len(cells) == 1:
            section = sections.setdefault(line, {})
        else:
            section[cells[0]] = tuple(cells[1:])


class SessionDocumentationTests(SessionTestCase):
    def setUp(self):
        super().setUp()
        if not PAGE.exists():
            self.skipTest("The documentation isn't there.")
        self.text = PAGE.read_text()
        self.rows = read_table(self.text)[SECTIONS[connection.vendor]]

    def test_table(self):
        """Each kind of state is in a row of the table, with what's tested."""
        patterns = {**ROWS[connection.vendor], HIDDEN: "hidden: .*"}
        self.assertEqual(list(self.rows), list(patterns))
        seen = set()
        for kind in KINDS[connection.vendor]():
            with self.subTest(kind=kind.name):
                (row,) = [
                    row
                    for row, pattern in patterns.items()
                    if re.fullmatch(pattern, kind.name)
                ]
                seen.add(row)
                closes = kind.closes or (closes_instead and not is_pymysql)
                undone = "Closed" if closes else "Reset"
                auto = undone if kind.visible else "Kept"
                self.assertEqual(self.rows[row], (auto, undone, "Kept"))
        self.assertEqual(seen, set(patterns))

    def test_attributes_of_the_driver(self):
        """The note lists those that the pool looks at."""
        note = re.search(r"\.\. \[1\] (.*?)\n\.\. \[2\]", self.text, re.S)[1]
        parts = re.split(r"with\s+``(\w+)``", note)
        listed = {
            driver: set(re.findall(r"``(\w+)``", names))
            for names, driver in zip(parts[::2], parts[1::2])
        }
        name = self.wrapper.Database.__name__.partition(".")[0]
        pooling_class = self.wrapper.pooling_class
        if is_sqlite:
            from django.db.backends.sqlite3.pooling import DRIVER_ATTRIBUTES as found

            # On the module from which the driver is taken.
            name = "sqlite3"
        elif connection.vendor == "postgresql":
            found = pooling_class.driver_attributes
        else:
            self.skipTest("They have rows of their own.")
        self.assertEqual(listed[name], set(found))
