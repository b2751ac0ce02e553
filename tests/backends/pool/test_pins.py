"""What pins a connection under POOL["lease"] = "transaction"."""

import gc
import unittest
from unittest import mock

from django.db import DatabaseError, connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.pool import pins, policy
from django.test import SimpleTestCase
from django.utils.connection import ConnectionProxy

from .test_lease_policy import LeaseTestCase, is_postgresql
from .utils import ALIAS, SOON, run_in_thread

# Statements that change the session on each database.
CHANGES = {
    "postgresql": [
        "SET statement_timeout = '1h'",
        "CREATE TEMPORARY TABLE pins_test (number integer)",
        "LISTEN pins_test",
        "SELECT pg_advisory_lock(4711)",
        "PREPARE pins_test AS SELECT 1",
        "SELECT set_config('search_path', 'public', false)",
    ],
    "mysql": [
        "SET @pins_test = 1",
        "SELECT GET_LOCK('pins_test', 0)",
        "CREATE TEMPORARY TABLE pins_test (number integer)",
        "SET SESSION sql_mode = ''",
    ],
    "sqlite": [
        "PRAGMA cache_size = 99",
        "CREATE TEMPORARY TABLE pins_test (number integer)",
        "ATTACH DATABASE ':memory:' AS pins_test",
    ],
}[connection.vendor]


class SessionStateTests(LeaseTestCase):
    def test_session_state_stays_with_the_borrower_until_close(self):
        for sql in CHANGES:
            with self.subTest(sql):
                self.query(sql)
                self.assertHolds("session state")
                slot = self.slot()
                self.query("SELECT 1")
                with transaction.atomic(ALIAS):
                    self.query("SELECT 1")
                self.assertIs(self.slot(), slot)
                self.assertHolds("session state")
                self.wrapper.close()
                self.assertEqual(self.in_use, 0)
                self.query("SELECT 1")
                self.assertHoldsNothing()
                self.wrapper.close()

    def test_the_reason_names_the_statement(self):
        self.query(CHANGES[0])
        [(holder, pin)] = self.wrapper.pool.pins()
        self.assertEqual(pin.name, pins.SESSION_STATE)
        self.assertIn(CHANGES[0].split()[1], pin.reason)
        self.assertIn("MainThread", holder)
        self.assertIn(pin.reason, str(self.wrapper._borrower.holding))
        self.assertIn("session state", repr(pin))

    def test_the_reason_holds_no_data(self):
        sql = "SET statement_timeout = 4711; SELECT 'secret'"
        self.assertNotIn("secret", policy.shorten(sql))

    @unittest.skipUnless(is_postgresql, "Speaks of PostgreSQL's settings.")
    def test_state_is_seen_by_its_borrower_and_by_nobody_else(self):
        self.query("SET statement_timeout = '1h'")
        show = "SHOW statement_timeout"
        self.assertEqual(self.query(show), ("1h",))

        def ask_elsewhere():
            wrapper = connections[ALIAS]
            try:
                return self.query(show, wrapper=wrapper)
            finally:
                wrapper.close()

        self.assertNotEqual(run_in_thread(ask_elsewhere), ("1h",))
        self.wrapper.close()
        self.assertNotEqual(self.query(show), ("1h",))

    @unittest.skipUnless(is_postgresql, "Speaks of PostgreSQL's settings.")
    def test_set_local_is_part_of_its_transaction(self):
        with transaction.atomic(ALIAS):
            self.query("SET LOCAL statement_timeout = '1h'")
        self.assertHoldsNothing()

    def test_an_attribute_of_the_driver(self):
        name = {
            "postgresql": "cursor_factory",
            "mysql": "cursorclass",
            "sqlite": "row_factory",
        }[connection.vendor]
        with self.wrapper.cursor() as cursor:
            cursor.execute("SELECT 1")
            driver_connection = self.slot().connection
            kind = getattr(driver_connection, name) or tuple
            setattr(driver_connection, name, type("Other", (kind,), {}))
            del driver_connection
        self.assertHolds("session state")


