"""Asynchronous operations on a pool with concurrent_async."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from unittest import mock

from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from backends.models import Square

from django.db import DatabaseError, async_routing, connections, transaction
from django.db.backends.signals import connection_created
from django.db.pool import (
    PoolFull,
    PoolTimeout,
    aio,
    giving_back,
    waiting,
    worker_stats,
)
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext

from .async_utils import AsyncPoolTestCase
from .utils import ALIAS, SOON, FakeClock, run_in_thread, wait_until


class OperationTests(AsyncPoolTestCase):
    def test_operations_of_one_task_run_at_the_same_time(self):
        self.assertEqual(len(set(asyncio.run(self.meet(3)))), 3)
        self.assertEqual(self.in_use(), 0)

    async def test_operations_below_sync_code_run_at_the_same_time(self):
        self.assertEqual(len(set(await self.meet(4))), 4)

    async def test_nothing_is_held_after_an_operation(self):
        await self.add(1)
        self.assertEqual(self.in_use(), 0)
        self.assertEqual(await self.squares.acount(), 1)
        self.assertEqual(self.in_use(), 0)
        self.assertEqual(self.stats().opened, 1)

    def test_nothing_is_held_after_an_error(self):
        async def fail():
            await self.squares.aget(root=1)

        with self.assertRaises(Square.DoesNotExist):
            asyncio.run(fail())
        self.assertEqual(self.in_use(), 0)

    def test_more_operations_than_connections(self):
        self.use_pool(max_size=2)

        async def main():
            await asyncio.gather(*[self.add(root) for root in range(20)])

        asyncio.run(main())
        self.assertEqual(self.roots(), list(range(20)))
        self.assertLessEqual(self.stats().opened, 2)

    def test_sync_code_above_holds_nothing_meanwhile(self):
        self.use_pool(max_size=1, timeout=1)
        self.query("SELECT 1")
        self.assertEqual(self.in_use(), 1)

        async def main():
            await self.add(1)

        async_to_sync(main)()
        self.query("SELECT 1")
        # The event loop runs in the thread that holds the connection.
        asyncio.run(main())
        self.assertEqual(self.roots(), [1, 1])

    def test_deadline_of_a_worker(self):
        self.use_pool(max_size=1, timeout=0.05)
        go_on = threading.Event()
        self.addCleanup(go_on.set)

        async def main():
            hold = async_routing.sync_to_async(lambda: go_on.wait(SOON))
            task = asyncio.create_task(hold())
            await asyncio.sleep(0)
            with self.assertRaisesMessage(PoolTimeout, "No worker was free"):
                await self.add(1)
            go_on.set()
            await task
            await self.add(2)

        asyncio.run(main())
        self.assertEqual(self.roots(), [2])

    def check_one_deadline(self, use):
        """Wait for a worker, and then for a connection that doesn't come."""
        self.use_pool(max_size=1, timeout=2 * SOON)
        clock = FakeClock()
        self.enterContext(mock.patch.object(waiting, "line", waiting.Line(clock)))
        go_on = threading.Event()
        self.addCleanup(go_on.set)

        async def main():
            hold = async_routing.sync_to_async(lambda: go_on.wait(SOON))
            tasks = [asyncio.create_task(function()) for function in (hold, use)]
            await asyncio.sleep(0)
            self.assertEqual(len(waiting.line.places), 1)
            # The time that there was is used up when the worker comes.
            clock.advance(2 * SOON)
            go_on.set()
            begun = time.monotonic()
            with self.assertRaisesMessage(PoolTimeout, "had no connection"):
                await tasks[1]
            # It would be twice that if waiting for the connection began anew.
            self.assertLess(time.monotonic() - begun, SOON)

        pool = self.wrapper.pool
        lease = pool.acquire()
        asyncio.run(main())
        pool.failed(lease, None)
        # The next operation has all the time again.
        asyncio.run(self.add(1))
        self.assertEqual(self.roots(), [1])

    def test_one_deadline_for_the_worker_and_its_connection(self):
        self.check_one_deadline(self.squares.acount)

    def test_one_deadline_of_an_iteration(self):
        async def use():
            async for square in self.squares.aiterator():
                pass

        self.check_one_deadline(use)

    def test_one_deadline_of_an_atomic_block(self):
        async def use():
            async with transaction.atomic(using=ALIAS):
                pass

        self.check_one_deadline(use)

    async def test_time_waited_for_a_worker_counts_once(self):
        pool = self.wrapper.pool
        deadlines = []

        def borrow_twice():
            for _ in range(2):
                now = pool.now()
                wrapper = connections[ALIAS]
                self.query("SELECT 1", wrapper=wrapper)
                deadline = wrapper._borrower.lease.deadline
                deadlines.append(deadline and deadline - now)
                wrapper.close()

        # Opens the connection, which is idle then.
        await self.squares.acount()
        with mock.patch.object(waiting.line, "enter", mock.AsyncMock(return_value=4)):
            await async_routing.sync_to_async(borrow_twice)()
        self.assertAlmostEqual(deadlines[0], SOON - 4, delta=1)
        self.assertIsNone(deadlines[1])

    def test_line_follows_a_resize(self):
        self.use_pool(max_size=1)
        pool = self.wrapper.pool
        begun = [threading.Event() for _ in range(3)]
        go_on = threading.Event()
        self.addCleanup(go_on.set)

        def operation(number):
            begun[number].set()
            go_on.wait(SOON)

        async def main():
            operate = async_routing.sync_to_async(operation)
            tasks = [asyncio.create_task(operate(number)) for number in range(3)]
            await asyncio.sleep(0)
            self.assertEqual(waiting.line.inside, 1)
            # Who waits already is let in.
            pool.resize(max_size=2)
            for number in range(2):
                self.assertIs(await asyncio.to_thread(begun[number].wait, SOON), True)
            self.assertEqual(waiting.line.inside, 2)
            # So is who comes later, and fewer are if it shrinks again.
            pool.resize(max_size=3)
            self.assertIs(await asyncio.to_thread(begun[2].wait, SOON), True)
            pool.resize(max_size=1)
            tasks += [asyncio.create_task(self.add(root)) for root in range(5)]
            await asyncio.sleep(0)
            self.assertEqual(len(waiting.line.places), 5)
            go_on.set()
            await asyncio.gather(*tasks)

        asyncio.run(main())
        self.assertEqual(self.roots(), list(range(5)))

    def test_size_of_a_resized_pool_is_not_that_of_the_next(self):
        self.use_pool(max_size=1)
        nothing_known = mock.patch.object(aio, "_known", (None, False, ()))
        with nothing_known, mock.patch.object(aio, "_resized", set()):
            self.wrapper.pool.resize(max_size=5)
            self.assertEqual(aio._look_at_settings()[1][0], 5)
            # As when it's collected.
            self.wrapper.close_pool()
            aio._resized.clear()
            self.assertEqual(aio._look_at_settings()[1][0], 1)

    async def test_fewer_are_let_in_after_shrinking(self):
        line = waiting.Line()
        for _ in range(2):
            await line.enter(2, SOON, None)
        task = asyncio.create_task(line.enter(2, SOON, None))
        await asyncio.sleep(0)
        line.set_limit(1)
        line.leave()
        self.assertEqual((line.inside, len(line.places)), (1, 1))
        line.leave()
        await task
        self.assertEqual((line.inside, len(line.places)), (1, 0))

    def test_max_waiting(self):
        self.use_pool(max_size=1, max_waiting=1)
        go_on = threading.Event()
        self.addCleanup(go_on.set)

        async def main():
            hold = async_routing.sync_to_async(lambda: go_on.wait(SOON))
            tasks = [asyncio.create_task(hold()) for _ in range(2)]
            await asyncio.sleep(0)
            with self.assertRaisesMessage(PoolFull, "max_waiting"):
                await self.add(1)
            go_on.set()
            await asyncio.gather(*tasks)

        asyncio.run(main())

    async def test_stats(self):
        clock = FakeClock()
        line = waiting.Line(clock)
        self.enterContext(mock.patch.object(waiting, "line", line))

        def assertStats(**changes):
            found = asdict(worker_stats())
            self.assertEqual({name: found[name] for name in changes}, changes)

        assertStats(max_size=0, in_use=0, waiting=0, oldest_wait=0.0, waited=0)
        self.assertEqual(await line.enter(1, SOON, 2), 0.0)
        assertStats(max_size=1, in_use=1, waiting=0, waited=0)
        first = asyncio.create_task(line.enter(1, SOON, 2))
        await asyncio.sleep(0)
        clock.advance(2.0)
        second = asyncio.create_task(line.enter(1, SOON, 2))
        await asyncio.sleep(0)
        assertStats(in_use=1, waiting=2, oldest_wait=2.0)
        with self.assertRaises(PoolFull):
            await line.enter(1, SOON, 2)
        assertStats(refused=1, waiting=2)
        clock.advance(1.0)
        line.leave()
        self.assertEqual(await first, 3.0)
        assertStats(in_use=1, waiting=1, oldest_wait=1.0, waited=1, timeouts=0)
        self.assertEqual(worker_stats().wait.total, 3.0)
        # As at the deadline.
        line.places[0].end_wait()
        with self.assertRaises(PoolTimeout):
            await second
        assertStats(in_use=1, waiting=0, waited=1, timeouts=1, refused=1)

    def test_cancelled_waiter_loses_nothing(self):
        self.use_pool(max_size=1)
        go_on = threading.Event()
        self.addCleanup(go_on.set)

        async def main():
            hold = async_routing.sync_to_async(lambda: go_on.wait(SOON))
            first = asyncio.create_task(hold())
            waiters = [asyncio.create_task(self.add(root)) for root in range(5)]
            await asyncio.sleep(0)
            waiters[0].cancel()
            waiters[2].cancel()
            go_on.set()
            # Served at the same moment, perhaps.
            waiters[1].cancel()
            await asyncio.gather(first, *waiters, return_exceptions=True)
            for root in range(10, 15):
                await self.add(root)

        asyncio.run(main())
        self.assertEqual(self.roots()[-7:], [3, 4, 10, 11, 12, 13, 14])
        self.assertEqual(self.in_use(), 0)

    def test_waiter_cancelled_when_it_was_served(self):
        async def main():
            line = waiting.Line()
            await line.enter(1, SOON, None)
            tasks = [asyncio.create_task(line.enter(1, SOON, None)) for _ in range(2)]
            await asyncio.sleep(0)
            line.leave()
            tasks[0].cancel()
            await asyncio.wait(tasks)
            self.assertIs(tasks[0].cancelled(), True)
            line.leave()
            self.assertEqual(line.inside, 0)

        asyncio.run(main())

    async def test_waiter_served_at_its_deadline_is_inside(self):
        """Served after its wait ended, before it looked."""
        line = waiting.Line()
        await line.enter(1, SOON, None)
        task = asyncio.create_task(line.enter(1, SOON, None))
        await asyncio.sleep(0)
        # As at the deadline.
        line.places[0].end_wait()
        line.leave()
        await task
        self.assertEqual((line.inside, len(line.places)), (1, 0))

    async def test_waiter_whose_loop_was_closed_is_passed_over(self):
        line = waiting.Line()
        await line.enter(1, SOON, None)
        loop = asyncio.new_event_loop()
        line.places.append(waiting._Place(loop, 0, 0.0))
        loop.close()
        task = asyncio.create_task(line.enter(1, SOON, None))
        await asyncio.sleep(0)
        line.leave()
        await task
        self.assertEqual((line.inside, len(line.places)), (1, 0))

    def test_cancelled_operation_gives_back_when_it_ends(self):
        self.use_pool(max_size=1)
        begun = threading.Event()
        go_on = threading.Event()
        self.addCleanup(go_on.set)

        def operation():
            self.query("SELECT 1", wrapper=connections[ALIAS])
            begun.set()
            go_on.wait(SOON)

        async def main():
            task = asyncio.create_task(async_routing.sync_to_async(operation)())
            await asyncio.to_thread(begun.wait, SOON)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            self.assertEqual(self.in_use(), 1)
            go_on.set()
            await self.add(1)

        asyncio.run(main())
        self.assertEqual(self.in_use(), 0)
        self.assertEqual(self.stats().opened, 1)

    def test_async_code_called_by_an_operation_stays_there(self):
        self.use_pool(max_size=1, timeout=1)

        def operation():
            return async_to_sync(self.squares.acount)()

        async def main():
            return await async_routing.sync_to_async(operation)()

        self.assertEqual(asyncio.run(main()), 0)

    def test_bound_to_a_sync_transaction(self):
        async def main():
            await self.add(1)
            await asyncio.gather(self.add(2), self.add(3))
            return [square.root async for square in self.squares.aiterator()]

        with transaction.atomic(using=ALIAS):
            self.assertEqual(async_to_sync(main)(), [1, 2, 3])
            transaction.set_rollback(True, using=ALIAS)
        self.assertEqual(self.roots(), [])
        self.assertEqual(self.stats().opened, 1)

    def test_bound_to_an_execute_wrapper(self):
        seen = []

        def wrapper(execute, sql, *args):
            seen.append(sql)
            return execute(sql, *args)

        with self.wrapper.execute_wrapper(wrapper):
            async_to_sync(self.add)(1)
        self.assertEqual(len([sql for sql in seen if "INSERT" in sql]), 1)

    def test_queries_are_counted(self):
        with CaptureQueriesContext(self.wrapper) as queries:
            async_to_sync(self.add)(1)
        self.assertEqual(len(queries), 1)

    def check_bound(self, prepare, use):
        """
        Have sync code rely on its connection, with asynchronous code called
        meanwhile.
        """

        def work():
            wrapper = connections[ALIAS]
            relied_on = prepare(wrapper)
            slot = self.slot(wrapper)
            for root in range(2):
                async_to_sync(self.add)(root)
                self.assertIs(self.slot(wrapper), slot)
                use(relied_on)
            if hasattr(relied_on, "close"):
                relied_on.close()
            wrapper.close()

        def work_and_forget():
            work()
            # asgiref's thread lives on.
            del connections[ALIAS]

        def work_in_thread():
            asyncio.run(sync_to_async(work_and_forget)())

        # More than one, so that others could have served.
        for lease in ("request", "transaction"):
            for run in (work, work_in_thread):
                with self.subTest(lease=lease, run=run.__name__):
                    self.wrapper.close()
                    self.wrapper.close_pool()
                    self.use_pool(lease=lease)
                    run()

    def test_bound_to_a_cursor(self):
        def prepare(wrapper):
            cursor = wrapper.cursor()
            cursor.execute("SELECT 1 UNION SELECT 2 UNION SELECT 3 ORDER BY 1")
            return cursor

        self.check_bound(prepare, lambda cursor: self.assertTrue(cursor.fetchone()))

    def test_bound_to_an_iteration(self):
        for root in range(5, 10):
            self.squares.create(root=root, square=root**2)

        def prepare(wrapper):
            squares = self.squares.filter(root__gte=5).iterator(chunk_size=1)
            next(squares)
            return squares

        self.check_bound(prepare, next)

    def test_bound_to_the_session(self):
        def prepare(wrapper):
            sql = "CREATE TEMPORARY TABLE async_test (number integer)"
            self.query(sql, wrapper=wrapper)

        def use(nothing):
            self.query("SELECT * FROM async_test", wrapper=connections[ALIAS])

        self.check_bound(prepare, use)

    def test_bound_in_pinned(self):
        blocks = []

        def prepare(wrapper):
            blocks.append(wrapper.pinned())
            blocks[-1].__enter__()
            self.query("SELECT 1", wrapper=wrapper)

        self.check_bound(prepare, lambda nothing: None)
        for block in blocks:
            block.__exit__(None, None, None)

    def test_a_closed_cursor_binds_nothing(self):
        if self.wrapper.vendor == "sqlite":
            self.skipTest("The driver doesn't tell.")
        with self.wrapper.cursor() as cursor:
            cursor.execute("SELECT 1")
        async_to_sync(self.meet)(2)
        self.assertEqual(self.in_use(), 0)

    def test_a_context_manager_that_ended_binds_nothing(self):
        with transaction.atomic(using=ALIAS):
            self.query("SELECT 1")
        asyncio.run(self.meet(2))


