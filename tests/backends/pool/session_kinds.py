"""
Kinds of state that a session has: how a borrower sets it, and how the next one
would see it. The table in docs/topics/db/pooling.txt says the same.
"""

import itertools
from dataclasses import dataclass

from django.db import DatabaseError, connection

from ..models import Square

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

    def receive(wrapper):
        run(wrapper, "LISTEN pool_test")
        run(wrapper, "NOTIFY pool_test")

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
    # Another lock: the session that had that one may not have ended yet.
    yield Kind("advisory lock, tried", "SELECT pg_try_advisory_lock(54322)", locks)
    yield Kind(
        "LISTEN",
        "LISTEN pool_test",
        "SELECT COUNT(*) FROM pg_listening_channels()",
    )
    yield Kind(
        "notifications that nobody has read",
        receive,
        lambda wrapper: len(
            wrapper.connection.notifies
            if is_psycopg2
            else wrapper.connection._notifies_backlog
        ),
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
        from psycopg import ClientCursor, ServerCursor
        from psycopg.rows import dict_row
        from psycopg.types.string import StrDumper, TextLoader

        class Dumper(StrDumper):
            pass

        class Loader(TextLoader):
            pass

        for name, value in [
            ("prepare_threshold", 3),
            ("prepared_max", 7),
            ("row_factory", dict_row),
            ("cursor_factory", type("Cursor", (ClientCursor,), {})),
            ("server_cursor_factory", type("Cursor", (ServerCursor,), {})),
        ]:
            yield Kind(f"driver: {name}", set_attribute(name, value), attribute(name))
        yield Kind(
            "driver: adapters",
            lambda wrapper: wrapper.connection.adapters.register_dumper(str, Dumper),
            lambda wrapper: wrapper.connection.adapters.get_dumper(str, "s"),
            closes=True,
        )
        yield Kind(
            "driver: loaders",
            lambda wrapper: wrapper.connection.adapters.register_loader("date", Loader),
            lambda wrapper: wrapper.connection.adapters.get_loader(1082, 0),
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
    from MySQLdb.constants import FIELD_TYPE

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
    decoders = "decoders" if is_pymysql else "converter"
    for name, key in [("encoders", frozenset), (decoders, FIELD_TYPE.LONG)]:
        yield Kind(
            f"driver: {name}",
            lambda wrapper, name=name, key=key: getattr(
                wrapper.connection, name
            ).update({key: print}),
            lambda wrapper, name=name, key=key: getattr(wrapper.connection, name).get(
                key
            ),
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


class Aggregate:
    """An aggregate function for SQLite."""

    def step(self, value):
        pass

    inverse = step

    def value(self):
        return 1

    finalize = value


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
        # Not isolation_level's way to control transactions any more.
        ("autocommit", False),
        ("autocommit", True),
    ]:
        yield Kind(f"driver: {name}", set_attribute(name, value), attribute(name))
    yield Kind(
        "function",
        call("create_function", "pool_test", 0, lambda: 1),
        succeeds("SELECT pool_test()"),
    )
    yield Kind(
        "aggregate",
        call("create_aggregate", "pool_test", 1, Aggregate),
        succeeds("SELECT pool_test(1)"),
    )
    if hasattr(connection.Database.Connection, "create_window_function"):
        yield Kind(
            "window function",
            call("create_window_function", "pool_test", 1, Aggregate),
            succeeds("SELECT pool_test(1) OVER ()"),
        )
    yield Kind(
        "collation",
        call("create_collation", "pool_test", lambda a, b: 0),
        succeeds("SELECT 1 ORDER BY 'a' COLLATE pool_test"),
    )
    for what, name, args in [
        ("progress handler", "set_progress_handler", [1]),
        ("trace callback", "set_trace_callback", []),
        ("authorizer", "set_authorizer", []),
    ]:
        yield Kind(what, *changes(name, *args))
    limit = connection.Database.SQLITE_LIMIT_SQL_LENGTH
    yield Kind(
        "limit",
        call("setlimit", limit, 54321),
        lambda wrapper: wrapper.connection.getlimit(limit),
    )
    config = connection.Database.SQLITE_DBCONFIG_ENABLE_TRIGGER
    yield Kind(
        "configuration",
        call("setconfig", config, False),
        lambda wrapper: wrapper.connection.getconfig(config),
    )
    yield Kind(
        "hidden: by the driver's connection",
        lambda wrapper: run_by_driver(wrapper, "PRAGMA case_sensitive_like = 1"),
        "SELECT 'a' LIKE 'A'",
        visible=False,
    )