class RawConnectionTests(LeaseTestCase):
    def test_what_was_done_to_it_is_undone(self):
        self.use_pool(**{**self.pool_options, "max_size": 1})
        change, look = {
            "postgresql": ("SET work_mem = '7777kB'", "SHOW work_mem"),
            "mysql": ("SET @pool_test = 7777", "SELECT @pool_test"),
            "sqlite": ("PRAGMA cache_size = 7777", "PRAGMA cache_size"),
        }[connection.vendor]
        for prepare in (lambda: self.query("SELECT 1"), self.wrapper.ensure_connection):
            prepare()
            cursor = self.wrapper.connection.cursor()
            cursor.execute(change)
            cursor.close()
            del cursor
            self.wrapper.close()
            self.assertNotIn("7777", str(self.query(look)))
            self.wrapper.close()

    def test_nothing_is_undone_if_it_was_not_read(self):
        self.use_pool(**{**self.pool_options, "max_size": 1})
        self.query("SELECT 1")
        with mock.patch.object(
            self.wrapper.pool.pooling, "reset", side_effect=AssertionError
        ):
            self.wrapper.ensure_connection()
            self.wrapper.close()
        self.query("SELECT 1")
        self.assertEqual((self.stats().opened, self.stats().closed), (1, {}))

    def test_nothing_is_undone_when_it_was_read_before(self):
        self.wrapper.ensure_connection()
        self.wrapper.connection
        self.wrapper.close()
        closed = self.stats().closed
        with mock.patch.object(
            self.wrapper.pool.pooling, "reset", side_effect=AssertionError
        ):
            self.wrapper.ensure_connection()
            self.wrapper.close()
        self.assertEqual(self.stats().closed, closed)

    def test_reading_the_attribute_between_statements(self):
        self.query("SELECT 1")
        self.assertIsNotNone(self.wrapper.connection)
        self.assertHolds("raw connection")
        slot = self.slot()
        self.query("SELECT 1")
        self.assertIs(self.slot(), slot)
        self.assertEqual((self.stats().opened, self.stats().closed), (1, {}))
        self.wrapper.close()
        self.assertEqual(self.in_use, 0)

    def test_reading_the_attribute_when_the_pool_was_closed(self):
        self.query("SELECT 1")
        self.wrapper.close_pool()
        self.assertIsNotNone(self.wrapper.connection)
        self.assertHolds("raw connection")

    def test_reading_the_attribute_in_another_thread(self):
        names = {"__name__": "app", "wrapper": self.wrapper}
        with transaction.atomic(ALIAS):
            found = run_in_thread(eval, "wrapper.connection", names)
            self.assertIs(found, self.slot().connection)
            self.assertHolds("transaction")
        del found

    def test_reading_the_attribute_while_a_cursor_is_open(self):
        with self.wrapper.cursor() as cursor:
            cursor.execute("SELECT 1")
            self.assertIs(self.wrapper.connection, self.slot().connection)
        self.assertHolds("raw connection")

    def test_reading_the_attribute_in_a_transaction(self):
        with transaction.atomic(ALIAS):
            self.wrapper.connection
        self.assertHolds("raw connection")

    def test_through_django_db_connections(self):
        self.query("SELECT 1")
        proxy = ConnectionProxy(connections, ALIAS)
        self.assertIs(proxy.connection, self.slot().connection)
        self.assertHolds("raw connection")
        self.wrapper.close()
        with transaction.atomic(ALIAS):
            self.assertIs(proxy.connection, self.slot().connection)
        self.assertHolds("raw connection")

    def test_ensure_connection(self):
        self.wrapper.ensure_connection()
        self.assertHolds("raw connection")
        self.wrapper.close()
        self.query("SELECT 1")
        self.assertHoldsNothing()
        self.wrapper.ensure_connection()
        self.assertHolds("raw connection")

    def test_temporary_connection(self):
        with self.wrapper.temporary_connection() as cursor:
            cursor.execute("SELECT 1")
            self.assertEqual(self.in_use, 1)
        self.assertEqual(self.in_use, 0)
        # It had opened the connection, for all that the caller knows.
        self.assertIsNone(self.wrapper.connection)
        self.query("SELECT 1")
        with self.wrapper.temporary_connection() as cursor:
            cursor.execute("SELECT 1")
        self.assertHoldsNothing()
        self.assertIsNotNone(self.wrapper.connection)

    def test_the_connection_of_a_cursor(self):
        with self.wrapper.cursor() as cursor:
            cursor.execute("SELECT 1")
            try:
                kept = cursor.connection
            except AttributeError as e:
                raise unittest.SkipTest("The driver's cursors don't tell.") from e
        self.assertHolds("reference")
        del kept, cursor
        self.query("SELECT 1")
        self.assertHoldsNothing()

    def test_an_attribute_replaced_by_a_test(self):
        self.query("SELECT 1")
        with mock.patch.object(self.wrapper, "connection", "something"):
            self.assertEqual(self.wrapper.connection, "something")
        self.assertEqual(self.query("SELECT 1"), (1,))
        self.wrapper.close()
        self.assertEqual(self.in_use, 0)

    def test_read_in_another_thread(self):
        self.query("SELECT 1")
        # It may look, not borrow: the wrapper isn't its own.
        self.assertIsNone(run_in_thread(lambda: self.wrapper.connection))
        self.assertHoldsNothing()

    def test_a_module_of_the_backend_may_read_it(self):
        class ThirdPartyWrapper(type(self.wrapper)):
            def create_cursor(self, name=None):
                self.seen = self.connection
                self.seen = None
                return super().create_cursor(name)

        wrapper = ThirdPartyWrapper({**self.settings_dict}, ALIAS)
        self.addCleanup(self.close, wrapper)
        self.assertEqual(self.query("SELECT 1", wrapper=wrapper), (1,))
        self.assertIsNone(wrapper._borrower.lease)