class IterationTests(AsyncPoolTestCase):
    def setUp(self):
        super().setUp()
        self.fill(5)

    def iterate(self):
        return self.squares.order_by("root").aiterator(chunk_size=2)

    async def test_worker_is_held_until_exhausted(self):
        held = []
        async for square in self.iterate():
            held.append(self.in_use())
        self.assertEqual(held, [1, 1, 1, 1, 0])

    async def test_closed(self):
        iterator = self.iterate()
        async for square in iterator:
            break
        self.assertEqual(self.in_use(), 1)
        await iterator.aclose()
        await asyncio.to_thread(wait_until, lambda: self.in_use() == 0)

    async def test_dropped(self):
        async for square in self.iterate():
            break
        await asyncio.to_thread(wait_until, lambda: self.in_use() == 0)

    def test_queries_meanwhile_need_no_other_worker(self):
        self.use_pool(max_size=1, timeout=1)

        async def main():
            roots = []
            async for square in self.iterate():
                roots.append((await self.squares.aget(pk=square.pk)).root)
            return roots

        self.assertEqual(asyncio.run(main()), [0, 1, 2, 3, 4])
        self.assertEqual(self.in_use(), 0)

    def test_worker_is_free_afterwards(self):
        """Who has just let go of the only worker needn't wait for it."""
        self.use_pool(max_size=1, max_waiting=0)

        async def main():
            for _ in range(10):
                async for square in self.iterate():
                    pass
                async with transaction.atomic(using=ALIAS):
                    await self.squares.acount()
                async with connections[ALIAS].acursor() as cursor:
                    await cursor.execute("SELECT 1")
                await self.squares.acount()

        asyncio.run(main())
        self.assertEqual(len(self.workers.all), 1)
        self.assertEqual(self.stats().opened, 1)

    async def test_atomic_blocks_meanwhile(self):
        roots = []
        async for square in self.iterate():
            try:
                async with transaction.atomic(using=ALIAS):
                    roots.append((await self.squares.aget(pk=square.pk)).root)
                    if square.root % 2:
                        raise ValueError
            except ValueError:
                pass
            self.assertEqual(self.stats().opened, 1)
        self.assertEqual(roots, [0, 1, 2, 3, 4])
        self.assertEqual(self.in_use(), 0)

    async def test_inner_iteration_outlives_the_outer(self):
        outer = self.iterate()
        await anext(outer)
        inner = self.iterate()
        await anext(inner)
        self.assertEqual(self.in_use(), 1)
        await outer.aclose()
        self.assertEqual([square.root async for square in inner], [1, 2, 3, 4])
        await asyncio.to_thread(wait_until, lambda: self.in_use() == 0)


