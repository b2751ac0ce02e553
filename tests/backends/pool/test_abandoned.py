"""
Many borrowers of every kind that end without giving back: no slot is lost.

A few of each by default; POOL_TEST_ABANDONED says how many.
"""

import asyncio
import gc
import os
import threading
import unittest
from concurrent.futures import ThreadPoolExecutor

from django.db import connections

from .utils import ALIAS, PooledTestCase, wait_until

COUNT = int(os.environ.get("POOL_TEST_ABANDONED", 40))

MAX_SIZE = 2


class AbandonedTests(PooledTestCase):
    # Whoever waits for a slot that was lost fails after this time.
    pool_options = {"max_size": MAX_SIZE, "timeout": 10}

    def setUp(self):
        super().setUp()
        # A collection then looks only at what this test has made.
        gc.collect()
        gc.freeze()
        self.addCleanup(gc.unfreeze)
        # Its thread goes on to live.
        self.executor = self.enterContext(ThreadPoolExecutor(1))

    def use(self, wrapper, number):
        """Use a wrapper's connection; every other time in a transaction."""
        if number % 2:
            wrapper.set_autocommit(False)
        self.query("SELECT 1", wrapper=wrapper)

    def borrow(self, number):
        """Return a wrapper that holds a connection."""
        wrapper = self.wrapper.copy()
        self.use(wrapper, number)
        return wrapper

    def assertNothingLost(self, abandon):
        """
        Abandon many leases, of which the pool has room for a few. Then all of
        its slots can be borrowed.
        """
        for number in range(COUNT):
            abandon(number)
            # When this is done, its thread has let go of the job before.
            self.executor.submit(int).result()
            # Wrappers and frames are parts of reference cycles.
            gc.collect()
        pool = self.wrapper.pool
        others = [self.copy() for _ in range(MAX_SIZE)]
        for wrapper in others:
            wrapper.ensure_connection()
        for wrapper in others:
            wrapper.close()
        stats = pool.stats()
        self.assertEqual((stats.in_use, stats.connecting), (0, 0))
        self.assertEqual(stats.idle, stats.size)
        self.assertEqual((stats.timeouts, stats.waiting), (0, 0))
        self.assertLessEqual(stats.size, MAX_SIZE)
        wait_until(lambda: not pool._state.to_close)

    def test_wrapper(self):
        self.assertNothingLost(lambda number: self.borrow(number) and None)

    def test_lease(self):
        def abandon(number):
            # Of a connection or, when there's none, of a permit to open one.
            self.wrapper.pool.acquire()
            if number % 2:
                # The next one has a connection.
                self.wrapper.ensure_connection()
                self.wrapper.close()

        self.assertNothingLost(abandon)

    def test_thread(self):
        def abandon(number):
            thread = threading.Thread(
                target=lambda: self.use(connections[ALIAS], number)
            )
            thread.start()
            thread.join()

        self.assertNothingLost(abandon)

    def test_executor_thread(self):
        def abandon(number):
            with ThreadPoolExecutor(1) as executor:
                executor.submit(lambda: self.use(connections[ALIAS], number)).result()

        self.assertNothingLost(abandon)

    def test_generator(self):
        def rows(number):
            wrapper = self.borrow(number)
            with wrapper.cursor() as cursor:
                cursor.execute("SELECT 1 UNION SELECT 2")
                while row := cursor.fetchone():
                    yield row

        def abandon(number):
            next(rows(number))

        self.assertNothingLost(abandon)

    def test_task(self):
        async def hold(number, held):
            loop = asyncio.get_running_loop()
            wrapper = await loop.run_in_executor(self.executor, self.borrow, number)
            held.set_result(wrapper.alias)
            # It never comes back.
            await asyncio.Event().wait()

        async def start(number):
            held = asyncio.get_running_loop().create_future()
            task = asyncio.create_task(hold(number, held))
            await asyncio.wait([task, held], return_when=asyncio.FIRST_COMPLETED)
            self.assertIs(held.done(), True)
            # Nobody is to be told that it was destroyed.
            task._log_destroy_pending = False

        def abandon(number):
            loop = asyncio.new_event_loop()
            try:
                loop.run_until_complete(start(number))
            finally:
                loop.close()

        self.assertNothingLost(abandon)

    def test_cancelled_task(self):
        async def cancel(number):
            loop = asyncio.get_running_loop()
            task = loop.run_in_executor(self.executor, self.borrow, number)
            # The thread's job may have begun or not.
            for _ in range(number % 3):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

        self.assertNothingLost(lambda number: asyncio.run(cancel(number)))

    @unittest.skipUnless(hasattr(os, "fork"), "Needs os.fork().")
    def test_child_process(self):
        """What a child of a fork holds isn't the parent's."""

        def abandon(number):
            if (pid := os.fork()) == 0:
                try:
                    self.wrapper.ensure_connection()
                finally:
                    os._exit(0)
            os.waitpid(pid, 0)

        self.assertNothingLost(abandon)