class ExplicitTests(LeaseTestCase):
    def test_pinned(self):
        with self.wrapper.pinned():
            # Borrowed when it's needed.
            self.assertEqual(self.in_use, 0)
            self.query("SELECT 1")
            slot = self.slot()
            with self.wrapper.pinned():
                self.query("SELECT 1")
            self.assertHolds("pinned()")
            self.query("SELECT 1")
            self.assertIs(self.slot(), slot)
        self.assertHoldsNothing()

    def test_given_back_if_the_block_raises(self):
        with self.assertRaises(ZeroDivisionError), self.wrapper.pinned():
            self.query("SELECT 1")
            1 / 0
        self.assertHoldsNothing()

    def test_closed_inside_of_the_block(self):
        with self.wrapper.pinned():
            self.query("SELECT 1")
            self.wrapper.close()
            self.assertEqual(self.in_use, 0)
            self.query("SELECT 1")
            self.assertHolds("pinned()")
        self.assertHoldsNothing()

    def test_without_a_pool(self):
        wrapper = self.unpooled()
        with wrapper.pinned():
            self.assertEqual(self.query("SELECT 1", wrapper=wrapper), (1,))

    def test_shared_between_threads(self):
        self.wrapper.inc_thread_sharing()
        self.addCleanup(self.wrapper.dec_thread_sharing)
        self.query("SELECT 1")
        self.assertHolds("shared between threads")
        self.assertEqual(run_in_thread(lambda: self.query("SELECT 1")), (1,))

    def test_counted(self):
        with transaction.atomic(ALIAS):
            pass
        with transaction.atomic(ALIAS):
            pass
        self.wrapper.ensure_connection()
        self.assertEqual(self.stats().pins, {"transaction": 2, "raw connection": 1})


class BackendTests(SimpleTestCase):
    def test_modules_of_a_third_partys_backend(self):
        parts = {"__module__": "acme.operations"}
        names = {"__module__": "acme.base", "ops_class": type("Operations", (), parts)}
        wrapper_class = type("DatabaseWrapper", (BaseDatabaseWrapper,), names)
        for module, expected in (
            ("acme.base", True),
            ("acme.operations", True),
            ("acme.views", False),
        ):
            self.assertIs(policy.is_backend(module, wrapper_class), expected)


