"""What outlives a lease, where two threads or two borrowers come together."""

import threading
import unittest

from django.db import InterfaceError, connection, connections, transaction

from .utils import ALIAS, SOON, PooledTestCase, run_in_thread


class GiveBackTests(PooledTestCase):
    def setUp(self):
        super().setUp()
        self.use_pool(max_size=2, timeout=SOON)

    def test_a_lease_given_back_by_many_threads_at_once(self):
        """It ends once. Its connection isn't in the pool twice."""
        self.wrapper.ensure_connection()
        pool = self.wrapper.pool
        self.wrapper.close()
        number = 8
        for end in [pool.release, pool.discard]:
            lease = pool.acquire()
            if lease.connection is None:
                pool.failed(lease, ValueError())
                continue
            barrier = threading.Barrier(number)
            ended = []

            def give_back():
                barrier.wait(SOON)
                ended.append(end(lease))

            threads = [threading.Thread(target=give_back) for _ in range(number)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(SOON)
            self.assertEqual(sorted(ended), [False] * (number - 1) + [True])
        stats = pool.stats()
        self.assertEqual((stats.size, stats.in_use), (0, 0))

    def test_a_wrapper_closed_by_two_threads_one_after_the_other(self):
        self.wrapper.ensure_connection()
        self.wrapper.inc_thread_sharing()
        self.addCleanup(self.wrapper.dec_thread_sharing)
        run_in_thread(self.wrapper.close)
        other = self.copy()
        other.ensure_connection()
        self.wrapper.close()
        run_in_thread(self.wrapper.close)
        self.assertEqual(self.query("SELECT 7", wrapper=other), (7,))
        self.assertEqual(self.stats().in_use, 1)

    def test_a_connection_that_somebody_keeps_is_not_lent_again(self):
        self.wrapper.ensure_connection()
        kept = self.wrapper.connection
        self.wrapper.close()
        stats = self.stats()
        self.assertEqual(stats.closed, {"unclean": 1})
        self.assertEqual(stats.idle, 0)
        self.wrapper.ensure_connection()
        self.assertIsNot(self.wrapper.connection, kept)

    def test_on_commit_of_an_interrupted_transaction(self):
        """Neither the same borrower nor the next one runs it later."""
        called = []
        with transaction.atomic(ALIAS):
            self.query("SELECT 1")
            transaction.on_commit(lambda: called.append(1), using=ALIAS)
            self.wrapper.close()

        def use():
            with transaction.atomic(ALIAS):
                self.query("SELECT 1", wrapper=connections[ALIAS])

        run_in_thread(use)
        use()
        self.assertEqual(called, [])


@unittest.skipUnless(connection.vendor == "postgresql", "PostgreSQL tests")
class ServerSideCursorTests(PooledTestCase):
    sql = "SELECT generate_series(1, 1000)"

    def setUp(self):
        super().setUp()
        self.use_pool(max_size=1, timeout=SOON)

    def read_half(self, wrapper):
        cursor = wrapper.chunked_cursor()
        cursor.execute(self.sql)
        self.assertEqual(cursor.fetchone(), (1,))
        return cursor

    def test_names_never_collide(self):
        """Wrappers of one thread count their cursors from one each."""
        cursors = []
        for wrapper in [self.wrapper, self.copy(), self.copy()]:
            for _ in range(2):
                cursors.append(self.read_half(wrapper))
                wrapper.close()
        for cursor in cursors:
            with self.assertRaises(InterfaceError):
                cursor.fetchone()
        self.assertEqual(self.query("SELECT COUNT(*) FROM pg_cursors"), (0,))
        stats = self.stats()
        self.assertEqual((stats.opened, stats.closed), (1, {}))

    def test_several_of_one_borrower_are_closed(self):
        cursors = [self.read_half(self.wrapper) for _ in range(3)]
        self.assertEqual(self.query("SELECT COUNT(*) FROM pg_cursors"), (3,))
        self.wrapper.close()
        self.assertEqual(self.query("SELECT COUNT(*) FROM pg_cursors"), (0,))
        for cursor in cursors:
            with self.assertRaises(InterfaceError):
                cursor.fetchall()
        self.assertEqual(self.stats().opened, 1)