class CallTests(AsyncPoolTestCase):
    """Threads of an executor give back when a call has ended."""

    pool_options = {"max_size": 4, "timeout": SOON}

    def operation(self):
        self.query("SELECT 1", wrapper=connections[ALIAS])
        return self.in_use()

    def check(self, main):
        async def check():
            for _ in range(3):
                self.assertEqual(await main(), 1)
                await asyncio.to_thread(wait_until, lambda: self.in_use() == 0)

        asyncio.run(check())
        self.assertEqual(self.stats().abandoned, 0)

    def test_to_thread(self):
        self.check(lambda: asyncio.to_thread(self.operation))

    def test_run_in_executor(self):
        self.check(
            lambda: asyncio.get_running_loop().run_in_executor(None, self.operation)
        )

    def test_thread_insensitive(self):
        self.check(sync_to_async(self.operation, thread_sensitive=False))

    def test_executor_of_sync_code(self):
        with ThreadPoolExecutor(1) as executor:
            for _ in range(3):
                self.assertEqual(executor.submit(self.operation).result(SOON), 1)
                wait_until(lambda: self.in_use() == 0)
        self.assertEqual(self.stats().opened, 1)

    def test_an_error(self):
        def fail():
            self.operation()
            raise ValueError

        async def main():
            with self.assertRaises(ValueError):
                await asyncio.to_thread(fail)
            await asyncio.to_thread(wait_until, lambda: self.in_use() == 0)

        asyncio.run(main())

    def test_a_transaction_of_several_calls_stays(self):
        def leave():
            transaction.set_autocommit(True, using=ALIAS)

        with ThreadPoolExecutor(1) as executor:
            for call in (
                lambda: transaction.set_autocommit(False, using=ALIAS),
                lambda: self.squares.create(root=1),
                lambda: transaction.commit(using=ALIAS),
                leave,
            ):
                executor.submit(call).result(SOON)
        self.assertEqual(self.roots(), [1])

    def test_thread_sensitive_calls_are_followed_by_others(self):
        async def main():
            async with ThreadSensitiveContext():
                await sync_to_async(self.operation)()
                self.assertEqual(self.in_use(), 1)
                acquired = self.stats().acquired
                await sync_to_async(self.operation)()
            self.assertEqual(self.stats().acquired, acquired)

        asyncio.run(main())
        wait_until(lambda: self.in_use() == 0)


