"""When a wrapper gives its connection back under each POOL["lease"]."""

import gc
import sys
import threading
import unittest
from test import support
from unittest import mock

from django.core.signals import request_finished, request_started
from django.db import (
    DatabaseError,
    Error,
    OperationalError,
    close_old_connections,
    connection,
    connections,
    transaction,
)
from django.db.backends.signals import connection_created
from django.db.pool import LeaseEnded
from django.test.utils import override_settings

from .utils import ALIAS, SOON, PooledTestCase, run_in_thread

is_sqlite = connection.vendor == "sqlite"
is_postgresql = connection.vendor == "postgresql"


class LeaseTestCase(PooledTestCase):
    pool_options = {"max_size": 4, "timeout": SOON, "lease": "transaction"}

    @property
    def in_use(self):
        return self.stats().in_use

    @property
    def pins(self):
        """The names of the pins of the pool's connections, sorted."""
        return sorted(self.stats().pinned)

    def assertHolds(self, *pins):
        self.assertEqual(self.in_use, 1)
        self.assertEqual(self.pins, sorted(pins))

    def assertHoldsNothing(self):
        self.assertEqual(self.pins, [])
        self.assertEqual(self.in_use, 0)
        self.assertIsNone(self.wrapper._borrower.lease)


class RequestTests(LeaseTestCase):
    pool_options = {"max_size": 4, "timeout": SOON}

    def test_held_from_the_first_statement_to_close(self):
        self.query("SELECT 1")
        self.assertEqual(self.in_use, 1)
        with transaction.atomic(ALIAS):
            self.query("SELECT 1")
        self.assertEqual(self.in_use, 1)
        self.wrapper.close()
        self.assertEqual(self.in_use, 0)

    def test_nothing_is_counted_as_pinned(self):
        with transaction.atomic(ALIAS), self.wrapper.pinned():
            self.query("SELECT 1")
            self.assertEqual(self.stats().pinned, {})
        self.assertEqual(self.stats().pins, {})


