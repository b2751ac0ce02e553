"""
Nothing of a session passes from one borrower to the next.

SessionStateTests has the table: each kind of state, how a borrower sets it
and how the next one would see it. The table in docs/topics/db/pooling.txt
says the same.
"""

import contextlib
import itertools
import tempfile
import threading
import time
import unittest
from dataclasses import dataclass
from unittest import mock

from django.db import DatabaseError, connection, connections, transaction
from django.db.backends.signals import connection_created

from ..models import Square
from .utils import ALIAS, SOON, PooledTestCase, run_in_thread

is_sqlite = connection.vendor == "sqlite"
is_postgresql = connection.vendor == "postgresql"
is_mysql = connection.vendor == "mysql"
is_psycopg3 = False
if is_postgresql:
    from django.db.backends.postgresql.psycopg_any import is_psycopg3
is_psycopg2 = is_postgresql and not is_psycopg3
is_pymysql = is_mysql and not hasattr(connection.Database, "_mysql")
is_mysqlclient = is_mysql and not is_pymysql

# Whether a connection whose session has to be reset is closed instead.
closes_instead = is_sqlite or is_pymysql
driver = (
    ("psycopg" if is_psycopg3 else "psycopg2")
    if is_postgresql
    else ("PyMySQL" if is_pymysql else "mysqlclient") if is_mysql else "sqlite3"
)


@dataclass
class Kind:
    """
    A kind of session state.

    set: an SQL statement, or a callable that takes a wrapper.
    see: an SQL query, or a callable that takes a wrapper and returns what is
        compared.
    visible: whether the pool notices without being told to look.
    closes: whether the connection is closed because it can't be undone.
    """

    name: str
    set: object
    see: object
    visible: bool = True
    closes: bool = False


def run(wrapper, sql):
    """Execute a statement. Return the first row, if there is one."""
    with wrapper.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone() if cursor.description else None


def run_by_driver(wrapper, sql):
    """Execute a statement behind the back of Django."""
    cursor = wrapper.connection.cursor()
    cursor.execute(sql)
    cursor.close()


def succeeds(sql):
    """Return a callable that tells whether a statement can be executed."""

    def see(wrapper):
        try:
            run(wrapper, sql)
        except DatabaseError:
            return False
        return True

    return see


def attribute(name):
    return lambda wrapper: getattr(wrapper.connection, name)


def set_attribute(name, value):
    return lambda wrapper: setattr(wrapper.connection, name, value)


def call(name, *args):
    """Return a callable that calls a method of the driver's connection."""

    def set(wrapper):
        getattr(wrapper.connection, name)(*args)

    return set


def changes(name, *args):
    """
    Return a Kind's set and see for a handler that notes when it's called.
    """
    calls = []
    numbers = itertools.count()

    def handler(*args):
        calls.append(1)
        return 0

    def see(wrapper):
        calls.clear()
        # Not one that's in the driver's cache.
        run(wrapper, f"SELECT {next(numbers)}")
        return bool(calls)

    return (
        lambda wrapper: getattr(wrapper.connection, name)(handler, *args),
        see,
    )


def postgresql_kinds():
    from django.db.backends.postgresql.psycopg_any import IsolationLevel

    held_cursor = "SELECT COUNT(*) FROM pg_cursors"
    locks = (
        "SELECT COUNT(*) FROM pg_locks "
        "WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
    )
    temporary = "SELECT to_regclass('pg_temp.pool_test')::text"
    custom = "SELECT COALESCE(current_setting('pool_test.x', true), '')"
    yield Kind("parameter", "SET statement_timeout = 54321", "SHOW statement_timeout")
    yield Kind(
        "parameter set by a function",
        "SELECT set_config('statement_timeout', '54321', false)",
        "SHOW statement_timeout",
    )
    yield Kind(
        "parameter set by a view",
        "UPDATE pg_settings SET setting = '54321' WHERE name = 'statement_timeout'",
        "SHOW statement_timeout",
    )
    yield Kind("custom parameter", "SET pool_test.x = 'a'", custom)
    yield Kind("search_path", "SET search_path TO pg_catalog", "SHOW search_path")
    yield Kind("time zone", "SET TIME ZONE 'Asia/Tokyo'", "SHOW TimeZone")
    yield Kind(
        "character set", "SET client_encoding = 'LATIN1'", "SHOW client_encoding"
    )
    yield Kind("role", "SET ROLE pg_monitor", "SELECT current_user::text")
    yield Kind(
        "session authorization",
        "SET SESSION AUTHORIZATION pg_monitor",
        "SELECT session_user::text",
    )
    yield Kind(
        "session characteristics",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SHOW default_transaction_read_only",
    )
    yield Kind(
        "isolation level",
        "SET default_transaction_isolation = 'serializable'",
        "SHOW default_transaction_isolation",
    )
    yield Kind("temporary table", "CREATE TEMP TABLE pool_test (a int)", temporary)
    yield Kind(
        "temporary table by SELECT INTO",
        "SELECT 1 AS a\nINTO TEMP pool_test",
        temporary,
    )
    yield Kind("temporary sequence", "CREATE TEMP SEQUENCE pool_test", temporary)
    yield Kind(
        "prepared statement",
        "PREPARE pool_test AS SELECT 1",
        "SELECT COUNT(*) FROM pg_prepared_statements WHERE from_sql",
    )
    yield Kind("advisory lock", "SELECT pg_advisory_lock(54321)", locks)
    yield Kind("advisory lock, tried", "SELECT pg_try_advisory_lock(54321)", locks)
    yield Kind(
        "LISTEN",
        "LISTEN pool_test",
        "SELECT COUNT(*) FROM pg_listening_channels()",
    )
    yield Kind(
        "cursor WITH HOLD",
        "DECLARE pool_test CURSOR WITH HOLD FOR SELECT 1",
        held_cursor,
    )
    yield Kind(
        "value of a sequence",
        "SELECT nextval('pool_test_sequence')",
        succeeds("SELECT currval('pool_test_sequence')"),
    )
    for name, value in [
        ("isolation_level", IsolationLevel.SERIALIZABLE),
        ("read_only" if is_psycopg3 else "readonly", True),
        ("deferrable", True),
        ("autocommit", False),
    ]:
        yield Kind(f"driver: {name}", set_attribute(name, value), attribute(name))
    if is_psycopg3:
        from psycopg import ClientCursor
        from psycopg.rows import dict_row
        from psycopg.types.string import StrDumper

        class Dumper(StrDumper):
            pass

        for name, value in [
            ("prepare_threshold", 3),
            ("prepared_max", 7),
            ("row_factory", dict_row),
            ("cursor_factory", type("Cursor", (ClientCursor,), {})),
        ]:
            yield Kind(f"driver: {name}", set_attribute(name, value), attribute(name))
        yield Kind(
            "driver: adapters",
            lambda wrapper: wrapper.connection.adapters.register_dumper(str, Dumper),
            lambda wrapper: wrapper.connection.adapters.get_dumper(str, "s"),
            closes=True,
        )
        for what in ["notice", "notify"]:
            yield Kind(
                f"driver: {what} handler",
                call(f"add_{what}_handler", print),
                lambda wrapper, what=what: len(
                    getattr(wrapper.connection, f"_{what}_handlers")
                ),
                closes=True,
            )
    else:
        from psycopg2 import extensions, extras

        yield Kind(
            "driver: cursor_factory",
            set_attribute("cursor_factory", extras.DictCursor),
            attribute("cursor_factory"),
        )
        yield Kind(
            "driver: encoding",
            call("set_client_encoding", "LATIN1"),
            attribute("encoding"),
            closes=True,
        )
        yield Kind(
            "driver: types",
            lambda wrapper: extensions.register_type(
                extensions.UNICODEARRAY, wrapper.connection
            ),
            lambda wrapper: len(wrapper.connection.string_types),
            closes=True,
        )
    yield Kind(
        "hidden: in a stored function",
        "SELECT pool_test_function()",
        "SHOW statement_timeout",
        visible=False,
    )
    yield Kind(
        "hidden: by the driver's connection",
        lambda wrapper: run_by_driver(wrapper, "SET statement_timeout = 54321"),
        "SHOW statement_timeout",
        visible=False,
    )


