"""Waits that could never end are refused at once (rule 10)."""

import threading
from contextlib import contextmanager
from unittest import mock

from django.db import DatabaseError, connections, transaction
from django.db.backends.signals import connection_created
from django.db.pool import PoolDeadlock, PoolTimeout, deadlock

from .utils import ALIAS, SOON, PooledTestCase, wait_until


class DeadlockTestCase(PooledTestCase):
    # A wait that isn't refused ends a test that should have seen a refusal.
    pool_options = {"max_size": 1, "timeout": SOON, "lease": "transaction"}

    def setUp(self):
        super().setUp()
        self.addCleanup(self.assertEqual, deadlock._waiting, {})

    def other_pools_wrapper(self):
        """Return a wrapper with another pool than the alias has."""
        return self.copy(POOL={**self.pool_options, "name": "other"})

    @contextmanager
    def wrapper_here(self, **settings):
        """Provide a wrapper of the present thread with settings of its own."""
        wrapper = self.wrapper.copy()
        wrapper.settings_dict.update(settings)
        try:
            yield wrapper
        finally:
            wrapper.close()

    def hold_the_alias_and_ask_the_other(self, holds):
        options = {**self.pool_options, "name": "other"}
        with transaction.atomic(ALIAS), self.wrapper_here(POOL=options) as other:
            holds.set()
            return self.query("SELECT 1", wrapper=other)

    def start(self, function, *args):
        """Run a function in a thread. Return the list of its result."""
        results = []

        def run():
            try:
                results.append(function(*args))
            except BaseException as e:
                results.append(e)
            finally:
                if hasattr(connections._connections, ALIAS):
                    connections[ALIAS].close()

        thread = threading.Thread(target=run, name="elsewhere")
        thread.start()
        self.addCleanup(thread.join, SOON)
        return thread, results