class StatementTests(LeaseTestCase):
    def test_nothing_is_held_before_the_first_statement(self):
        self.wrapper.pool
        self.assertEqual(self.in_use, 0)

    def test_given_back_when_the_cursor_is_closed(self):
        with self.wrapper.cursor() as cursor:
            cursor.execute("SELECT 1")
            self.assertHolds("cursor")
            self.assertEqual(list(cursor.fetchall()), [(1,)])
        self.assertHoldsNothing()

    def test_given_back_when_the_cursor_is_dropped(self):
        cursor = self.wrapper.cursor()
        cursor.execute("SELECT 1")
        self.assertHolds("cursor")
        del cursor
        gc.collect()
        self.assertHoldsNothing()

    def test_given_back_when_the_last_of_several_cursors_is_closed(self):
        first, second = self.wrapper.cursor(), self.wrapper.cursor()
        first.execute("SELECT 1")
        first.fetchall()
        first.close()
        self.assertHolds("cursor")
        second.execute("SELECT 2")
        self.assertEqual(second.fetchone(), (2,))
        second.close()
        self.assertHoldsNothing()

    def test_closing_twice_changes_nothing(self):
        cursor = self.wrapper.cursor()
        cursor.close()
        other = self.wrapper.cursor()
        cursor.close()
        self.assertHolds("cursor")
        other.execute("SELECT 1")
        other.close()
        self.assertHoldsNothing()

    def test_the_same_connection_serves_the_next_statement(self):
        for _ in range(5):
            self.query("SELECT 1")
        stats = self.stats()
        self.assertEqual((stats.opened, stats.acquired), (1, 5))

    def test_borrowing_again_sends_no_signal(self):
        receiver = mock.Mock()
        connection_created.connect(receiver)
        self.addCleanup(connection_created.disconnect, receiver)
        for _ in range(3):
            self.query("SELECT 1")
        self.assertEqual(receiver.call_count, 1)

    def test_a_failed_statement_gives_back(self):
        with self.assertRaises(DatabaseError):
            self.query("SELECT nonsense FROM nowhere")
        self.query("SELECT 1")
        self.assertHoldsNothing()

    def test_what_was_read_of_a_closed_cursor_remains(self):
        self.create_table(rows=3)
        with self.wrapper.cursor() as cursor:
            cursor.execute(f"UPDATE {self.table} SET number = number")
            self.assertEqual(cursor.rowcount, 3)
        plain = self.unpooled()
        with plain.cursor() as expected:
            expected.execute(f"UPDATE {self.table} SET number = number")
        self.assertEqual(cursor.rowcount, expected.rowcount)
        self.assertEqual(cursor.description, expected.description)

    def test_a_closed_cursor_does_not_lead_to_the_connection(self):
        with self.wrapper.cursor() as cursor:
            cursor.execute("SELECT 1")
        error = self.wrapper.features.closed_cursor_error_class
        for use in (
            lambda: cursor.execute("SELECT 1"),
            lambda: cursor.connection,
            lambda: cursor.fetchone(),
            lambda: list(cursor),
        ):
            with self.assertRaises(error):
                use()

    def test_a_cursor_left_open_ends_with_close(self):
        cursor = self.wrapper.cursor()
        cursor.execute("SELECT 1")
        self.wrapper.close()
        with self.assertRaises(LeaseEnded):
            cursor.fetchone()
        # The next borrowing isn't its affair.
        other = self.wrapper.cursor()
        cursor.close()
        self.assertHolds("cursor")
        other.close()
        self.assertHoldsNothing()

    def test_many_threads_share_few_connections(self):
        count, size = 200, 20
        self.use_pool(max_size=size, timeout=SOON, lease="transaction")
        pool = self.wrapper.pool
        in_use = []
        all_are_held = threading.Barrier(size, timeout=SOON)
        # Nobody could pass if a thread held what it doesn't use.
        all_are_outside = threading.Barrier(
            count, action=lambda: in_use.append(pool.stats().in_use), timeout=SOON
        )
        results = []

        def work():
            wrapper = connections[ALIAS]
            try:
                first = self.query("SELECT 1", wrapper=wrapper)
                with transaction.atomic(ALIAS):
                    second = self.query("SELECT 2", wrapper=wrapper)
                    all_are_held.wait()
                all_are_outside.wait()
                third = self.query("SELECT 3", wrapper=wrapper)
                results.append((first, second, third))
            finally:
                wrapper.close()

        threads = [threading.Thread(target=work) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(3 * SOON)
        self.assertEqual(results, [((1,), (2,), (3,))] * count)
        self.assertEqual(in_use, [0])
        stats = pool.stats()
        self.assertEqual((stats.opened, stats.timeouts, stats.in_use), (size, 0, 0))

    def test_the_state_of_a_wrapper_between_statements(self):
        self.query("SELECT 1")
        self.assertIs(self.wrapper.get_autocommit(), True)
        self.assertHoldsNothing()
        with self.assertRaisesMessage(
            transaction.TransactionManagementError, "outside of an 'atomic' block"
        ):
            self.wrapper.get_rollback()
        self.wrapper.commit()
        self.wrapper.rollback()
        called = []
        self.wrapper.on_commit(lambda: called.append(1))
        self.assertEqual(called, [1])
        self.assertHoldsNothing()

    def test_get_autocommit_first_of_all(self):
        self.assertIs(self.wrapper.get_autocommit(), True)
        self.assertHoldsNothing()

    def test_health_checks_and_close_old_connections(self):
        self.query("SELECT 1")
        request_started.disconnect(close_old_connections)
        self.addCleanup(request_started.connect, close_old_connections)
        self.wrapper.close_if_unusable_or_obsolete()
        self.assertHoldsNothing()
        self.assertIsNone(self.wrapper.connection)

    def test_close_between_statements(self):
        self.query("SELECT 1")
        self.wrapper.close()
        self.assertIsNone(self.wrapper.connection)
        self.assertEqual(self.query("SELECT 1"), (1,))

    def test_changed_settings_bring_another_pool(self):
        self.query("SELECT 1")
        pool = self.wrapper.pool
        self.wrapper.close()
        self.wrapper.settings_dict["POOL"] = {**self.pool_options, "max_size": 3}
        self.query("SELECT 1")
        self.assertIsNot(self.wrapper.pool, pool)
        self.assertIs(pool.closed, True)

    @override_settings(USE_TZ=True)
    def test_another_time_zone_between_statements(self):
        """That takes no connection, and the next one is right."""
        self.query("SELECT 1")
        with mock.patch.object(self.wrapper, "connect", side_effect=AssertionError):
            settings = override_settings(TIME_ZONE="Africa/Nairobi")
            settings.enable()
        self.addCleanup(settings.disable)
        self.assertHoldsNothing()
        if is_postgresql:
            self.assertEqual(self.query("SHOW TIMEZONE")[0], self.wrapper.timezone_name)
        self.assertEqual(self.query("SELECT 1"), (1,))

    def test_a_lease_that_ends_while_a_cursor_is_made(self):
        self.query("SELECT 1")
        create_cursor = self.wrapper.create_cursor

        def end_lease(name=None):
            cursor = create_cursor(name)
            lease = self.wrapper._borrower.lease
            lease.pool.abandon(lease.end())
            return cursor

        with mock.patch.object(self.wrapper, "create_cursor", end_lease):
            self.wrapper.cursor().close()
        self.assertEqual(self.query("SELECT 1"), (1,))
        self.assertHoldsNothing()

    def test_a_closed_pool_is_replaced_between_statements(self):
        self.query("SELECT 1")
        self.wrapper.close_pool()
        self.assertEqual(self.query("SELECT 1"), (1,))
        self.assertHoldsNothing()

    def test_a_failing_connect_is_tried_once_and_its_error_is_djangos(self):
        for ask in (
            lambda: self.query("SELECT 1"),
            lambda: self.wrapper.connection,
            lambda: self.wrapper.ensure_connection(),
        ):
            self.query("SELECT 1")
            self.wrapper.pool.drain()
            with mock.patch.object(
                type(self.wrapper),
                "get_new_connection",
                side_effect=self.wrapper.Database.OperationalError("down"),
            ) as get_new_connection:
                with self.assertRaisesMessage(OperationalError, "down"):
                    ask()
            self.assertEqual(get_new_connection.call_count, 1)
            self.assertEqual(self.stats().size, 0)
            self.assertHoldsNothing()

    @override_settings(DEBUG=True)
    def test_with_the_queries_logged(self):
        self.query("SELECT %s", [1])
        self.assertHoldsNothing()
        self.assertIn("SELECT", self.wrapper.queries[-1]["sql"])


class TransactionTests(LeaseTestCase):
    def test_held_in_atomic_and_given_back_after_it(self):
        with transaction.atomic(ALIAS):
            self.assertHolds("transaction")
            slot = self.slot()
            self.query("SELECT 1")
            with transaction.atomic(ALIAS):
                self.query("SELECT 1")
            self.assertHolds("transaction")
            self.assertIs(self.slot(), slot)
        self.assertHoldsNothing()

    def test_given_back_after_a_rollback(self):
        with self.assertRaises(ZeroDivisionError), transaction.atomic(ALIAS):
            self.query("SELECT 1")
            1 / 0
        self.assertHoldsNothing()

    def test_what_atomic_does_is_done(self):
        self.create_table()
        with transaction.atomic(ALIAS):
            self.insert()
        with self.assertRaises(ZeroDivisionError), transaction.atomic(ALIAS):
            self.insert()
            1 / 0
        self.assertEqual(self.count(), 1)

    def test_on_commit_hooks_run_before_it_is_given_back(self):
        seen = []
        with transaction.atomic(ALIAS):
            self.wrapper.on_commit(lambda: seen.append(self.in_use))
            self.wrapper.on_commit(lambda: seen.append(self.query("SELECT 1")))
        self.assertEqual(seen, [1, (1,)])
        self.assertHoldsNothing()

    def test_given_back_if_a_hook_raises(self):
        with self.assertRaises(ZeroDivisionError), transaction.atomic(ALIAS):
            self.wrapper.on_commit(lambda: 1 / 0)
        self.assertHoldsNothing()

    def test_held_while_autocommit_is_off(self):
        self.create_table()
        self.wrapper.set_autocommit(False)
        self.assertHolds("transaction")
        self.insert()
        self.wrapper.rollback()
        self.assertHolds("transaction")
        self.insert()
        self.wrapper.commit()
        self.wrapper.set_autocommit(True)
        self.assertHoldsNothing()
        self.assertEqual(self.count(), 1)

    def test_held_while_sql_has_begun_a_transaction(self):
        self.create_table()
        slot = None
        for sql in ("BEGIN", f"INSERT INTO {self.table} VALUES (1)", "SELECT 1"):
            self.query(sql)
            self.assertIn("transaction", self.stats().pinned)
            slot = slot or self.slot()
            self.assertIs(self.slot(), slot)
        self.query("ROLLBACK")
        if connection.vendor == "mysql":
            # The driver doesn't tell whether the transaction has ended.
            self.assertHolds("transaction")
            self.wrapper.close()
            self.assertEqual(self.in_use, 0)
        else:
            self.assertHoldsNothing()
        self.assertEqual(self.count(), 0)

    def test_begun_by_sql_while_a_cursor_is_open(self):
        with self.wrapper.cursor() as cursor:
            cursor.execute("BEGIN")
            self.query("SELECT 1")
            self.assertHolds("cursor", "transaction")
            cursor.execute("ROLLBACK")

    def test_closed_inside_atomic(self):
        with self.assertRaises(Error), transaction.atomic(ALIAS):
            self.wrapper.close()
            self.assertEqual(self.in_use, 0)
            # It refuses whatever would be set as well.
            with self.assertRaises(self.wrapper.Database.InterfaceError):
                self.wrapper.connection.autocommit = True
            self.query("SELECT 1")
        self.assertEqual(self.query("SELECT 1"), (1,))
        self.assertHoldsNothing()

    def test_request_finished_gives_back_whatever_is_pinned(self):
        self.query("SELECT 1")
        self.wrapper.connection
        self.assertHolds("raw connection")
        with mock.patch.object(
            connections, "all", lambda initialized_only: [self.wrapper]
        ):
            request_finished.send(sender=self.__class__)
        self.assertHoldsNothing()

    def test_another_thread_never_gets_what_is_pinned(self):
        def slots_of_others():
            wrapper = connections[ALIAS]
            with wrapper.cursor() as cursor:
                cursor.execute("SELECT 1")
                slot = wrapper._borrower.lease.slot
            wrapper.close()
            return slot

        with transaction.atomic(ALIAS):
            mine = self.slot()
            for _ in range(3):
                self.assertIsNot(run_in_thread(slots_of_others), mine)


class DroppedCursorTests(LeaseTestCase):
    """Destructors run anywhere, in any thread."""

    def test_dropped_in_another_thread(self):
        cursors = [self.wrapper.cursor()]
        run_in_thread(cursors.clear)
        # It may not touch the connection. The next statement sees to it.
        self.assertEqual(self.in_use, 1)
        self.query("SELECT 1")
        self.assertHoldsNothing()

    def test_dropped_with_the_lock_held(self):
        cursor = self.wrapper.cursor()
        with self.wrapper.pool._lock:
            del cursor
        self.assertHoldsNothing()

    def test_dropped_with_a_generator_in_a_cycle(self):
        def iterate():
            cursor = self.wrapper.cursor()
            try:
                cursor.execute("SELECT 1")
                yield
            finally:
                cursor.close()

        cycle = [iterate()]
        next(cycle[0])
        cycle.append(cycle)
        with support.catch_unraisable_exception() as caught:
            del cycle
            gc.collect()
            self.assertIsNone(caught.unraisable)
        self.query("SELECT 1")
        self.assertHoldsNothing()

    def test_dropped_while_the_next_cursor_is_made(self):
        cursors = [self.wrapper.cursor()]
        create_cursor = self.wrapper.create_cursor

        def drop_and_create(name=None):
            cursors.clear()
            return create_cursor(name)

        with mock.patch.object(self.wrapper, "create_cursor", drop_and_create):
            self.assertEqual(self.query("SELECT 1"), (1,))
        self.assertHoldsNothing()

    def test_dropped_while_autocommit_is_set(self):
        cursors = [self.wrapper.cursor()]
        slot = self.slot()
        set_autocommit = self.wrapper._set_autocommit

        def drop_and_set(autocommit):
            cursors.clear()
            set_autocommit(autocommit)

        with mock.patch.object(self.wrapper, "_set_autocommit", drop_and_set):
            self.wrapper.set_autocommit(False)
        self.assertIs(self.slot(), slot)
        self.assertHolds("transaction")
        self.wrapper.set_autocommit(True)
        self.assertHoldsNothing()

    @unittest.skipUnless(is_postgresql, "Only PostgreSQL has them.")
    def test_dropped_server_side_cursor_is_no_other_borrowers(self):
        cursor = self.wrapper.chunked_cursor()
        cursor.execute("SELECT 1")
        self.assertHolds("server-side cursor")
        del cursor
        gc.collect()
        self.assertHolds("session state")
        self.wrapper.close()
        names = self.query("SELECT count(*) FROM pg_cursors")
        self.assertEqual(names, (0,))


class CallCountTests(LeaseTestCase):
    """What a statement costs, in calls of Python functions."""

    def count_calls(self):
        self.query("SELECT 1")
        calls = 0

        def count(frame, event, arg):
            nonlocal calls
            calls += event == "call"

        sys.setprofile(count)
        try:
            self.query("SELECT 1")
        finally:
            sys.setprofile(None)
        return calls

    def test_few_calls_more_than_with_the_connection_held(self):
        per_statement = self.count_calls()
        with self.wrapper.pinned():
            self.query("SELECT 1")
            pinned = self.count_calls()
        self.assertLessEqual(per_statement - pinned, 12)