def mysql_kinds():
    isolation = (
        "SHOW VARIABLES WHERE Variable_name IN "
        "('tx_isolation', 'transaction_isolation')"
    )
    lock = "SELECT COALESCE(IS_USED_LOCK('pool_test') = CONNECTION_ID(), 0)"
    square = Square._meta.db_table
    yield Kind("user variable", "SET @pool_test = 1", "SELECT @pool_test")
    yield Kind(
        "user variable set in a query", "SELECT @pool_test := 1", "SELECT @pool_test"
    )
    yield Kind(
        "session variable",
        "SET SESSION sort_buffer_size = 65536",
        "SELECT @@sort_buffer_size",
    )
    yield Kind("sql_mode", "SET sql_mode = ''", "SELECT @@sql_mode")
    yield Kind(
        "foreign_key_checks",
        "SET foreign_key_checks = 0",
        "SELECT @@foreign_key_checks",
    )
    yield Kind("time zone", "SET time_zone = '+09:00'", "SELECT @@time_zone")
    yield Kind("character set", "SET NAMES latin1", "SELECT @@character_set_client")
    yield Kind(
        "collation",
        "SET NAMES utf8mb4 COLLATE utf8mb4_bin",
        "SELECT @@collation_connection",
    )
    yield Kind("current database", "USE information_schema", "SELECT DATABASE()")
    yield Kind(
        "isolation level",
        "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        isolation,
    )
    yield Kind(
        "read only",
        "SET SESSION TRANSACTION READ ONLY",
        succeeds(f"DELETE FROM {square} WHERE 1 = 0"),
    )
    yield Kind("autocommit", "SET autocommit = 0", "SELECT @@autocommit")
    yield Kind(
        "temporary table",
        "CREATE TEMPORARY TABLE pool_test (a int)",
        succeeds("SELECT * FROM pool_test"),
    )
    yield Kind(
        "prepared statement",
        "PREPARE pool_test FROM 'SELECT 1'",
        succeeds("EXECUTE pool_test"),
    )
    yield Kind("GET_LOCK", "SELECT GET_LOCK('pool_test', 0)", lock)
    yield Kind(
        "LOCK TABLES",
        f"LOCK TABLES {square} READ",
        succeeds("SELECT * FROM django_content_type LIMIT 1"),
    )
    yield Kind(
        "driver: autocommit",
        call("autocommit", False),
        lambda wrapper: wrapper.connection.get_autocommit(),
    )
    yield Kind(
        "driver: cursorclass",
        lambda wrapper: setattr(
            wrapper.connection,
            "cursorclass",
            type("Cursor", (wrapper.connection.cursorclass,), {}),
        ),
        attribute("cursorclass"),
    )
    yield Kind(
        "driver: character set",
        call("set_character_set", "latin1"),
        attribute("encoding"),
        closes=True,
    )
    yield Kind(
        "hidden: in a stored function",
        "SELECT pool_test_function()",
        "SELECT @@sort_buffer_size",
        visible=False,
    )
    yield Kind(
        "hidden: by the driver's connection",
        lambda wrapper: run_by_driver(wrapper, "SET SESSION sort_buffer_size = 65536"),
        "SELECT @@sort_buffer_size",
        visible=False,
    )


