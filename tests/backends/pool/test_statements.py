"""What statements may leave behind, judged without a database."""

import unittest
from unittest import mock

from django.db.backends.base.pooling import BaseDatabasePooling
from django.db.backends.base.statements import (
    ANYTHING,
    MAX_REMEMBERED,
    MAX_REMEMBERED_LENGTH,
    NOTHING,
    SESSION,
    TRANSACTION,
    StatementJudge,
)
from django.db.backends.oracle.pooling import DatabasePooling as OraclePooling
from django.db.backends.sqlite3.pooling import DatabasePooling as SQLitePooling
from django.test import SimpleTestCase

try:
    from django.db.backends.postgresql.pooling import (
        DatabasePooling as PostgreSQLPooling,
    )
except Exception:
    PostgreSQLPooling = None

from django.db.backends.mysql.pooling import DatabasePooling as MySQLPooling

try:
    from hypothesis import given, settings
    from hypothesis import strategies as st
except ImportError:
    given = None

POOLINGS = {
    "base": BaseDatabasePooling,
    "mysql": MySQLPooling,
    "oracle": OraclePooling,
    "sqlite": SQLitePooling,
}
if PostgreSQLPooling is not None:
    POOLINGS["postgresql"] = PostgreSQLPooling

# What the ORM and the transactions of all backends send.
HARMLESS = [
    'SELECT "t"."id" FROM "t" WHERE "t"."name" = %s LIMIT 21',
    "select 1",
    "SELECT 1;",
    "SELECT 1 ; \n",
    '(SELECT "id" FROM "t") UNION (SELECT "id" FROM "u")',
    '((SELECT "id" FROM "t") EXCEPT (SELECT "id" FROM "u"))',
    '  \n\tSELECT "id" FROM "t"',
    "-- a comment\nSELECT 1",
    "-- one\n-- and another\r\nSELECT 1",
    "/* a comment */ SELECT 1",
    "/* on two\nlines */ /**/SELECT 1",
    "SELECT 1 /* traceparent='00-1-2-01' */",
    "SELECT(1)",
    'INSERT INTO "t" ("name") VALUES (%s)',
    'INSERT INTO "t" ("name") VALUES (%s), (%s) RETURNING "t"."id"',
    'INSERT INTO "t" ("a") SELECT "a" FROM "u"',
    'UPDATE "t" SET "name" = %s WHERE "id" IN (SELECT "id" FROM "u")',
    'DELETE FROM "t" WHERE "t"."id" IN (%s, %s)',
    "SELECT COUNT(*) FROM (SELECT 1) subquery",
    'SAVEPOINT "s140_x1"',
    'RELEASE SAVEPOINT "s140_x1"',
    'ROLLBACK TO SAVEPOINT "s140_x1"',
    "ROLLBACK",
    "COMMIT",
]
HARMLESS_ON = {
    "postgresql": [
        'WITH "c" AS (SELECT 1) SELECT * FROM "c"',
        'WITH RECURSIVE "c" (n) AS (VALUES (1)) SELECT n FROM "c"',
        "VALUES (1), (2)",
        "SHOW server_version",
        "END",
        "ABORT",
        "SET CONSTRAINTS ALL IMMEDIATE",
        "SET CONSTRAINTS ALL DEFERRED",
        "SET LOCAL statement_timeout = 100",
        "set  local search_path TO x",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT pg_try_advisory_xact_lock_shared(1)",
        'SELECT * FROM "t" FOR UPDATE NOWAIT',
        "SELECT c.relname FROM pg_catalog.pg_class c",
        "SELECT pg_notify('channel', 'payload')",
        "INSERT INTO t SELECT 1 ON CONFLICT DO NOTHING",
        "/* of a tracer */ INSERT INTO t SELECT 1",
        "-- of a tracer\nINSERT INTO t SELECT 1",
        "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE",
        "EXPLAIN SELECT 1",
        'EXPLAIN WITH "c" AS (SELECT 1) SELECT * FROM "c"',
    ],
    "mysql": [
        "SELECT VERSION(), @@sql_mode, @@default_storage_engine",
        "SELECT @@session.transaction_isolation",
        "SHOW TABLES",
        "SHOW FULL TABLES",
        "REPLACE INTO `t` (`a`) VALUES (%s)",
        "INSERT INTO `t` (`a`) VALUES (%s) ON DUPLICATE KEY UPDATE `a` = `a`",
        "SELECT * FROM `t` FOR UPDATE SKIP LOCKED",
        "SELECT engine FROM information_schema.tables WHERE table_name = %s",
        "WITH c AS (SELECT 1) SELECT * FROM c",
        "WITH RECURSIVE c (n) AS (SELECT 1) SELECT n FROM c",
        "EXPLAIN SELECT 1",
        "EXPLAIN FORMAT=TREE SELECT 1",
    ],
    "oracle": [
        'WITH "C" AS (SELECT 1 FROM DUAL) SELECT * FROM "C"',
        'MERGE INTO "T" USING "U" ON ("T"."ID" = "U"."ID") WHEN MATCHED THEN '
        'UPDATE SET "A" = 1',
    ],
    "sqlite": [
        "REPLACE INTO t VALUES (1)",
        'WITH "c" AS (SELECT 1) SELECT * FROM "c"',
        'PRAGMA foreign_key_check("t")',
        "EXPLAIN QUERY PLAN SELECT 1",
        "PRAGMA foreign_key_list(t)",
        "PRAGMA table_info(t)",
        "PRAGMA table_xinfo(t)",
        "PRAGMA index_list(t)",
        "PRAGMA index_info(i)",
        "pragma table_list",
        "SELECT name, type FROM sqlite_master",
    ],
}