class RefusedTests(DeadlockTestCase):
    def test_a_thread_that_waits_for_what_it_holds(self):
        other = self.copy()
        with transaction.atomic(ALIAS):
            with self.assertRaises(PoolDeadlock) as context:
                self.query("SELECT 1", wrapper=other)
        message = str(context.exception)
        self.assertIn("thread 'MainThread' (pinned: transaction", message)
        self.assertIn("which is this thread", message)
        self.assertIn("test_a_thread_that_waits_for_what_it_holds", message)
        # The refusal cost nothing.
        self.assertEqual(self.query("SELECT 1", wrapper=other), (1,))
        self.assertEqual(self.stats().waiting, 0)

    def test_is_a_timeout_to_code_that_knows_no_better(self):
        self.assertTrue(issubclass(PoolDeadlock, PoolTimeout))

    def test_two_threads_that_wait_for_each_others_pools(self):
        holds = threading.Event()
        other = self.other_pools_wrapper()
        pool, other_pool = self.wrapper.pool, other.pool

        with other.pinned():
            self.query("SELECT 1", wrapper=other)
            thread, results = self.start(self.hold_the_alias_and_ask_the_other, holds)
            self.assertTrue(holds.wait(SOON))
            wait_until(lambda: other_pool.stats().waiting)
            with self.assertRaises(PoolDeadlock) as context:
                self.query("SELECT 1")
        message = str(context.exception)
        self.assertIn("thread 'elsewhere' (pinned: transaction", message)
        self.assertIn("hold_the_alias_and_ask_the_other", message)
        self.assertIn("It waits for 'other'", message)
        # It was waiting for this thread, and is served now.
        thread.join(SOON)
        self.assertEqual(results, [(1,)])
        self.assertEqual(pool.stats().in_use, 0)

    def test_all_holders_of_a_pool_want_another_connection(self):
        self.use_pool(max_size=3, timeout=SOON, lease="transaction")
        pool = self.wrapper.pool
        all_hold = threading.Barrier(3, timeout=SOON)

        def hold_and_want_more():
            with transaction.atomic(ALIAS), self.wrapper_here() as other:
                all_hold.wait()
                return self.query("SELECT 1", wrapper=other)

        started = [self.start(hold_and_want_more) for _ in range(3)]
        for thread, _ in started:
            thread.join(SOON)
        results = [result for _, results in started for result in results]
        # Whoever came last was refused, which served the others.
        refused = [result for result in results if isinstance(result, PoolDeadlock)]
        self.assertEqual(len(refused), 1)
        self.assertEqual(results.count((1,)), 2)
        self.assertEqual(pool.stats().waiting, 0)

    def test_who_holds_nothing_keeps_nobody_waiting(self):
        """They aren't asked whether they do, which takes another lock."""
        enter = self.enterContext(
            mock.patch.object(deadlock, "enter", side_effect=deadlock.enter)
        )
        with transaction.atomic(ALIAS):
            self.query("SELECT 1")
            thread, results = self.start(self.query_here)
            wait_until(lambda: self.stats().waiting)
        thread.join(SOON)
        self.assertEqual(results, [(1,)])
        enter.assert_not_called()

    def query_here(self):
        with self.wrapper_here() as wrapper:
            return self.query("SELECT 1", wrapper=wrapper)

    def test_under_request_too(self):
        self.use_pool(max_size=1, timeout=SOON, lease="request")
        self.query("SELECT 1")
        with self.assertRaisesMessage(PoolDeadlock, "It waits for 'pooled', here:"):
            self.query("SELECT 1", wrapper=self.copy())

    def check_opening(self, other):
        """Query another wrapper while a connection is opened."""
        refused = []

        def query(connection, **kwargs):
            if connection is not self.wrapper:
                return
            with self.assertRaisesMessage(PoolDeadlock, "is being opened by thread"):
                self.query("SELECT 1", wrapper=other)
            refused.append(True)

        connection_created.connect(query)
        self.addCleanup(connection_created.disconnect, query)
        self.query("SELECT 1")
        self.assertEqual(refused, [True])
        self.assertEqual(self.query("SELECT 1", wrapper=other), (1,))

    def test_a_thread_that_waits_for_what_it_opens(self):
        self.check_opening(self.copy())

    def test_a_thread_that_waits_for_its_turn_to_open(self):
        self.use_pool(**{**self.pool_options, "max_size": 2}, connecting=1)
        self.check_opening(self.copy())

    def test_with_leak_warning(self):
        self.use_pool(max_size=1, timeout=SOON, leak_warning=SOON)
        self.query("SELECT 1")
        with self.assertRaises(PoolDeadlock):
            self.query("SELECT 1", wrapper=self.copy())