def sqlite_kinds():
    for name, value in [
        ("foreign_keys", 0),
        ("read_uncommitted", 1),
        ("query_only", 1),
        ("cache_size", 54321),
    ]:
        yield Kind(f"PRAGMA {name}", f"PRAGMA {name} = {value}", f"PRAGMA {name}")
    yield Kind(
        "PRAGMA case_sensitive_like",
        "PRAGMA case_sensitive_like = 1",
        "SELECT 'a' LIKE 'A'",
    )
    yield Kind(
        "attached database",
        "ATTACH DATABASE ':memory:' AS pool_test",
        "SELECT COUNT(*) FROM pragma_database_list WHERE name = 'pool_test'",
    )
    yield Kind(
        "temporary table",
        "CREATE TEMP TABLE pool_test (a)",
        "SELECT COUNT(*) FROM sqlite_temp_master WHERE name = 'pool_test'",
    )
    yield Kind(
        "temporary view",
        "CREATE TEMP VIEW pool_test AS SELECT 1",
        "SELECT COUNT(*) FROM sqlite_temp_master WHERE name = 'pool_test'",
    )
    for name, value in [
        ("row_factory", connection.Database.Row),
        ("text_factory", bytes),
        ("isolation_level", "IMMEDIATE"),
    ]:
        yield Kind(f"driver: {name}", set_attribute(name, value), attribute(name))
    yield Kind(
        "hidden: function",
        call("create_function", "pool_test", 0, lambda: 1),
        succeeds("SELECT pool_test()"),
        visible=False,
    )
    yield Kind(
        "hidden: collation",
        call("create_collation", "pool_test", lambda a, b: 0),
        succeeds("SELECT 1 ORDER BY 'a' COLLATE pool_test"),
        visible=False,
    )
    for what, name, args in [
        ("progress handler", "set_progress_handler", [1]),
        ("trace callback", "set_trace_callback", []),
        ("authorizer", "set_authorizer", []),
    ]:
        yield Kind(f"hidden: {what}", *changes(name, *args), visible=False)
    yield Kind(
        "hidden: by the driver's connection",
        lambda wrapper: run_by_driver(wrapper, "PRAGMA case_sensitive_like = 1"),
        "SELECT 'a' LIKE 'A'",
        visible=False,
    )


class SessionTestCase(PooledTestCase):
    def setUp(self):
        super().setUp()
        self.use_pool(max_size=1, timeout=SOON)
        self.other = self.copy()

    def start(self, **options):
        """Begin with a new pool."""
        for wrapper in (self.wrapper, self.other):
            wrapper.close()
        self.wrapper.close_pool()
        pool = {"max_size": 1, "timeout": SOON, **options}
        self.use_pool(**pool)
        self.other.settings_dict["POOL"] = pool

    def execute_unpooled(self, *statements):
        wrapper = self.wrapper.copy()
        wrapper.settings_dict["POOL"] = None
        try:
            for sql in statements:
                run(wrapper, sql)
        finally:
            wrapper.close()

    def create(self, what, sql):
        """Create something that's dropped in the end."""
        drop = f"DROP {what}"
        with contextlib.suppress(DatabaseError):
            self.execute_unpooled(drop)
        self.execute_unpooled(sql)
        self._cleanups.insert(0, (self.execute_unpooled, (drop,), {}))

    @contextlib.contextmanager
    def receiver(self, receiver):
        """Connect a receiver of connection_created for the alias."""

        def receive(sender, connection, **kwargs):
            if connection.alias == ALIAS:
                receiver(connection)

        connection_created.connect(receive)
        try:
            yield
        finally:
            connection_created.disconnect(receive)


