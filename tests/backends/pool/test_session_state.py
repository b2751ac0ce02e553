"""Nothing of a session passes from one borrower to the next."""

import contextlib
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from django.db import DatabaseError, connection, connections, transaction

from .session_cases import SessionTestCase
from .session_kinds import (
    closes_instead,
    driver,
    is_mysql,
    is_postgresql,
    is_psycopg2,
    is_psycopg3,
    is_sqlite,
    mysql_kinds,
    postgresql_kinds,
    run,
    sqlite_kinds,
)
from .utils import ALIAS, run_in_thread, wait_until


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

    def test_other_methods_that_execute_are_seen(self):
        if is_sqlite:
            name, sql, see = (
                "executescript",
                "PRAGMA case_sensitive_like = 1;",
                "SELECT 'a' LIKE 'A'",
            )
        elif is_psycopg3:
            name, sql, see = (
                "stream",
                "SELECT set_config('statement_timeout', '54321', false)",
                "SHOW statement_timeout",
            )
        else:
            self.skipTest("The driver has none.")
        before = run(self.wrapper, see)
        for debug in [False, True]:
            for kwargs in [{}, {"query": sql}] if is_psycopg3 else [{}]:
                with self.subTest(debug=debug, kwargs=kwargs):
                    self.wrapper.force_debug_cursor = debug
                    with self.wrapper.cursor() as cursor:
                        args = [] if kwargs else [sql]
                        list(getattr(cursor, name)(*args, **kwargs))
                    self.assertNotEqual(run(self.wrapper, see), before)
                    self.wrapper.close()
                    self.assertEqual(run(self.other, see), before)
                    self.other.close()
        if is_psycopg3:
            # The statement is looked at.
            self.start()
            with self.wrapper.cursor() as cursor:
                list(cursor.stream("SELECT 1"))
            self.assertEqual(self.wrapper._borrower.traces, 0)

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

    @unittest.skipUnless(is_postgresql, "PostgreSQL tests")
    def test_no_transaction_is_left_by_a_receiver(self):
        """What it set stays."""
        for wrapper in (self.wrapper, self.other):
            wrapper.settings_dict["AUTOCOMMIT"] = False
        with self.receiver(lambda wrapper: run(wrapper, "SET lock_timeout = 54321")):
            for options in [{"reset": "always"}, {"min_size": 1}]:
                with self.subTest(options=options):
                    self.start(**options)
                    pool = self.wrapper.pool
                    if "reset" in options:
                        run(self.wrapper, "SELECT 1")
                        self.wrapper.close()
                    wait_until(lambda: pool.stats().idle == 1)
                    (slot,) = pool.slots()
                    self.assertIs(pool.pooling.in_transaction(slot.connection), False)
                    del slot
                    for _ in range(2):
                        self.assertEqual(
                            run(self.wrapper, "SHOW lock_timeout"), ("54321ms",)
                        )
                        self.wrapper.rollback()
                    self.wrapper.close()
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
    def test_user_from_a_file(self):
        """Nobody is made the user that has no name."""
        path = Path(self.enterContext(tempfile.TemporaryDirectory()), "my.cnf")
        keys = {"USER": "user", "PASSWORD": "password"}
        lines = [f"{key}={self.settings_dict[name]}" for name, key in keys.items()]
        path.write_text("\n".join(["[client]", *lines]))
        for wrapper in (self.wrapper, self.other):
            wrapper.settings_dict.update(USER="", PASSWORD="")
        self.set_option(read_default_file=str(path))
        run(self.wrapper, "SET @pool_test = 1")
        driver = type(self.wrapper.connection)
        change_user = mock.Mock(side_effect=AssertionError)
        with mock.patch.object(driver, "change_user", change_user, create=True):
            self.wrapper.close()
        self.assertEqual(change_user.mock_calls, [])
        self.assertEqual(self.stats().closed, {"not reset": 1})
        self.assertEqual(run(self.other, "SELECT @pool_test"), (None,))

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
    def test_functions_of_receivers(self):
        """They are part of opening."""

        def receiver(wrapper):
            wrapper.connection.create_function("pool_test", 0, lambda: 1)

        with self.receiver(receiver):
            for _ in range(3):
                self.assertEqual(run(self.wrapper, "SELECT pool_test()"), (1,))
                self.wrapper.close()
            self.assertEqual(self.stats().opened, 1)

    @unittest.skipUnless(is_sqlite, "SQLite tests")
    def test_class_of_connections(self):
        """A project's own is used, and changes are noticed all the same."""

        class Connection(self.wrapper.Database.Connection):
            pass

        see = "SELECT COUNT(*) FROM pragma_function_list WHERE name = 'pool_test'"
        for factory, noticed in [
            (Connection, True),
            # What it returns is what it is.
            (lambda *args, **kwargs: Connection(*args, **kwargs), False),
        ]:
            with self.subTest(noticed=noticed):
                self.start()
                self.set_option(factory=factory)
                run(self.wrapper, "SELECT 1")
                self.assertIsInstance(self.wrapper.connection, Connection)
                self.wrapper.close()
                self.assertEqual(self.stats().idle, 1)
                self.wrapper.ensure_connection()
                self.wrapper.connection.create_function("pool_test", 0, lambda: 1)
                self.wrapper.close()
                self.assertEqual(run(self.other, see), (0 if noticed else 1,))

    @unittest.skipUnless(is_sqlite, "SQLite tests")
    def test_functions_of_django(self):
        see = "SELECT django_date_extract('year', '2026-01-01'), LENGTH('a')"
        run(self.wrapper, see)
        self.wrapper.connection.create_function("LENGTH", 1, lambda value: 7)
        run(self.wrapper, "PRAGMA cache_size = 1")
        self.wrapper.close()
        self.assertEqual(run(self.other, see), (2026, 1))


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
