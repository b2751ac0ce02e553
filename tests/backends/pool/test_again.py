"""
What a wrapper does when it borrows again, without its connect(), and what is
said of borrowers that hold a connection for too long.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from .utils import ALIAS, SOON, FakeClock, PooledTestCase, wait_until


class BorrowAgainTests(PooledTestCase):
    def setUp(self):
        super().setUp()
        self.wrapper.ensure_connection()
        self.wrapper.close()

    def counting(self, owner):
        """Count the calls of connect(), as an attribute of an owner."""
        connect = owner.connect
        return mock.patch.object(
            owner,
            "connect",
            autospec=isinstance(owner, type),
            side_effect=connect,
        )

    def test_connect_is_spared(self):
        with mock.patch.object(type(self.wrapper), "check_settings") as connecting:
            self.wrapper.ensure_connection()
        connecting.assert_not_called()
        self.assertEqual(self.query("SELECT 1"), (1,))

    def test_connect_patched_on_the_class_is_called(self):
        with self.counting(BaseDatabaseWrapper) as connect:
            self.wrapper.ensure_connection()
        connect.assert_called_once()

    def test_connect_patched_on_the_wrapper_is_called(self):
        with self.counting(self.wrapper) as connect:
            self.wrapper.ensure_connection()
        connect.assert_called_once()

    def test_connect_of_a_subclass_is_called(self):
        calls = []

        class Wrapper(type(self.wrapper)):
            def connect(self):
                calls.append(self)
                super().connect()

        wrapper = Wrapper(self.settings_dict, self.wrapper.alias)
        self.addCleanup(self.close, wrapper)
        for _ in range(2):
            wrapper.ensure_connection()
            wrapper.close()
        self.assertEqual(len(calls), 2)

    def test_changed_settings_are_noticed(self):
        old = self.wrapper.pool
        self.settings_dict["POOL"] = {"max_size": 2}
        self.wrapper.ensure_connection()
        self.assertIsNot(self.wrapper.pool, old)
        self.assertIs(old.closed, True)

    def test_state_is_that_of_a_new_connection(self):
        self.wrapper.ensure_connection()
        self.wrapper.errors_occurred = True
        self.wrapper.needs_rollback = True
        self.wrapper.health_check_done = False
        self.wrapper.close()
        self.wrapper.ensure_connection()
        self.assertIs(self.wrapper.errors_occurred, False)
        self.assertIs(self.wrapper.needs_rollback, False)
        self.assertIs(self.wrapper.health_check_done, True)
        self.assertEqual(self.wrapper.run_on_commit, [])

    def test_after_a_block_that_closed_the_connection(self):
        with transaction.atomic(using=self.wrapper.alias):
            self.query("SELECT 1")
            self.wrapper.close()
        self.assertEqual(self.query("SELECT 1"), (1,))
        self.assertIs(self.wrapper.closed_in_transaction, False)
        self.assertIs(self.wrapper.get_autocommit(), True)

    def test_error_on_connecting_is_wrapped(self):
        error = self.wrapper.Database.OperationalError("refused")
        self.wrapper.pool.drain()
        with mock.patch.object(
            type(self.wrapper), "get_new_connection", side_effect=error
        ):
            with self.assertRaisesMessage(Exception, "refused") as caught:
                self.wrapper.ensure_connection()
        self.assertEqual(type(caught.exception).__module__, "django.db.utils")
        self.assertEqual(self.query("SELECT 1"), (1,))


class LeakWarningTests(PooledTestCase):
    def setUp(self):
        super().setUp()
        self.use_pool(leak_warning=5)
        self.pool = self.wrapper.pool
        self.pool._clock = self.clock = FakeClock()

    def test_reported_once_with_the_stack(self):
        self.wrapper.ensure_connection()
        self.clock.advance(4)
        with self.assertNoLogs("django.db.pool", "WARNING"):
            self.assertLessEqual(self.pool.maintain(), 1)
        with self.assertLogs("django.db.pool", "WARNING") as logs:
            self.clock.advance(1)
            self.pool.maintain()
            wait_until(lambda: logs.output)
            self.clock.advance(10)
            self.pool.maintain()
        (output,) = logs.output
        self.assertIn("has been held for 5.0 s by thread 'MainThread'", output)
        self.assertIn("test_reported_once_with_the_stack", output)

    def test_each_lease_is_reported(self):
        # The maintenance thread may be first to report one.
        with self.assertLogs("django.db.pool", "WARNING") as logs:
            for number in (1, 2):
                self.wrapper.ensure_connection()
                self.clock.advance(6)
                self.pool.maintain()
                wait_until(lambda: len(logs.output) == number)
                self.wrapper.close()

    def check_idle_executor(self, executor, run):
        """
        A thread of an executor has done its work and waits for more. It goes
        on to hold a connection that was left in a transaction. That's reported
        once, until it borrows again.

        run: has a function run on that thread, and waits for it.
        """

        def borrow_for_a_while():
            connections[ALIAS].set_autocommit(False)

        outputs = []
        with self.assertLogs("django.db.pool", "WARNING") as logs:
            run(borrow_for_a_while)
            for _ in range(3):
                self.clock.advance(6)
                self.pool.maintain()
            wait_until(lambda: logs.output)
            outputs += logs.output
        (output,) = outputs
        self.assertRegex(output, r"held for \d+\.\d s by thread '[^']*_0'")
        self.assertIn("in borrow_for_a_while", output)
        self.assertNotIn("in check_idle_executor", output)
        with self.assertLogs("django.db.pool", "WARNING") as logs:
            run(lambda: connections[ALIAS].close())
            run(borrow_for_a_while)
            self.clock.advance(6)
            self.pool.maintain()
            wait_until(lambda: logs.output)
        self.assertEqual(len(logs.output), 1)
        self.assertEqual(self.pool.stats().in_use, 1)
        executor.shutdown()
        wait_until(lambda: self.pool.stats().in_use == 0)

    def test_thread_of_an_executor(self):
        executor = ThreadPoolExecutor(1)
        self.check_idle_executor(
            executor, lambda function: executor.submit(function).result(SOON)
        )

    def test_thread_of_asyncio(self):
        executor = ThreadPoolExecutor(1)

        async def run(function):
            asyncio.get_running_loop().set_default_executor(executor)
            await asyncio.to_thread(function)

        with asyncio.Runner() as runner:
            self.check_idle_executor(
                executor, lambda function: runner.run(run(function))
            )

    def test_given_back_in_time(self):
        self.wrapper.ensure_connection()
        self.wrapper.close()
        self.clock.advance(10)
        with self.assertNoLogs("django.db.pool", "WARNING"):
            self.pool.maintain()