class SessionStateTests(SessionTestCase):
    """The table."""

    def kinds(self):
        if is_postgresql:
            self.create(
                "SEQUENCE pool_test_sequence", "CREATE SEQUENCE pool_test_sequence"
            )
            self.create(
                "FUNCTION pool_test_function()",
                "CREATE FUNCTION pool_test_function() RETURNS text LANGUAGE sql "
                "AS $$SELECT set_config('statement_timeout', '54321', false)$$",
            )
            return list(postgresql_kinds())
        if is_mysql:
            self.create(
                "FUNCTION pool_test_function",
                "CREATE FUNCTION pool_test_function() RETURNS int NO SQL "
                "BEGIN SET SESSION sort_buffer_size = 65536; RETURN 1; END",
            )
            return list(mysql_kinds())
        return list(sqlite_kinds())

    def see(self, kind, wrapper):
        wrapper.ensure_connection()
        return kind.see(wrapper) if callable(kind.see) else run(wrapper, kind.see)

    def set(self, kind, wrapper):
        wrapper.ensure_connection()
        if callable(kind.set):
            kind.set(wrapper)
        else:
            run(wrapper, kind.set)

    def pass_on(self, kind):
        """
        Have one borrower set something. Return what is seen before, by
        itself, and by the next borrower, and whether that one has the same
        connection.
        """
        before = self.see(kind, self.wrapper)
        self.set(kind, self.wrapper)
        after = self.see(kind, self.wrapper)
        slot = self.slot()
        session_id = None if is_sqlite else self.driver_session_id(self.wrapper)
        self.wrapper.close()
        found = self.see(kind, self.other)
        same = self.slot(self.other) is slot
        if not is_sqlite:
            self.assertEqual(self.driver_session_id(self.other) == session_id, same)
        return before, after, found, same

    def driver_session_id(self, wrapper):
        if is_mysql:
            return wrapper.connection.thread_id()
        return wrapper.connection.info.backend_pid

    def check(self, reset):
        for kind in self.kinds():
            with self.subTest(kind=kind.name, reset=reset, driver=driver):
                self.start(reset=reset)
                before, after, found, same = self.pass_on(kind)
                # It was set, or the test would say nothing.
                self.assertNotEqual(before, after)
                if reset == "never" or (reset == "auto" and not kind.visible):
                    self.assertEqual(found, after)
                    self.assertIs(same, True)
                else:
                    self.assertEqual(found, before)
                    self.assertIs(same, not (closes_instead or kind.closes))
                    self.assertEqual(
                        self.stats().closed, {} if same else {"not reset": 1}
                    )
                self.start()

    def test_auto(self):
        self.check("auto")

    def test_always(self):
        self.check("always")

    def test_never(self):
        self.check("never")

    def test_state_set_in_a_transaction(self):
        """Committed or not."""
        if not is_postgresql:
            self.skipTest("Elsewhere, SET takes no part in transactions.")
        for commit in [True, False]:
            with self.subTest(commit=commit):
                self.start()
                with contextlib.suppress(ZeroDivisionError):
                    with transaction.atomic(ALIAS):
                        run(self.wrapper, "SET statement_timeout = 54321")
                        if not commit:
                            raise ZeroDivisionError
                self.wrapper.close()
                self.assertEqual(run(self.other, "SHOW statement_timeout"), ("0",))

    def test_a_failed_statement_may_have_set_something(self):
        if is_sqlite:
            self.skipTest("SQLite takes one statement at a time.")
        sql = {
            "postgresql": "SET statement_timeout = 54321",
            "mysql": "SET @pool_test = 1",
        }[connection.vendor]
        see = {
            "postgresql": "SHOW statement_timeout",
            "mysql": "SELECT @pool_test",
        }[connection.vendor]
        before = run(self.wrapper, see)
        run(self.wrapper, sql)
        with self.assertRaises(DatabaseError):
            run(self.wrapper, "SELECT no_such_column")
        self.wrapper.close()
        self.assertEqual(run(self.other, see), before)

    def test_executemany_and_callproc_are_seen(self):
        if not is_postgresql:
            self.skipTest("PostgreSQL tests")
        with self.wrapper.cursor() as cursor:
            cursor.executemany(
                "SELECT set_config('statement_timeout', %s, false)", [("54321",)]
            )
        self.wrapper.close()
        self.assertEqual(run(self.other, "SHOW statement_timeout"), ("0",))
        self.other.close()
        with self.wrapper.cursor() as cursor:
            params = ["statement_timeout", "54321", False]
            if is_psycopg2:
                cursor.callproc("set_config", params)
            else:
                cursor.execute("SELECT set_config(%s, %s, %s)", params)
        self.wrapper.close()
        self.assertEqual(run(self.other, "SHOW statement_timeout"), ("0",))

    def test_a_transaction_is_rolled_back_whatever_reset_says(self):
        self.create_table()
        for reset in ["auto", "always", "never", lambda connection: None]:
            with self.subTest(reset=reset):
                self.start(reset=reset)
                run(self.wrapper, "BEGIN")
                self.insert(self.wrapper)
                self.wrapper.close()
                self.insert(self.other)
                self.other.close()
                self.assertEqual(self.count(), 1)
                self.execute_unpooled(f"DELETE FROM {self.table}")

    @unittest.skipUnless(is_psycopg3, "psycopg tests")
    def test_statements_prepared_by_the_driver_survive(self):
        """The driver goes on to use them."""
        self.settings_dict["OPTIONS"]["prepare_threshold"] = 0
        self.other.settings_dict["OPTIONS"]["prepare_threshold"] = 0
        for wrapper in [self.wrapper, self.other] * 3:
            for number in range(3):
                self.assertEqual(
                    self.query("SELECT 1 + %s", [number], wrapper)[0], number + 1
                )
            run(wrapper, "PREPARE pool_test AS SELECT 1")
            wrapper.close()
        self.assertEqual(self.stats().closed, {})
        self.assertEqual(self.stats().opened, 1)


