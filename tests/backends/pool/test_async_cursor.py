"""Raw SQL in asynchronous code, and what becomes of canceled queries."""

import asyncio
import threading
import unittest
from concurrent.futures import Future
from unittest import mock

from django.db import (
    InterfaceError,
    NotSupportedError,
    connection,
    connections,
    transaction,
)
from django.db.async_routing import sync_to_async
from django.db.pool import workers

from .async_utils import AsyncPoolTestCase
from .utils import ALIAS, SOON, PooledTestCase, wait_until


class CursorTests(AsyncPoolTestCase):
    async def test_cursor(self):
        async with connections[ALIAS].acursor() as cursor:
            self.assertEqual(self.in_use(), 1)
            sql = "INSERT INTO backends_square (root, square) VALUES (%s, %s)"
            await cursor.execute(sql, [1, 1])
            await cursor.executemany(sql, [(root, root**2) for root in range(2, 300)])
            await cursor.execute("SELECT root FROM backends_square ORDER BY root")
            self.assertEqual(cursor.description[0][0], "root")
            self.assertEqual(await cursor.fetchone(), (1,))
            self.assertEqual(list(await cursor.fetchmany(2)), [(2,), (3,)])
            rows = [row[0] async for row in cursor]
            self.assertEqual(rows, list(range(4, 300)))
            self.assertEqual(list(await cursor.fetchall()), [])
        self.assertEqual(self.in_use(), 0)
        self.assertEqual(self.stats().closed, {})

    async def test_connection_is_kept_whatever_comes_last(self):
        methods = {
            "execute": ["SELECT 1"],
            "fetchone": [],
            "fetchmany": [],
            "fetchall": [],
        }
        for name, args in methods.items():
            with self.subTest(name):
                async with connections[ALIAS].acursor() as cursor:
                    await cursor.execute("SELECT 1")
                    await getattr(cursor, name)(*args)
                self.assertEqual(self.stats().closed, {})

    async def test_used_outside_of_its_block(self):
        cursor = connections[ALIAS].acursor()
        with self.assertRaisesMessage(InterfaceError, "'async with'"):
            await cursor.execute("SELECT 1")
        async with cursor:
            await cursor.execute("SELECT 1")
        with self.assertRaisesMessage(InterfaceError, "'async with'"):
            await cursor.fetchone()
        self.assertEqual(self.in_use(), 0)

    async def test_needs_the_option(self):
        self.use_pool(concurrent_async=False)
        with self.assertRaisesMessage(NotSupportedError, "concurrent_async"):
            async with connections[ALIAS].acursor():
                pass

    @unittest.skipUnless(connection.vendor == "postgresql", "Calls a function.")
    async def test_callproc(self):
        async with connections[ALIAS].acursor() as cursor:
            await cursor.callproc("abs", [-4])
            self.assertEqual(await cursor.fetchall(), [(4,)])
        self.assertEqual(self.in_use(), 0)

    async def test_what_the_last_statement_did(self):
        async with connections[ALIAS].acursor() as cursor:
            await cursor.execute(
                "INSERT INTO backends_square (root, square) VALUES (1, 1), (2, 4)"
            )
            self.assertEqual(cursor.rowcount, 2)
            if connection.vendor != "postgresql":
                self.assertGreater(cursor.lastrowid, 0)

    def test_queries_of_the_same_task_need_no_other_worker(self):
        self.use_pool(max_size=1, timeout=1)

        async def main():
            async with connections[ALIAS].acursor() as cursor:
                await cursor.execute("SELECT 1")
                return await self.squares.acount()

        self.assertEqual(asyncio.run(main()), 0)

    def test_in_a_block(self):
        async def main():
            async with transaction.atomic(using=ALIAS):
                async with connections[ALIAS].acursor() as cursor:
                    await cursor.execute("INSERT INTO backends_square VALUES (1, 1, 1)")
                self.assertEqual(await self.squares.acount(), 1)
                transaction.set_rollback(True, using=ALIAS)

        asyncio.run(main())
        self.assertEqual(self.roots(), [])


@unittest.skipIf(connection.vendor == "sqlite", "There's no server.")
class CancelQueryTests(AsyncPoolTestCase):
    sleep = {"postgresql": "SELECT pg_sleep(60)", "mysql": "SELECT SLEEP(60)"}

    def setUp(self):
        super().setUp()
        self.use_pool(cancel_queries=True, max_size=2)

    def wait(self):
        self.query(self.sleep[connection.vendor], wrapper=connections[ALIAS])

    async def cancel(self, awaitable):
        task = asyncio.create_task(awaitable)
        await asyncio.to_thread(wait_until, lambda: self.in_use() == 1)
        # It isn't known when the server has the query.
        while not await asyncio.to_thread(self.is_sleeping):
            pass
        task.cancel()
        await asyncio.wait([task], timeout=SOON)
        self.assertIs(task.cancelled(), True)

    def is_sleeping(self):
        sql = {
            "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE query LIKE "
            "'SELECT pg_sleep(60%%'",
            "mysql": "SELECT count(*) FROM information_schema.processlist WHERE info "
            "LIKE 'SELECT SLEEP(60%%'",
        }[connection.vendor]
        wrapper = connections.create_connection(ALIAS)
        wrapper.settings_dict = {**wrapper.settings_dict, "POOL": None}
        try:
            return self.query(sql, [], wrapper)[0]
        finally:
            wrapper.close()

    def test_query_is_canceled_and_its_connection_discarded(self):
        async def main():
            await self.cancel(sync_to_async(self.wait)())
            await asyncio.to_thread(wait_until, lambda: self.in_use() == 0)
            self.assertEqual(self.stats().idle, 0)
            self.assertEqual(await self.squares.acount(), 0)

        asyncio.run(main())

    def test_in_a_block(self):
        async def block():
            async with transaction.atomic(using=ALIAS):
                await self.add(1)
                await sync_to_async(self.wait)()

        async def main():
            await self.cancel(block())
            await asyncio.to_thread(wait_until, lambda: self.in_use() == 0)
            self.assertEqual(self.stats().idle, 0)

        asyncio.run(main())
        self.assertEqual(self.roots(), [])


class LateCancelTests(PooledTestCase):
    """A lease that ends with a statement may end while that's canceled."""

    pool_options = {"max_size": 1, "lease": "transaction", "cancel_queries": True}

    def cancel(self):
        """Cancel what the wrapper is used for. Return what was canceled."""
        canceled = []
        job = workers.Job(Future(), None)
        job.interruption = threading.Event()
        pooling = self.wrapper.pool.pooling
        with (
            mock.patch.object(
                workers.registry, "borrowers_of", lambda _: [self.wrapper._borrower]
            ),
            mock.patch.object(pooling, "cancel_query", canceled.append),
        ):
            job._interrupt()
        return canceled

    def test_given_back_before(self):
        self.query("SELECT 1")
        self.assertEqual(self.cancel(), [])

    def test_given_back_at_the_last_moment(self):
        with self.wrapper.pinned():
            self.query("SELECT 1")
            slot = self.slot()

            class Ending(type(slot)):
                __slots__ = ()

                def __setattr__(self, name, value):
                    if name == "generation":
                        wrapper.close()
                    super().__setattr__(name, value)

            wrapper, slot.__class__ = self.wrapper, Ending
            self.assertEqual(self.cancel(), [])
        self.assertEqual(self.stats().in_use, 0)

    def test_closed_after_that(self):
        with self.wrapper.pinned():
            self.query("SELECT 1")
            self.assertEqual(len(self.cancel()), 1)
        self.assertEqual(self.stats().idle, 0)