class NotRefusedTests(DeadlockTestCase):
    """Where there's hope."""

    def wait_in_thread(self, body):
        """
        Have a thread wait for the alias, which is held. Return what it gets
        after a callable was called.
        """
        pool = self.wrapper.pool
        thread, results = self.start(
            lambda: self.query("SELECT 1", wrapper=connections[ALIAS])
        )
        wait_until(lambda: pool.stats().waiting or results)
        self.assertEqual(results, [])
        body()
        thread.join(SOON)
        self.assertEqual(results, [(1,)])

    def test_the_holder_is_not_waiting(self):
        self.query("SELECT 1")
        with self.wrapper.pinned():
            self.query("SELECT 1")
            self.wait_in_thread(self.wrapper.close)

    def test_one_holder_of_several_is_not_waiting(self):
        self.use_pool(max_size=2, timeout=SOON, lease="transaction")
        release = threading.Event()
        holds = threading.Event()

        def hold():
            with transaction.atomic(ALIAS):
                holds.set()
                release.wait(SOON)

        self.start(hold)
        self.addCleanup(release.set)
        self.assertTrue(holds.wait(SOON))
        with transaction.atomic(ALIAS):
            with self.assertRaises(PoolTimeout) as context:
                self.wrapper.pool.acquire(timeout=0.01)
        self.assertNotIsInstance(context.exception, PoolDeadlock)

    def test_the_wrapper_is_shared_with_another_thread(self):
        self.wrapper.inc_thread_sharing()
        self.addCleanup(self.wrapper.dec_thread_sharing)
        self.query("SELECT 1")
        with self.assertRaises(PoolTimeout) as context:
            self.wrapper.pool.acquire(timeout=0.01)
        self.assertNotIsInstance(context.exception, PoolDeadlock)

    def test_nobody_knows_who_holds(self):
        pool = self.wrapper.pool
        self.query("SELECT 1")
        lease = pool.acquire(owner="a stranger")
        with self.assertRaises(PoolTimeout) as context:
            pool.acquire(timeout=0.01)
        self.assertNotIsInstance(context.exception, PoolDeadlock)
        pool.release(lease)

    def test_a_pool_that_may_grow(self):
        self.use_pool(max_size=2, timeout=SOON, lease="transaction")
        with transaction.atomic(ALIAS):
            self.assertEqual(self.query("SELECT 1", wrapper=self.copy()), (1,))

    def test_a_holder_that_waits_for_one_that_goes_on(self):
        """A chain of waits that has an end."""
        other = self.other_pools_wrapper()
        other_pool = other.pool
        holds = threading.Event()

        with other.pinned():
            self.query("SELECT 1", wrapper=other)
            thread, results = self.start(self.hold_the_alias_and_ask_the_other, holds)
            self.assertTrue(holds.wait(SOON))
            wait_until(lambda: other_pool.stats().waiting)
            self.wait_in_thread(other.close)
        thread.join(SOON)
        self.assertEqual(results, [(1,)])

    def test_a_slot_handed_over_is_nobodys_until_it_is_taken(self):
        pool = self.wrapper.pool
        with transaction.atomic(ALIAS):
            slot = self.slot()
            done = []

            def wait():
                done.append(pool.acquire())

            thread = threading.Thread(target=wait)
            thread.start()
            wait_until(lambda: pool.stats().waiting)
            with pool._lock:
                # As in PoolState.release(), and before the waiter runs.
                lease = self.wrapper._borrower.lease
                slot = lease.end()
                pool._state.release(slot, pool.now())
                self.assertIsNone(slot.owner)
                pool._wake()
            thread.join(SOON)
            pool.release(done[0])
            self.wrapper._borrower.lease = None

    def test_a_slot_that_was_lost_on_its_way_back(self):
        other = self.copy()
        self.query("SELECT 1")
        lease = self.wrapper.pool.acquire(owner=self.wrapper._borrower.holding)
        # As an exception in release() leaves it.
        del lease._slot
        self.assertEqual(self.query("SELECT 1", wrapper=other), (1,))
        self.assertEqual(self.stats().abandoned, 1)

    def test_what_a_dropped_exception_kept_is_given_back(self):
        other = self.copy()
        try:
            self.query("SELECT 1 FROM nowhere")
        except DatabaseError:
            self.assertEqual(self.stats().pinned, {"reference": 1})
        self.assertEqual(self.query("SELECT 1", wrapper=other), (1,))
        self.assertEqual(self.stats().closed, {})

    def test_what_an_exception_keeps_that_is_being_handled(self):
        try:
            self.query("SELECT 1 FROM nowhere")
        except DatabaseError:
            with self.assertRaises(PoolDeadlock):
                self.query("SELECT 1", wrapper=self.copy())

    def test_what_is_being_borrowed_is_kept(self):
        other = self.copy()
        self.query("SELECT 1")

        def ask_for_another(wrapper, name=None):
            lease = wrapper._borrower.lease
            with self.assertRaises(PoolDeadlock):
                self.query("SELECT 1", wrapper=other)
            self.assertIs(wrapper._borrower.lease, lease)
            raise ValueError

        with mock.patch.object(type(self.wrapper), "create_cursor", ask_for_another):
            with self.assertRaises(ValueError):
                self.wrapper.cursor()

    def test_forgotten_after_a_fork(self):
        deadlock._waiting[0] = self.wrapper.pool
        deadlock.forget()
        self.assertEqual(deadlock._waiting, {})