class InitializedStateTests(SessionTestCase):
    """What opening a connection sets is there again after a reset."""

    def assertSetAgain(self, see, expected, dirty):
        """
        A borrower overwrites something, the next one sees it as expected, on
        the same connection where the driver can reset one.
        """
        self.assertEqual(run(self.wrapper, see), expected)
        run(self.wrapper, dirty)
        self.assertNotEqual(run(self.wrapper, see), expected)
        slot = self.slot()
        self.wrapper.close()
        self.assertEqual(run(self.other, see), expected)
        self.assertIs(self.slot(self.other) is slot, not closes_instead)
        self.other.close()

    def set_option(self, **options):
        for wrapper in (self.wrapper, self.other):
            wrapper.settings_dict["OPTIONS"].update(options)

    def test_receiver_of_connection_created(self):
        sql, see, expected, dirty = {
            "postgresql": (
                "SET statement_timeout = 54321",
                "SHOW statement_timeout",
                ("54321ms",),
                "SET statement_timeout = 12345",
            ),
            "mysql": (
                "SET @pool_test = 1",
                "SELECT @pool_test",
                (1,),
                "SET @pool_test = 2",
            ),
            "sqlite": (
                "PRAGMA cache_size = 1234",
                "PRAGMA cache_size",
                (1234,),
                "PRAGMA cache_size = 4321",
            ),
        }[connection.vendor]
        receivers = []
        # By the wrapper that's passed, and by the alias.
        for receiver in [
            lambda wrapper: run(wrapper, sql),
            lambda wrapper: run(connections[ALIAS], sql),
        ]:
            if closes_instead and receivers:
                # The next borrower isn't the alias.
                break
            receivers.append(receiver)
            with self.subTest(number=len(receivers)), self.receiver(receiver):
                self.start()
                self.assertSetAgain(see, expected, dirty)
                self.start()

    def test_receiver_is_called_once_for_a_reset(self):
        calls = []
        with self.receiver(calls.append):
            self.start(reset="always")
            for times in range(1, 4):
                run(self.wrapper, "SELECT 1")
                self.wrapper.close()
                if closes_instead:
                    # Each connection is a new one.
                    self.assertEqual(len(calls), times)
                else:
                    self.assertEqual(len(calls), times + 1)
            self.start()

    def test_receiver_that_fails(self):
        """It costs the connection, and not the borrower."""
        if closes_instead:
            self.skipTest("The connection isn't reset.")
        calls = []

        def receiver(wrapper):
            calls.append(1)
            if len(calls) == 2:
                raise ZeroDivisionError

        with self.receiver(receiver):
            self.start(reset="always")
            run(self.wrapper, "SELECT 1")
            self.wrapper.close()
            self.assertEqual(self.stats().closed, {"not reset": 1})
            run(self.other, "SELECT 1")
            self.assertEqual(self.stats().opened, 2)
            self.other.close()
            self.start()

    def test_the_alias_is_the_borrowers_own_again(self):
        run(self.wrapper, "SELECT 1")
        with self.receiver(lambda wrapper: None):
            self.start(reset="always")
            run(self.wrapper, "SELECT 1")
            self.wrapper.close()
        self.assertIs(connections[ALIAS], self.wrapper)

    def test_autocommit_setting_false(self):
        for wrapper in (self.wrapper, self.other):
            wrapper.settings_dict["AUTOCOMMIT"] = False
        self.create_table()
        for reset in ["auto", "always"]:
            with self.subTest(reset=reset):
                self.start(reset=reset)
                dirty = "PRAGMA cache_size = 1" if is_sqlite else None
                run(
                    self.wrapper,
                    dirty
                    or {
                        "postgresql": "SET statement_timeout = 54321",
                        "mysql": "SET @pool_test = 1",
                    }[connection.vendor],
                )
                self.wrapper.close()
                self.assertEqual(self.stats().in_use, 0)
                self.other.ensure_connection()
                self.assertIs(self.other.get_autocommit(), False)
                self.insert(self.other)
                self.other.rollback()
                self.insert(self.other)
                self.other.commit()
                self.other.close()
                self.assertEqual(self.count(), 1)
                self.execute_unpooled_and_commit(f"DELETE FROM {self.table}")
                self.start()

    def execute_unpooled_and_commit(self, sql):
        wrapper = self.unpooled()
        wrapper.settings_dict["AUTOCOMMIT"] = True
        run(wrapper, sql)
        wrapper.close()

    # ##### PostgreSQL #####

    @unittest.skipUnless(is_postgresql, "PostgreSQL tests")
    def test_time_zone(self):
        for wrapper in (self.wrapper, self.other):
            wrapper.settings_dict["TIME_ZONE"] = "America/Chicago"
        with self.settings(USE_TZ=True):
            for wrapper in (self.wrapper, self.other):
                for name in ["timezone", "timezone_name"]:
                    wrapper.__dict__.pop(name, None)
            self.assertSetAgain(
                "SHOW TimeZone", ("America/Chicago",), "SET TIME ZONE 'Asia/Tokyo'"
            )

    @unittest.skipUnless(is_postgresql, "PostgreSQL tests")
    def test_assume_role(self):
        self.set_option(assume_role="pg_monitor")
        see = "SELECT current_user::text"
        for dirty in ["RESET ROLE", "SET ROLE NONE", "SET ROLE pg_read_all_data"]:
            with self.subTest(dirty=dirty):
                self.assertSetAgain(see, ("pg_monitor",), dirty)

    @unittest.skipUnless(is_postgresql, "PostgreSQL tests")
    def test_parameters_given_to_connect(self):
        self.set_option(options="-c statement_timeout=54321")
        self.assertSetAgain(
            "SHOW statement_timeout",
            ("54321ms",),
            "SET statement_timeout = 0",
        )

    @unittest.skipUnless(is_postgresql, "PostgreSQL tests")
    def test_isolation_level_of_the_driver(self):
        from django.db.backends.postgresql.psycopg_any import IsolationLevel

        self.set_option(isolation_level=IsolationLevel.SERIALIZABLE)
        run(self.wrapper, "SELECT 1")
        self.wrapper.connection.isolation_level = IsolationLevel.READ_COMMITTED
        self.wrapper.close()
        with transaction.atomic(ALIAS):
            self.assertEqual(
                run(self.wrapper, "SHOW transaction_isolation"), ("serializable",)
            )
        self.assertEqual(self.stats().opened, 1)

    # ##### MySQL #####

    @unittest.skipUnless(is_mysql, "MySQL tests")
    def test_init_command(self):
        self.set_option(init_command="SET @pool_test = 1")
        self.assertSetAgain("SELECT @pool_test", (1,), "SET @pool_test = 2")

    @unittest.skipUnless(is_mysql, "MySQL tests")
    def test_isolation_level(self):
        self.set_option(isolation_level="repeatable read")
        see = (
            "SHOW VARIABLES WHERE Variable_name IN "
            "('tx_isolation', 'transaction_isolation')"
        )
        expected = (run(self.unpooled(), see)[0], "REPEATABLE-READ")
        self.assertSetAgain(
            see, expected, "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE"
        )

    @unittest.skipUnless(is_mysql, "MySQL tests")
    def test_sql_mode(self):
        self.set_option(sql_mode="ANSI_QUOTES")
        self.assertSetAgain("SELECT @@sql_mode", ("ANSI_QUOTES",), "SET sql_mode = ''")

    @unittest.skipUnless(is_mysql, "MySQL tests")
    def test_charset(self):
        self.set_option(charset="latin1")
        see = "SELECT @@character_set_client, @@character_set_results"
        self.assertSetAgain(see, ("latin1", "latin1"), "SET NAMES utf8mb4")

    @unittest.skipUnless(is_mysql, "MySQL tests")
    def test_character_set_and_collation_by_default(self):
        see = "SELECT @@character_set_connection, @@collation_connection"
        expected = run(self.unpooled(), see)
        self.assertSetAgain(see, expected, "SET NAMES latin1")

    @unittest.skipUnless(is_mysql, "MySQL tests")
    def test_collation(self):
        self.set_option(charset="utf8mb4", collation="utf8mb4_bin")
        self.assertSetAgain(
            "SELECT @@collation_connection",
            ("utf8mb4_bin",),
            "SET NAMES utf8mb4 COLLATE utf8mb4_general_ci",
        )

    @unittest.skipUnless(is_mysql, "MySQL tests")
    def test_all_of_them(self):
        self.set_option(
            init_command="SET @pool_test = 1, SESSION sort_buffer_size = 65536",
            isolation_level="serializable",
            sql_mode="ANSI_QUOTES",
            charset="utf8mb4",
            collation="utf8mb4_bin",
        )
        self.assertSetAgain(
            "SELECT @pool_test, @@sort_buffer_size, @@sql_mode, "
            "@@collation_connection",
            (1, 65536, "ANSI_QUOTES", "utf8mb4_bin"),
            "SET @pool_test = 2, sort_buffer_size = 131072, sql_mode = ''",
        )

    # ##### SQLite #####

    @unittest.skipUnless(is_sqlite, "SQLite tests")
    def test_sqlite_init_command(self):
        self.set_option(init_command="PRAGMA cache_size = 1234")
        self.assertSetAgain("PRAGMA cache_size", (1234,), "PRAGMA cache_size = 4321")

    @unittest.skipUnless(is_sqlite, "SQLite tests")
    def test_functions_of_django(self):
        see = "SELECT django_date_extract('year', '2026-01-01'), LENGTH('a')"
        run(self.wrapper, see)
        self.wrapper.connection.create_function("LENGTH", 1, lambda value: 7)
        run(self.wrapper, "PRAGMA cache_size = 1")
        self.wrapper.close()
        self.assertEqual(run(self.other, see), (2026, 1))