# What any backend has to take seriously.
DIRTY = [
    "",
    " ",
    ";",
    "()",
    "-- only a comment",
    "/* only a comment */",
    "/* without an end SELECT 1",
    "# SELECT\nSET a = 1",
    "SET a = 1",
    "  set a = 1",
    "(SET a = 1)",
    "/* SELECT */ SET a = 1",
    "-- SELECT\nSET a = 1",
    "/* outer /* inner */ SELECT */ SET a = 1",
    "-- SELECT\rSET a = 1",
    "SELECTED",
    "SELECT_1",
    '"SELECT"',
    "CREATE TEMPORARY TABLE t (a integer)",
    "CREATE TEMP TABLE t AS SELECT 1",
    "DROP TABLE t",
    "ALTER SESSION SET a = 1",
    "CALL p()",
    "EXPLAIN ANALYZE SELECT 1",
    "EXPLAIN (ANALYZE) SELECT 1",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "SELECT 1; SET a = 1",
    "SELECT 1;; SET a = 1",
    "SELECT 1;/**/",
    "INSERT INTO t VALUES (';'); SET a = 1",
    "ROLLBACK; SET a = 1",
    "SAVEPOINT x; SET a = 1",
    "COMMIT; BEGIN",
]
DIRTY_ON = {
    "postgresql": [
        "SET SESSION statement_timeout = 1",
        "SET statement_timeout = 1",
        "SET ROLE r",
        "SET SESSION AUTHORIZATION r",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SET TIME ZONE 'UTC'",
        "SET search_path TO x",
        "SET transaction_isolation = 'serializable'",
        "SET local.setting = 1",
        "SET transaction . setting = 1",
        "RESET ALL",
        "RESET ROLE",
        "SELECT set_config('search_path', 'x', false)",
        "SELECT pg_catalog.set_config('search_path', 'x', false)",
        'SELECT "set_config"(%s, %s, %s)',
        "WITH c AS (SELECT SET_CONFIG('a.b', 'x', false)) SELECT 1 FROM c",
        "VALUES (set_config('a.b', 'x', false))",
        "UPDATE pg_settings SET setting = 'x' WHERE name = 'search_path'",
        "INSERT INTO t SELECT set_config('a.b', 'x', false)",
        "SELECT U&\"set\\005fconfig\"('search_path', 'x', false)",
        "SELECT set_limit(0.5)",
        "EXPLAIN SELECT set_config('search_path', 'x', false)",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_advisory_lock_shared(1, 2)",
        "SELECT pg_try_advisory_lock(1)",
        "SELECT pg_try_advisory_lock_shared(1)",
        "SELECT 1 INTO TEMP t",
        "SELECT 1 AS a\nINTO TEMPORARY t",
        "/* c */ SELECT 1 INTO TEMP t",
        "-- insert\nSELECT 1 INTO TEMP t",
        "SELECT 1/**/INTO/**/TEMP t",
        "SELECT 1 AS insert INTO TEMP t",
        "WITH c AS (SELECT 1) SELECT * INTO t FROM c",
        "SELECT nextval('s')",
        "SELECT setval('s', 1)",
        "SELECT dblink_connect('dbname=x')",
        "CREATE TEMP SEQUENCE s",
        "CREATE TEMP VIEW v AS SELECT 1",
        "LISTEN channel",
        "UNLISTEN *",
        "PREPARE p AS SELECT 1",
        "PREPARE TRANSACTION 'x'",
        "DEALLOCATE ALL",
        "DISCARD ALL",
        "DISCARD PLANS",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "CLOSE ALL",
        "LOAD 'auto_explain'",
        "DO $$ BEGIN PERFORM set_config('a.b', 'x', false); END $$",
        "TABLE t",
        "COPY t FROM STDIN",
        "LOCK TABLE t",
    ],
    "mysql": [
        "SET @x = 1",
        "SET SESSION sql_mode = ''",
        "SET sql_mode = ''",
        "SET @@sql_mode = ''",
        "SET NAMES latin1",
        "SET CHARACTER SET latin1",
        "SET ROLE r",
        "SET TRANSACTION READ ONLY",
        "SET LOCAL sql_mode = ''",
        "SET foreign_key_checks = 0",
        "SET autocommit = 0",
        "SELECT 1 INTO @x",
        "EXPLAIN SELECT GET_LOCK('x', 0)",
        "SELECT @x := 1",
        "SELECT @@version, @x := 2",
        "SELECT @`x y` := 1",
        "UPDATE t SET a = (@x := a)",
        "SELECT GET_LOCK('x', 0)",
        "SELECT get_lock('x', 0)",
        "SELECT RELEASE_LOCK('x')",
        "SELECT RELEASE_ALL_LOCKS()",
        "/*! SET sql_mode = ( */ SELECT '' /*! ) */",
        "/*M! SET sql_mode = ( */ SELECT '' /*M! ) */",
        "/*!50003 SET @x = 1 */",
        "USE other",
        "LOCK TABLES t WRITE",
        "UNLOCK TABLES",
        "FLUSH TABLES WITH READ LOCK",
        "HANDLER t OPEN",
        "PREPARE p FROM 'SELECT 1'",
        "EXECUTE p",
        "DEALLOCATE PREPARE p",
        "BEGIN NOT ATOMIC SET @x = 1; END",
        "XA START 'x'",
        "DO GET_LOCK('x', 0)",
        "CREATE TEMPORARY TABLE t (a integer)",
        "WITH c AS (SELECT @x := 1) SELECT * FROM c",
    ],
    "oracle": [
        "WITH FUNCTION f RETURN NUMBER IS BEGIN p(); RETURN 1; END; "
        "SELECT f FROM DUAL",
        "BEGIN p(); END;",
        "ALTER SESSION SET NLS_DATE_FORMAT = 'YYYY'",
        "LOCK TABLE t IN EXCLUSIVE MODE",
    ],
    "sqlite": [
        "PRAGMA foreign_keys = OFF",
        "PRAGMA foreign_keys",
        "PRAGMA foreign_keys(0)",
        "PRAGMA read_uncommitted = 1",
        "PRAGMA case_sensitive_like = 1",
        "PRAGMA temp.journal_mode = OFF",
        "PRAGMA main.cache_size = 1",
        "PRAGMA query_only = 1",
        "PRAGMA",
        "ATTACH DATABASE 'x' AS y",
        "ATTACH 'x' AS y",
        "DETACH y",
        "CREATE TEMP TABLE t (a)",
        "CREATE TEMP TRIGGER r AFTER INSERT ON t BEGIN SELECT 1; END",
        "SELECT load_extension('x')",
        "SELECT LOAD_EXTENSION('x')",
        "VACUUM",
        "REINDEX",
    ],
}