class LeaseTests(AsyncPoolTestCase):
    """With leases by transaction, the same wrappers hold nothing meanwhile."""

    pool_options = {**AsyncPoolTestCase.pool_options, "lease": "transaction"}

    def assertIdle(self, stats):
        self.assertEqual(self.stats().acquired, stats.acquired)
        self.assertEqual(self.stats().pins, stats.pins)

    def test_django_looks_at_the_wrapper_of_another_thread(self):
        self.query("SELECT 1")
        stats = self.stats()
        names = {"__name__": "django.contrib.app", "wrapper": self.wrapper}
        found = run_in_thread(eval, "wrapper.connection", names)
        self.assertIsNone(found)
        self.assertIdle(stats)

    def test_looking_for_a_bound_connection_borrows_nothing(self):
        def operation():
            self.query("SELECT 1", wrapper=connections[ALIAS])

        async def main():
            async with ThreadSensitiveContext():
                await sync_to_async(operation)()
                stats = self.stats()
                self.assertIs(aio.is_bound(), False)
                await aio.give_back_before_waiting()
                await sync_to_async(giving_back.give_back_idle)()
                self.assertIdle(stats)
                await self.squares.acount()

        asyncio.run(main())
        self.assertEqual(self.in_use(), 0)

    def test_giving_back_what_has_gone_borrows_nothing(self):
        def operation():
            self.query("SELECT 1", wrapper=connections[ALIAS])

        acquired = self.stats().acquired
        asyncio.run(async_routing.sync_to_async(operation)())
        self.assertEqual(self.stats().acquired, acquired + 1)