class ResetCostTests(SessionTestCase):
    """A clean lease sends nothing when it ends, a dirty one very little."""

    def setUp(self):
        super().setUp()
        self.sent = 0

    def count(self, *args):
        self.sent += 1

    @unittest.skipUnless(is_psycopg3, "psycopg tests")
    def test_psycopg(self):
        """By the messages that libpq sends."""
        from psycopg import pq

        with tempfile.TemporaryFile() as trace:
            self.wrapper.ensure_connection()
            try:
                self.wrapper.connection.pgconn.trace(trace.fileno())
                self.wrapper.connection.pgconn.set_trace_flags(
                    pq.Trace.SUPPRESS_TIMESTAMPS
                )
            except self.wrapper.Database.NotSupportedError:
                self.skipTest("libpq can't trace.")
            self.wrapper.close()

            def messages():
                """Return what was sent since it was asked for last."""
                # libpq writes when its buffer is full, or tracing ends.
                trace.seek(0)
                lines = trace.read().decode().splitlines()
                return [line for line in lines if line.startswith("F")]

            with transaction.atomic(ALIAS):
                run(self.wrapper, "SELECT 1")
            self.wrapper.close()
            run(self.wrapper, "SET statement_timeout = 54321")
            self.wrapper.close()
            self.wrapper.ensure_connection()
            self.wrapper.connection.pgconn.untrace()
            sent = [line.split("\t")[2] for line in messages()]
            self.assertEqual(sent, ["Query"] * 5)
            self.assertIn("SET SESSION AUTHORIZATION DEFAULT", messages()[-1])

    @unittest.skipUnless(is_psycopg2, "psycopg2 tests")
    def test_psycopg2(self):
        from psycopg2.extensions import cursor as Cursor

        test = self

        class CountingCursor(Cursor):
            def execute(self, *args):
                test.count()
                return super().execute(*args)

        for wrapper in (self.wrapper, self.other):
            wrapper.settings_dict["OPTIONS"]["cursor_factory"] = CountingCursor
        self.assertSent(clean=0, dirty=1)

    @unittest.skipUnless(is_mysqlclient, "mysqlclient tests")
    def test_mysqlclient(self):
        """
        A reset takes one round trip, and one more for what Django sets when
        it has opened a connection, if there's anything. Statements that could
        have begun a transaction are rolled back before.
        """
        from MySQLdb.connections import Connection

        def counted(name):
            method = getattr(Connection, name)

            def count(connection, *args):
                self.count()
                return method(connection, *args)

            return mock.patch.object(Connection, name, count)

        with (
            counted("query"),
            counted("change_user"),
            counted("rollback"),
            counted("commit"),
            counted("ping"),
        ):
            self.assertSent(clean=0, dirty=2)
            for wrapper in (self.wrapper, self.other):
                wrapper.settings_dict["OPTIONS"]["isolation_level"] = None
            self.start()
            self.assertSent(clean=0, dirty=1)

    @unittest.skipUnless(is_sqlite, "SQLite tests")
    def test_sqlite(self):
        self.wrapper.ensure_connection()
        self.wrapper.connection.set_trace_callback(self.count)
        self.assertSent(clean=0, dirty=0)

    def assertSent(self, clean, dirty):
        run(self.wrapper, "SELECT 1")
        self.sent = 0
        self.wrapper.close()
        self.assertEqual(self.sent, clean)
        with transaction.atomic(ALIAS):
            run(self.wrapper, "SELECT 1")
        self.sent = 0
        self.wrapper.close()
        self.assertEqual(self.sent, clean)
        run(
            self.wrapper,
            {
                "postgresql": "SET statement_timeout = 54321",
                "mysql": "SELECT @pool_test := 1",
                "sqlite": "PRAGMA cache_size = 1",
            }[connection.vendor],
        )
        self.sent = 0
        self.wrapper.close()
        self.assertEqual(self.sent, dirty)

    def test_the_orm_is_clean(self):
        """Reading, writing, and transactions with savepoints."""
        if is_sqlite:
            with self.wrapper.schema_editor() as editor:
                editor.create_model(Square)
        else:
            self.addCleanup(
                self.execute_unpooled, f"DELETE FROM {Square._meta.db_table}"
            )
        self.start()
        manager = Square.objects.using(ALIAS)
        with mock.patch.object(
            type(self.wrapper.pool), "release_dirty", side_effect=AssertionError
        ):
            with transaction.atomic(ALIAS):
                with transaction.atomic(ALIAS):
                    manager.bulk_create(Square(root=n, square=n) for n in range(3))
                with self.assertRaises(ZeroDivisionError):
                    with transaction.atomic(ALIAS):
                        manager.create(root=7, square=49)
                        raise ZeroDivisionError
            square = manager.filter(root=1).get()
            square.square = 2
            square.save()
            manager.update_or_create(root=2, defaults={"square": 4})
            list(manager.iterator(chunk_size=1))
            manager.filter(root=1).union(manager.filter(root=2)).count()
            manager.filter(root__in=manager.values("square")).delete()
            manager.in_bulk()
            manager.aggregate()
            with transaction.atomic(ALIAS):
                list(manager.select_for_update())
            self.wrapper.close()
        stats = self.stats()
        self.assertEqual((stats.opened, stats.closed), (1, {}))