class StatementJudgeTests(SimpleTestCase):
    def judge(self, backend, sql):
        """Judge twice: what was said is remembered."""
        judge = POOLINGS[backend].statement_judge
        found = judge.judge(sql)
        self.assertEqual(judge.judge(sql), found)
        return found

    def test_harmless(self):
        for backend in POOLINGS:
            for sql in HARMLESS + HARMLESS_ON.get(backend, []):
                with self.subTest(backend=backend, sql=sql):
                    self.assertEqual(self.judge(backend, sql), NOTHING)

    def test_dirty(self):
        for backend in POOLINGS:
            for sql in DIRTY + DIRTY_ON.get(backend, []):
                with self.subTest(backend=backend, sql=sql):
                    self.assertEqual(self.judge(backend, sql) & SESSION, SESSION)

    def test_begin(self):
        """It leaves a transaction, and nothing in the session."""
        for backend in POOLINGS:
            for sql in [
                "BEGIN",
                "begin;",
                "BEGIN IMMEDIATE",
                "START TRANSACTION",
                "/* c */ BEGIN",
                "COMMIT AND CHAIN",
                "ROLLBACK WORK AND CHAIN",
            ]:
                with self.subTest(backend=backend, sql=sql):
                    self.assertEqual(self.judge(backend, sql), TRANSACTION)

    def test_session_only(self):
        """It leaves no transaction to be rolled back."""
        for sql in [
            "SET @x = 1",
            " set foreign_key_checks = 0",
            "SET autocommit = 0",
            "SET SESSION TRANSACTION READ ONLY",
            "CREATE TEMPORARY TABLE t (a integer)",
            "DROP TEMPORARY TABLE t",
            "LOCK TABLES t WRITE",
            "USE other",
        ]:
            with self.subTest(sql=sql):
                self.assertEqual(self.judge("mysql", sql), SESSION)
        for sql in [
            "SET STATEMENT max_statement_time = 1 FOR BEGIN",
            "SET/**/STATEMENT max_statement_time = 1 FOR START TRANSACTION",
            "SET\n/* c\n */STATEMENT\nmax_statement_time = 1\nFOR BEGIN",
            "/* c */ SET @x = 1",
            "SET @x = 1; BEGIN",
            "CREATED",
            "CALL p()",
            "EXECUTE IMMEDIATE 'BEGIN'",
            "BEGIN NOT ATOMIC START TRANSACTION; END",
            "XA START 'x'",
            "UNLOCK TABLES",
        ]:
            with self.subTest(sql=sql):
                self.assertEqual(self.judge("mysql", sql), ANYTHING)

    def test_not_a_string(self):
        for backend in POOLINGS:
            for sql in [None, b"SELECT 1", object(), 1, ["SELECT 1"]]:
                with self.subTest(backend=backend, sql=sql):
                    self.assertEqual(self.judge(backend, sql), ANYTHING)

    def test_composed(self):
        """Nobody looks into what a driver composes."""
        try:
            from psycopg import sql
        except ImportError:
            try:
                from psycopg2 import sql
            except ImportError:
                self.skipTest("No driver of PostgreSQL is installed.")
        judge = POOLINGS["postgresql"].statement_judge
        for composed in [
            sql.SQL("SELECT 1"),
            sql.SQL("SELECT {}").format(sql.Literal(1)),
            sql.SQL("SET search_path TO {}").format(sql.Identifier("x")),
        ]:
            self.assertEqual(judge.judge(composed), ANYTHING)

    def test_subclass_of_str(self):
        class Statement(str):
            pass

        for backend in POOLINGS:
            self.assertEqual(self.judge(backend, Statement("SELECT 1")), NOTHING)
            self.assertEqual(self.judge(backend, Statement("CALL p()")), ANYTHING)

    def test_only_harmless_statements_are_remembered(self):
        judge = StatementJudge(["SELECT"], suspicious="danger")
        for sql in ["SELECT 1", "SELECT danger", "SET a", "COMMIT", "BEGIN", ";"]:
            judge.judge(sql)
        self.assertEqual(judge.remembered, {"SELECT 1"})

    def test_number_remembered_is_limited(self):
        judge = StatementJudge(["SELECT"])
        for number in range(MAX_REMEMBERED + 10):
            self.assertEqual(judge.judge(f"SELECT {number}"), NOTHING)
        self.assertEqual(len(judge.remembered), MAX_REMEMBERED)

    def test_length_remembered_is_limited(self):
        judge = StatementJudge(["SELECT"])
        for length in [MAX_REMEMBERED_LENGTH, MAX_REMEMBERED_LENGTH + 1]:
            sql = "SELECT 1".ljust(length)
            self.assertEqual(judge.judge(sql), NOTHING)
            self.assertIs(sql in judge.remembered, length <= MAX_REMEMBERED_LENGTH)

    def test_hints(self):
        """They only say where the pattern is searched for."""
        judge = StatementJudge(["SELECT"], r"\bdanger\b", hints=["other", "anger"])
        for sql, expected in [
            ("SELECT danger", SESSION),
            ("SELECT DANGER", SESSION),
            ("SELECT other, danger", SESSION),
            ("SELECT other", NOTHING),
            ("SELECT dangerous", NOTHING),
        ]:
            with self.subTest(sql=sql):
                self.assertEqual(judge.judge(sql), expected)

    def test_long_statements_are_not_searched(self):
        """That took longer than to execute some of them."""
        values = ", ".join(["(%s, %s)"] * 1000)
        for backend, pooling in POOLINGS.items():
            judge = pooling.statement_judge
            if judge.suspicious is None:
                continue
            with (
                self.subTest(backend=backend),
                mock.patch.object(judge, "suspicious") as pattern,
            ):
                judge.judge(f"INSERT INTO t VALUES {values}")
                judge.judge(f"SELECT 1 WHERE a IN ({values})")
                self.assertEqual(pattern.mock_calls, [])

    def test_judges_have_memories_of_their_own(self):
        """What's harmless on one backend may not be on another."""
        judges = [pooling.statement_judge for pooling in POOLINGS.values()]
        for judge in judges:
            for other in judges:
                if other is not judge:
                    self.assertIsNot(other.remembered, judge.remembered)