class GivingBackAllTests(AsyncPoolTestCase):
    """What happens to the wrappers of a worker that's done."""

    def test_wrapper_left_in_a_block_is_replaced(self):
        def leave_the_block_open():
            wrapper = connections[ALIAS]
            transaction.atomic(ALIAS).__enter__()
            self.query("SELECT 1", wrapper=wrapper)
            giving_back.give_back_all()
            self.assertEqual(self.in_use(), 0)
            self.assertIsNot(connections[ALIAS], wrapper)

        run_in_thread(leave_the_block_open)

    def test_wrapper_that_cannot_be_closed_is_no_trouble(self):
        def give_back():
            wrapper = connections[ALIAS]
            self.query("SELECT 1", wrapper=wrapper)
            with mock.patch.object(wrapper, "close", side_effect=DatabaseError):
                giving_back.give_back_all()
            wrapper.close()

        run_in_thread(give_back)


class OtherDatabasesTests(AsyncPoolTestCase):
    """Workers run the queries of all databases."""

    def add_sqlite(self, name):
        settings_dict = connections["default"].settings_dict.copy()
        settings_dict.update(
            ENGINE="django.db.backends.sqlite3", NAME=name, OPTIONS={}, POOL=None
        )
        self.enterContext(
            mock.patch.dict(connections.settings, {"another": settings_dict})
        )

    def test_in_memory_database_that_belongs_to_its_thread(self):
        for name in (":memory:", "file:another?mode=memory"):
            with self.subTest(name=name):
                self.add_sqlite(name)
                self.assertIs(aio.is_bound(), True)

    def test_in_memory_database_of_all_threads(self):
        self.add_sqlite("file:another?mode=memory&cache=shared")
        self.assertIs(aio.is_bound(), False)

    def test_file(self):
        self.add_sqlite("another.sqlite3")
        self.assertIs(aio.is_bound(), False)

    def test_operations_of_a_database_without_the_option(self):
        """They run in one thread, on one connection."""
        settings_dict = {**connections[ALIAS].settings_dict, "POOL": None}
        self.enterContext(
            mock.patch.dict(connections.settings, {"another": settings_dict})
        )
        allowed = {*self.databases, "another"}
        self.enterContext(mock.patch.object(type(self), "databases", allowed))

        def forget():
            connections["another"].close()
            del connections["another"]

        async def main():
            squares = Square.objects.using("another")
            await squares.acount()
            opened = []

            def receive(connection, **kwargs):
                opened.append(connection.alias)

            connection_created.connect(receive)
            try:
                square = await squares.acreate(root=1, square=1)
                self.assertEqual(await squares.acount(), 1)
                self.assertEqual([found async for found in squares], [square])
                self.assertEqual(
                    [found async for found in squares.aiterator()], [square]
                )
                square.square = 2
                await square.asave()
                await Square(root=2, square=4).asave(using="another")
                await square.adelete(using="another")
            finally:
                connection_created.disconnect(receive)
                await sync_to_async(forget)()
            return opened

        self.assertEqual(asyncio.run(main()), [])
        self.assertEqual(self.workers.all, set())


class OffTests(AsyncPoolTestCase):
    def test_without_the_option_everything_is_as_without_a_pool(self):
        self.use_pool(concurrent_async=False)

        async def main():
            await self.add(1)
            # asgiref's thread goes on to hold it.
            return self.in_use()

        self.assertEqual(asyncio.run(main()), 1)
        asyncio.run(sync_to_async(self.forget)())

    def forget(self):
        connections[ALIAS].close()
        del connections[ALIAS]

    def test_async_atomic_needs_the_option(self):
        self.use_pool(concurrent_async=False)

        async def main():
            async with transaction.atomic(using=ALIAS):
                pass

        with self.assertRaisesMessage(TransactionManagementError, "concurrent_async"):
            asyncio.run(main())