def fail(connection):
    raise ZeroDivisionError


class ResetCallableTests(SessionTestCase):
    """reset=callable, and where a reset is done."""

    def setUp(self):
        super().setUp()
        self.threads = []
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.addCleanup(self.go_on.set)

    def note(self, connection):
        self.threads.append(threading.current_thread().name)

    def block(self, connection):
        self.note(connection)
        self.entered.set()
        if not self.go_on.wait(SOON):
            raise AssertionError("Nobody let it go on.")

    def test_called_with_the_connection_of_the_driver(self):
        found = []
        self.start(reset=lambda connection: found.append(type(connection)))
        for _ in range(2):
            run(self.wrapper, "SELECT 1")
            expected = type(self.wrapper.connection)
            self.wrapper.close()
        self.assertEqual(found, [expected] * 2)
        self.assertEqual(self.stats().opened, 1)

    def test_what_it_does_is_all_that_is_done(self):
        if not is_postgresql:
            self.skipTest("PostgreSQL tests")

        def reset(connection):
            run_by_driver(mock.Mock(connection=connection), "RESET statement_timeout")

        self.start(reset=reset)
        run(self.wrapper, "SET statement_timeout = 54321")
        run(self.wrapper, "SET lock_timeout = 54321")
        self.wrapper.close()
        self.assertEqual(run(self.other, "SHOW statement_timeout"), ("0",))
        self.assertEqual(run(self.other, "SHOW lock_timeout"), ("54321ms",))

    def test_at_once_if_nothing_else_is_idle(self):
        self.start(reset=lambda connection: self.note(connection), max_size=2)
        self.wrapper.ensure_connection()
        self.wrapper.close()
        self.assertEqual(self.threads, [threading.current_thread().name])

    def test_in_the_background_if_something_is_idle(self):
        self.start(reset=lambda connection: self.note(connection), max_size=2)
        self.wrapper.ensure_connection()
        self.other.ensure_connection()
        spare = self.slot()
        self.wrapper.close()
        self.threads.clear()
        self.start_blocking()
        slot = self.slot(self.other)
        self.other.close()
        self.assertIs(self.entered.wait(SOON), True)
        self.assertEqual(self.threads, ["django-db-pool-maintenance"])
        stats = self.stats()
        self.assertEqual((stats.resetting, stats.idle, stats.in_use), (1, 1, 0))
        self.assertEqual(stats.size, 2)
        # The other one is served meanwhile.
        self.wrapper.ensure_connection()
        self.assertIs(self.slot(), spare)
        self.go_on.set()
        # Waits for it: there may be no third.
        self.other.ensure_connection()
        self.assertIs(self.slot(self.other), slot)
        self.assertEqual(self.stats().resetting, 0)
        self.assertEqual(self.stats().opened, 2)

    def start_blocking(self):
        """From now on, a reset blocks."""
        self.enterContext(
            mock.patch.object(
                type(self.wrapper.pool.pooling),
                "reset_in_time",
                lambda pooling, connection, session, how=None: (
                    self.block(connection) or True
                ),
            )
        )

    def test_at_once_if_somebody_waits(self):
        self.start(reset=lambda connection: self.block(connection), max_size=1)
        run(self.wrapper, "SELECT 1")
        pool = self.wrapper.pool
        threads = []

        def borrow():
            run(connections[ALIAS], "SELECT 1")
            threads.append(list(self.threads))
            connections[ALIAS].close()

        thread = threading.Thread(target=borrow)
        thread.start()
        while not pool.stats().waiting:
            self.assertIs(thread.is_alive(), True)
        self.go_on.set()
        self.wrapper.close()
        thread.join(SOON)
        # When it was served, the reset had been done.
        self.assertEqual(threads, [[threading.current_thread().name]])
        self.assertEqual(pool.stats().opened, 1)

    def test_failure(self):
        """The connection is closed. Its slot serves the next waiter."""
        self.start(reset=fail)
        run(self.wrapper, "SELECT 1")
        pool = self.wrapper.pool
        thread = threading.Thread(target=lambda: run(connections[ALIAS], "SELECT 1"))
        thread.start()
        while not pool.stats().waiting:
            self.assertIs(thread.is_alive(), True)
        self.wrapper.close()
        thread.join(SOON)
        self.assertIs(thread.is_alive(), False)
        stats = pool.stats()
        self.assertEqual(stats.opened, 2)
        # The thread has ended, and its connection failed as well.
        self.assertEqual(stats.closed, {"not reset": 2})
        self.assertEqual((stats.waiting, stats.timeouts), (0, 0))

    def test_failure_in_the_background(self):
        self.start(max_size=2)
        self.wrapper.ensure_connection()
        self.other.ensure_connection()
        self.wrapper.close()
        closed = threading.Event()
        pooling = self.wrapper.pool.pooling
        close = pooling.close

        def closing(connection):
            close(connection)
            closed.set()

        with (
            mock.patch.object(pooling, "reset_in_time", side_effect=ZeroDivisionError),
            mock.patch.object(pooling, "close", closing),
        ):
            self.mark_dirty(self.other)
            self.other.close()
            self.assertIs(closed.wait(SOON), True)
        self.wrapper.ensure_connection()
        # There's room for another.
        self.other.ensure_connection()
        self.assertEqual(self.stats().closed, {"not reset": 1})
        self.assertEqual(self.stats().opened, 3)

    def mark_dirty(self, wrapper):
        wrapper._borrower.observe("SET a = 1")

    def test_killed_before_the_reset(self):
        if is_sqlite:
            self.skipTest("SQLite has no server.")
        self.start()
        session_id = self.session_id()
        self.mark_dirty(self.wrapper)
        self.kill(session_id, self.wrapper.connection)
        self.wrapper.close()
        self.assertEqual(sum(self.stats().closed.values()), 1)
        self.assertEqual(run(self.other, "SELECT 1"), (1,))

    def test_interrupted(self):
        """No slot is lost when Ctrl-C comes during a reset."""
        self.start()
        self.wrapper.ensure_connection()
        self.mark_dirty(self.wrapper)
        with mock.patch.object(
            self.wrapper.pool.pooling, "reset_in_time", side_effect=KeyboardInterrupt
        ):
            with self.assertRaises(KeyboardInterrupt):
                self.wrapper.close()
        stats = self.stats()
        self.assertEqual(stats.closed, {"not reset": 1})
        self.assertEqual((stats.size, stats.resetting), (0, 0))
        self.assertEqual(run(self.other, "SELECT 1"), (1,))

    def test_pool_closed_during_a_reset(self):
        self.start(reset=lambda connection: self.block(connection))
        self.wrapper.ensure_connection()
        pool = self.wrapper.pool

        def close():
            self.assertIs(self.entered.wait(SOON), True)
            pool.close()
            self.go_on.set()

        thread = threading.Thread(target=close)
        thread.start()
        self.wrapper.close()
        thread.join(SOON)
        stats = pool.stats()
        self.assertEqual(stats.closed, {"pool closed": 1})
        self.assertEqual(stats.size, 0)