@unittest.skipIf(given is None, "Hypothesis isn't installed.")
class StatementJudgeProperties(SimpleTestCase):
    if given is not None:
        words = st.from_regex(r"\A[A-Za-z_]\w{0,11}\Z")
        blanks = st.lists(
            st.sampled_from([" ", "\n", "\t", "(", "/* c */", "-- c\n", "/**/"]),
            max_size=4,
        ).map("".join)
        tails = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)

        @settings(deadline=None, max_examples=300, database=None)
        @given(words, blanks, tails, st.sampled_from(sorted(POOLINGS)))
        def test_an_unknown_first_word_is_never_harmless(
            self, word, blank, tail, backend
        ):
            judge = POOLINGS[backend].statement_judge
            known = {
                *judge.harmless,
                *judge.harmless_pairs,
                *judge.WITHIN_TRANSACTION,
                *judge.BEGIN,
                # Those of MySQL that leave no transaction.
                *["CREATE", "DROP", "LOCK", "SET", "USE"],
            }
            if word.upper() not in known:
                self.assertEqual(judge.judge(f"{blank}{word} {tail}"), ANYTHING)

        @settings(deadline=None, max_examples=200, database=None)
        @given(st.sampled_from(sorted(POOLINGS)), tails, words)
        def test_a_second_statement_is_never_harmless(self, backend, tail, word):
            judge = POOLINGS[backend].statement_judge
            self.assertEqual(judge.judge(f"SELECT 1 {tail}; {word}"), ANYTHING)

        @settings(deadline=None, max_examples=300, database=None)
        @given(st.sampled_from(sorted(POOLINGS)), tails)
        def test_any_text_is_judged_the_same_twice(self, backend, text):
            judge = POOLINGS[backend].statement_judge
            found = judge.judge(text)
            self.assertIn(found, [NOTHING, TRANSACTION, SESSION, ANYTHING])
            self.assertEqual(judge.judge(text), found)