class ReportTests(LeaseTestCase):
    pool_options = {**LeaseTestCase.pool_options, "report_pins": True}

    def setUp(self):
        super().setUp()
        # However slow the machine is.
        self.enterContext(mock.patch.object(pins, "REPORT_CURSORS_AFTER", SOON))

    def assertReported(self, function, *texts):
        with self.assertLogs("django.db.pool", "WARNING") as logs:
            function()
        [message] = logs.output
        for text in (*texts, __name__.rpartition(".")[2], function.__name__):
            self.assertIn(text, message)

    def test_session_state(self):
        def change_the_session():
            with self.wrapper.cursor() as cursor:
                cursor.execute(CHANGES[0])
            self.wrapper.close()

        self.assertReported(change_the_session, "session state", "pinned for 0.")

    def test_raw_connection(self):
        def ask_for_it():
            self.wrapper.ensure_connection()
            self.wrapper.close()

        self.assertReported(ask_for_it, "ensure_connection() was called")

    def test_transaction(self):
        def do_it_at_once():
            with transaction.atomic(ALIAS):
                self.query("SELECT 1")

        self.assertReported(do_it_at_once, "transaction")

    def test_open_cursor(self):
        def leave_it_open():
            cursor = self.wrapper.cursor()
            cursor.execute("SELECT 1")
            cursor.close.pin.since -= 2 * pins.REPORT_CURSORS_AFTER
            cursor.close()

        self.assertReported(leave_it_open, "cursor")

    def test_dropped_cursor(self):
        def drop_it():
            cursor = self.wrapper.cursor()
            cursor.execute("SELECT 1")
            cursor.close.pin.since -= 2 * pins.REPORT_CURSORS_AFTER
            del cursor
            gc.collect()

        self.assertReported(drop_it, "cursor")

    def test_reference(self):
        def keep_the_exception():
            try:
                with self.wrapper.cursor() as cursor:
                    cursor.execute("SELECT 1 FROM nowhere")
            except DatabaseError as e:
                kept = e
            self.query("SELECT 1")
            self.assertEqual(self.stats().pins["reference"], 1)
            del kept
            self.query("SELECT 1")

        self.assertReported(keep_the_exception, "reference")

    def test_shared(self):
        def share_it():
            self.wrapper.inc_thread_sharing()
            with self.wrapper.cursor() as cursor:
                cursor.execute("SELECT 1")
            self.wrapper.dec_thread_sharing()
            self.query("SELECT 1")

        self.assertReported(share_it, "shared between threads")

    def test_a_statement_that_is_over_in_time(self):
        with self.assertNoLogs("django.db.pool"):
            self.query("SELECT 1")

    def test_off(self):
        self.use_pool(**{**self.pool_options, "report_pins": False})
        with self.assertNoLogs("django.db.pool"):
            self.wrapper.ensure_connection()
            self.wrapper.close()
            with transaction.atomic(ALIAS):
                pass


@unittest.skipUnless(is_postgresql, "PgBouncer is for PostgreSQL.")
class PoolerTests(LeaseTestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(mock.patch.object(policy, "_warned", set()))
        self.settings_dict["DISABLE_SERVER_SIDE_CURSORS"] = True

    def test_state_that_a_pooler_loses_is_named_once(self):
        with self.assertLogs("django.db.pool", "WARNING") as logs:
            for _ in range(2):
                with self.wrapper.cursor() as cursor:
                    cursor.execute("SET statement_timeout = '1h'")
                self.wrapper.close()
        [message] = logs.output
        self.assertIn("'SET statement_timeout =' changes the state", message)
        self.assertIn(__name__.rpartition(".")[2], message)

    def test_nothing_to_warn_of(self):
        with self.assertNoLogs("django.db.pool"):
            with transaction.atomic(ALIAS):
                self.query("SET LOCAL statement_timeout = '1h'")
            self.settings_dict["DISABLE_SERVER_SIDE_CURSORS"] = False
            self.query("SET statement_timeout = '1h'")


@unittest.skipUnless(is_postgresql, "Only PostgreSQL has server-side cursors.")
class ServerSideCursorTests(LeaseTestCase):
    def test_held_until_closed(self):
        with self.wrapper.chunked_cursor() as cursor:
            cursor.execute("SELECT generate_series(1, 5)")
            self.assertHolds("server-side cursor")
            self.assertEqual(cursor.fetchone(), (1,))
            # Another statement is served by the same connection.
            slot = self.slot()
            self.query("SELECT 1")
            self.assertIs(self.slot(), slot)
            self.assertEqual(cursor.fetchall(), [(2,), (3,), (4,), (5,)])
            self.assertHolds("server-side cursor")
        self.assertHoldsNothing()