@unittest.skipIf(is_sqlite, "SQLite has no server.")
class SlowResetTests(SessionTestCase):
    """A reset that takes too long is given up, along with its connection."""

    sleep = "SELECT pg_sleep(30)" if is_postgresql else "SELECT SLEEP(30)"

    def setUp(self):
        super().setUp()
        self.enterContext(
            mock.patch.object(self.wrapper.pooling_class, "reset_timeout", 0.05)
        )

    def assertGivenUp(self):
        run(self.wrapper, "SELECT 1")
        session_id = self.session_id()
        # The server doesn't notice that nobody is there any more.
        self.addCleanup(self.end_session, session_id)
        with self.assertNotLasting():
            self.wrapper.close()
        self.assertEqual(self.stats().closed, {"not reset": 1})
        self.assertEqual(run(self.other, "SELECT 1"), (1,))
        self.assertNotEqual(self.session_id(self.other), session_id)

    def end_session(self, session_id):
        if is_postgresql:
            sql = f"SELECT pg_terminate_backend({session_id}, {SOON * 1000})"
        else:
            sql = f"KILL {session_id}"
        with contextlib.suppress(DatabaseError):
            self.execute_unpooled(sql)

    @contextlib.contextmanager
    def assertNotLasting(self):
        """It doesn't wait for a server that sleeps for long."""
        since = time.monotonic()
        yield
        self.assertLess(time.monotonic() - since, SOON)

    def test_callable(self):
        calls = []

        def reset(connection):
            calls.append(1)
            if len(calls) == 1:
                run_by_driver(mock.Mock(connection=connection), self.sleep)

        self.start(reset=reset)
        self.assertGivenUp()

    @unittest.skipIf(is_pymysql, "PyMySQL can't reset a session.")
    def test_receiver(self):
        calls = []

        def receiver(wrapper):
            calls.append(1)
            if len(calls) == 2:
                run(wrapper, self.sleep)

        with self.receiver(receiver):
            self.start(reset="always")
            self.assertGivenUp()
            self.other.close()
            self.start()

    @unittest.skipUnless(is_postgresql, "PostgreSQL tests")
    def test_server_that_waits_for_a_lock(self):
        """To drop a temporary table, it needs a lock of its own."""
        self.addCleanup(self.end_session, self.session_id())
        run(self.wrapper, "CREATE TEMP TABLE pool_test (a int)")
        (name,) = run(
            self.wrapper,
            "SELECT format('%I.pool_test', pg_my_temp_schema()::regnamespace::text)",
        )
        blocker = self.unpooled()
        blocker.set_autocommit(False)
        run(blocker, f"LOCK TABLE {name} IN ACCESS SHARE MODE")
        try:
            with self.assertNotLasting():
                self.wrapper.close()
        finally:
            blocker.rollback()
            blocker.close()
        self.assertEqual(self.stats().closed, {"not reset": 1})
        self.assertEqual(run(self.other, "SELECT 1"), (1,))


class ThreadSessionTests(SessionTestCase):
    def test_state_of_a_thread_that_ended(self):
        sql, see = {
            "postgresql": ("SET statement_timeout = 54321", "SHOW statement_timeout"),
            "mysql": ("SET @pool_test = 1", "SELECT @pool_test"),
            "sqlite": ("PRAGMA cache_size = 54321", "PRAGMA cache_size"),
        }[connection.vendor]
        before = run(self.wrapper, see)
        self.wrapper.close()
        run_in_thread(lambda: run(connections[ALIAS], sql) and None)
        self.assertEqual(run(self.wrapper, see), before)
