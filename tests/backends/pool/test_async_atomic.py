"""Asynchronous atomic blocks."""

import asyncio
import gc
import threading
from concurrent.futures import Future
from contextlib import asynccontextmanager
from functools import partial
from test import support
from unittest import mock

from asgiref.sync import async_to_sync, sync_to_async

from django.db import async_routing, connections, transaction
from django.db.pool import PoolDeadlock, aio, async_atomic
from django.db.transaction import TransactionManagementError
from django.dispatch import Signal

from .async_utils import AsyncPoolTestCase, no_collection
from .utils import ALIAS, SOON, wait_until


class Error(Exception):
    pass


def atomic(**options):
    return transaction.atomic(using=ALIAS, **options)


class AtomicTestCase(AsyncPoolTestCase):
    def run_alone(self, main):
        """Run a coroutine function. Nothing may be held after that."""
        result = asyncio.run(main())
        wait_until(lambda: self.in_use() == 0)
        wait_until(lambda: not self.workers.busy)
        return result

    async def in_block(self, root):
        async with atomic():
            await self.add(root)


class AtomicTests(AtomicTestCase):
    def test_commit(self):
        async def main():
            async with atomic():
                await self.add(1)
                self.assertEqual(self.in_use(), 1)
                self.assertEqual(await self.squares.acount(), 1)
                others = asyncio.create_task(
                    transaction.independent(self.squares.acount())
                )
                self.assertEqual(await others, 0)
            self.assertEqual(self.in_use(), 0)

        self.run_alone(main)
        self.assertEqual(self.roots(), [1])

    def test_rollback(self):
        async def main():
            with self.assertRaises(Error):
                async with atomic():
                    await self.add(1)
                    raise Error
            self.assertEqual(self.in_use(), 0)

        self.run_alone(main)
        self.assertEqual(self.roots(), [])

    def test_over_before_its_task_knows(self):
        """What the task does next doesn't find its worker about to leave."""
        go_on = threading.Event()
        finish = async_atomic._finish

        class SlowFuture(Future):
            def _invoke_callbacks(self):
                go_on.wait(SOON)
                super()._invoke_callbacks()

        async def finish_when_done(future):
            # What's added to a future that's done is called at once.
            wait_until(future.done)
            return await finish(future)

        async def main():
            async with atomic():
                await self.add(1)
                self.enterContext(mock.patch.object(async_atomic, "Future", SlowFuture))
                self.enterContext(
                    mock.patch.object(async_atomic, "_finish", finish_when_done)
                )
            self.assertIsNone(aio._own_hold())
            go_on.set()
            await self.add(2)

        self.addCleanup(go_on.set)
        self.run_alone(main)
        self.assertEqual(self.roots(), [1, 2])

    def test_nesting_gives_savepoints(self):
        async def main():
            async with atomic():
                await self.add(1)
                with self.assertRaises(Error):
                    async with atomic():
                        await self.add(2)
                        raise Error
                async with atomic():
                    await self.add(3)

        self.run_alone(main)
        self.assertEqual(self.roots(), [1, 3])

    def test_without_savepoint(self):
        async def main():
            async with atomic():
                await self.add(1)
                with self.assertRaises(Error):
                    async with atomic(savepoint=False):
                        await self.add(2)
                        raise Error
                with self.assertRaises(TransactionManagementError):
                    await self.add(3)

        self.run_alone(main)
        self.assertEqual(self.roots(), [])

    def test_durable(self):
        async def main():
            async with atomic(durable=True):
                await self.add(1)
            async with atomic():
                await self.add(2)
                with self.assertRaisesMessage(RuntimeError, "durable"):
                    async with atomic(durable=True):
                        await self.add(3)
                await self.add(4)

        self.run_alone(main)
        self.assertEqual(self.roots(), [1, 2, 4])

    def test_decorated_coroutine_function(self):
        @atomic()
        async def fail():
            await self.add(1)
            raise Error

        @atomic()
        async def succeed():
            await self.add(2)
            return "result"

        async def main():
            with self.assertRaises(Error):
                await fail()
            results = await asyncio.gather(succeed(), succeed(), succeed())
            self.assertEqual(results, ["result"] * 3)

        self.run_alone(main)
        self.assertEqual(self.roots(), [2, 2, 2])

    def test_on_commit(self):
        called = []

        async def main():
            async with atomic():
                transaction.on_commit(lambda: called.append(1), using=ALIAS)
                async with atomic():
                    transaction.on_commit(lambda: called.append(2), using=ALIAS)
                with self.assertRaises(Error):
                    async with atomic():
                        transaction.on_commit(lambda: called.append(3), using=ALIAS)
                        raise Error
                self.assertEqual(called, [])
            self.assertEqual(called, [1, 2])

        self.run_alone(main)

    def test_on_commit_calls_asynchronous_code(self):
        # The worker is the only one.
        self.use_pool(max_size=1)

        async def main():
            async with atomic():
                await self.add(1)
                for function in (self.add, self.in_block):
                    call = partial(async_to_sync(function), 2)
                    transaction.on_commit(call, using=ALIAS)

        self.run_alone(main)
        self.assertEqual(self.roots(), [1, 2, 2])

    def test_set_rollback(self):
        async def main():
            async with atomic():
                await self.add(1)
                self.assertIs(transaction.get_rollback(using=ALIAS), False)
                transaction.set_rollback(True, using=ALIAS)

        self.run_alone(main)
        self.assertEqual(self.roots(), [])

    def test_thread_sensitive_code_is_part_of_it(self):
        def sync_code():
            self.squares.create(root=1)
            # Asynchronous code called by it too, also in tasks of its own.
            async_to_sync(asynchronous)()

        async def asynchronous():
            await asyncio.gather(self.add(2), self.add(3))
            async with atomic():
                await self.add(4)

        async def main():
            with self.assertRaises(Error):
                async with atomic():
                    await sync_to_async(sync_code)()
                    self.assertEqual(await self.squares.acount(), 4)
                    raise Error

        self.run_alone(main)
        self.assertEqual(self.roots(), [])
        self.assertEqual(self.stats().opened, 1)

    def test_iteration_is_part_of_it(self):
        async def main():
            async with atomic():
                for root in range(5):
                    await self.add(root)
                squares = self.squares.order_by("root").aiterator(chunk_size=2)
                self.assertEqual([square.root async for square in squares], [*range(5)])
                self.assertEqual(self.in_use(), 1)

        self.run_alone(main)

    def test_blocks_of_several_tasks_are_separate(self):
        async def transfer(root):
            async with atomic():
                await self.add(root)
                await self.add(root + 1)
                if root % 4:
                    raise Error

        async def main():
            await asyncio.gather(
                *[transfer(root) for root in range(0, 16, 2)], return_exceptions=True
            )

        self.run_alone(main)
        self.assertEqual(self.roots(), [0, 1, 4, 5, 8, 9, 12, 13])

    def test_failing_begin_loses_nothing(self):
        self.use_pool(max_size=1, timeout=0.05)

        async def main():
            async with atomic():
                with self.assertRaises(TransactionManagementError):
                    await asyncio.create_task(self.in_block(1))
                with self.assertRaises(Exception):
                    await asyncio.create_task(transaction.independent(self.in_block(2)))
            await self.in_block(3)

        self.run_alone(main)
        self.assertEqual(self.roots(), [3])


class TaskTests(AtomicTestCase):
    def test_a_task_is_refused(self):
        async def main():
            async with atomic():
                await self.add(1)
                for refused in (
                    self.add(2),
                    self.in_block(2),
                    sync_to_async(self.roots)(),
                    self.on_commit(),
                ):
                    with self.assertRaisesMessage(
                        TransactionManagementError, "transaction.independent("
                    ):
                        await asyncio.create_task(refused)
                await self.add(3)

        self.run_alone(main)
        self.assertEqual(self.roots(), [1, 3])

    async def on_commit(self):
        transaction.on_commit(self.fail, using=ALIAS)

    def test_a_task_is_refused_when_the_block_is_over(self):
        async def main():
            go_on = asyncio.Event()

            async def later():
                await go_on.wait()
                await self.add(1)

            async with atomic():
                task = asyncio.create_task(later())
            go_on.set()
            with self.assertRaises(TransactionManagementError):
                await task

        self.run_alone(main)
        self.assertEqual(self.roots(), [])

    def test_joined(self):
        async def main():
            with self.assertRaises(Error):
                async with atomic():
                    await asyncio.gather(
                        *[transaction.joined(self.add(root)) for root in range(5)]
                    )
                    self.assertEqual(await self.squares.acount(), 5)
                    self.assertEqual(self.stats().opened, 1)
                    raise Error

        self.run_alone(main)
        self.assertEqual(self.roots(), [])

    def test_blocks_of_joined_tasks_dont_overlap(self):
        async def main():
            async with atomic():
                results = await asyncio.gather(
                    *[transaction.joined(self.pair(root)) for root in range(0, 8, 2)],
                    *[transaction.joined(self.add(root)) for root in (100, 101)],
                    return_exceptions=True,
                )
                self.assertEqual([isinstance(r, Error) for r in results].count(True), 2)

        self.run_alone(main)
        self.assertEqual(self.roots(), [0, 1, 4, 5, 100, 101])

    async def pair(self, root):
        async with atomic():
            await self.add(root)
            await asyncio.sleep(0)
            await self.add(root + 1)
            if root % 4:
                raise Error

    def test_independent(self):
        async def main():
            with self.assertRaises(Error):
                async with atomic():
                    count = await asyncio.create_task(
                        transaction.independent(self.squares.acount())
                    )
                    self.assertEqual(count, 0)
                    self.assertEqual(self.stats().size, 2)
                    raise Error

        self.run_alone(main)

    def test_independent_awaited_in_the_block(self):
        async def main():
            with self.assertRaises(Error):
                async with atomic():
                    await transaction.independent(self.squares.acount())
                    await self.add(1)
                    await sync_to_async(self.squares.create)(root=2, square=4)
                    raise Error

        self.run_alone(main)
        self.assertEqual(self.roots(), [])
        # Sync code above, whose thread is the one outside of the block.
        async_to_sync(main)()
        self.assertEqual(self.roots(), [])

    def test_independent_awaited_in_the_block_sees_nothing_of_it(self):
        count = self.squares.acount

        async def use_cursor():
            async with self.wrapper.acursor() as cursor:
                await cursor.execute("SELECT COUNT(*) FROM backends_square")
                return (await cursor.fetchone())[0]

        async def in_block():
            async with atomic():
                return await count()

        async def iterate():
            return len([square async for square in self.squares.aiterator()])

        async def main():
            async with atomic():
                await self.add(1)
                for function in (count, use_cursor, in_block, iterate):
                    with self.subTest(function.__name__):
                        self.assertEqual(await function(), 1)
                        found = await transaction.independent(function())
                        self.assertEqual(found, 0)

        self.run_alone(main)

    def test_independent_without_a_worker_left_is_refused(self):
        self.use_pool(max_size=1)

        async def main():
            async with atomic():
                with self.assertRaisesMessage(PoolDeadlock, "raise max_size"):
                    await transaction.independent(self.squares.acount())
                await self.add(1)

        self.run_alone(main)
        self.assertEqual(self.roots(), [1])

    def test_all_blocks_wait_for_what_is_independent_of_them(self):
        self.use_pool(max_size=2)

        async def in_block(all_begun):
            async with atomic():
                await self.squares.acount()
                await all_begun.wait()
                return await transaction.independent(self.squares.acount())

        async def main():
            all_begun = asyncio.Barrier(2)
            return await asyncio.gather(
                *[in_block(all_begun) for _ in range(2)], return_exceptions=True
            )

        refused, served = self.run_alone(main)
        if served != 0:
            refused, served = served, refused
        self.assertIsInstance(refused, PoolDeadlock)
        # By the worker of the one that was refused.
        self.assertEqual(served, 0)

    def test_independent_closed_in_another_context(self):
        """The garbage collector closes dropped coroutines wherever it runs."""
        dropped = []

        async def main():
            async with atomic():
                waiting = asyncio.get_running_loop().create_future()
                coroutine = transaction.independent(waiting)
                task = asyncio.create_task(coroutine)
                await asyncio.sleep(0)
                # As if nothing referred to the task any more.
                task._log_destroy_pending = False
                dropped.append(coroutine)

        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())

        async def bridged():
            here = async_atomic.is_bridged(), async_routing.current_block.get()
            dropped.pop().close()
            self.assertEqual(
                (async_atomic.is_bridged(), async_routing.current_block.get()), here
            )
            return here

        self.assertEqual(async_to_sync(bridged)(), (True, None))
        loop.close()

    def test_independent_task_that_the_block_does_not_wait_for(self):
        self.use_pool(max_size=1)

        async def main():
            async with atomic():
                task = asyncio.create_task(transaction.independent(self.add(2)))
                await asyncio.sleep(0)
                await self.add(1)
            await task

        self.run_alone(main)
        self.assertEqual(self.roots(), [1, 2])

    def test_outside_of_blocks_the_helpers_change_nothing(self):
        async def main():
            await transaction.joined(self.add(1))
            await transaction.independent(self.add(2))

        self.run_alone(main)
        self.assertEqual(self.roots(), [1, 2])

    def test_receivers_of_signals_join(self):
        signal = Signal()

        async def receive(signal, sender, root, **kwargs):
            await self.add(root)

        async def receive_too(signal, sender, root, **kwargs):
            await self.add(root + 1)

        signal.connect(receive, weak=False)
        signal.connect(receive_too, weak=False)

        async def main():
            async with atomic():
                await signal.asend(sender=None, root=1)
                await signal.asend_robust(sender=None, root=3)
                await sync_to_async(signal.send)(sender=None, root=5)

        self.run_alone(main)
        self.assertEqual(self.roots(), [1, 2, 3, 4, 5, 6])


class CancellationTests(AtomicTestCase):
    def stuck(self):
        """Return a function that waits, and what it waits for."""
        begun = threading.Event()
        go_on = threading.Event()
        self.addCleanup(go_on.set)

        def wait():
            begun.set()
            go_on.wait(SOON)

        return wait, begun, go_on

    def test_cancelled_operation_dooms_the_block(self):
        wait, begun, go_on = self.stuck()

        async def main():
            async with atomic():
                await self.add(1)
                task = asyncio.create_task(transaction.joined(sync_to_async(wait)()))
                await asyncio.get_running_loop().run_in_executor(None, begun.wait)
                task.cancel()
                await asyncio.wait([task])
                go_on.set()
                # That it was swallowed doesn't help.
                with self.assertRaises(TransactionManagementError):
                    await self.add(2)

        self.run_alone(main)
        self.assertEqual(self.roots(), [])

    def swallow(self, go_on_after):
        """
        Have a block's own task go on after it was canceled, while its
        operation is still running, and when that has just ended.
        """
        for has_ended in (False, True):
            with self.subTest(has_ended=has_ended):
                self.swallow_once(go_on_after, has_ended)

    def swallow_once(self, go_on_after, has_ended):
        wait, begun, go_on = self.stuck()

        async def work():
            async with atomic():
                await self.add(1)
                try:
                    await sync_to_async(wait)()
                except asyncio.CancelledError:
                    pass
                if has_ended:
                    go_on.set()
                    block = async_routing.current_block.get()
                    # The event loop can't hear of it meanwhile.
                    wait_until(block.operations[asyncio.current_task()].done)
                else:
                    asyncio.get_running_loop().call_soon(go_on.set)
                await go_on_after()

        async def main():
            task = asyncio.create_task(work())
            await asyncio.get_running_loop().run_in_executor(None, begun.wait)
            task.cancel()
            await task

        self.run_alone(main)
        self.assertEqual(self.roots(), [])

    def test_swallowed_at_the_end(self):
        async def do_nothing():
            pass

        self.swallow(do_nothing)

    def test_swallowed_before_another_query(self):
        async def fail():
            with self.assertRaises(TransactionManagementError):
                await self.add(2)

        self.swallow(fail)

    def test_only_the_innermost_block_is_doomed(self):
        wait, begun, go_on = self.stuck()

        async def main():
            async with atomic():
                await self.add(1)
                try:
                    async with asyncio.timeout(None) as timeout:
                        async with atomic():
                            await self.add(2)
                            timeout.reschedule(0)
                            await sync_to_async(wait)()
                except TimeoutError:
                    pass
                go_on.set()
                await self.add(3)

        self.run_alone(main)
        self.assertEqual(self.roots(), [1, 3])

    def test_cancelled_at_each_await(self):
        async def work():
            async with atomic():
                await self.add(1)
                async with atomic():
                    await self.add(2)
            return True

        async def main(steps):
            task = asyncio.create_task(work())
            for _ in range(steps):
                await asyncio.sleep(0)
                if steps % 2 and not task.done():
                    # Let the worker come to an end.
                    await asyncio.get_running_loop().run_in_executor(
                        None, wait_until, lambda: True
                    )
            task.cancel()
            await asyncio.wait([task])
            return not task.cancelled()

        for steps in range(25):
            before = self.roots()
            with self.subTest(steps=steps):
                done = self.run_alone(lambda: main(steps))
                # All or nothing. The last await is the commit's.
                new = self.roots()[:]
                self.assertEqual(new.count(1), new.count(2))
                if done:
                    self.assertGreater(len(new), len(before))

    def test_commit_is_shielded(self):
        begun = threading.Event()
        go_on = threading.Event()
        self.addCleanup(go_on.set)

        async def main():
            async def work():
                async with atomic():
                    await self.add(1)
                    wrapper = transaction.get_connection(ALIAS)
                    commit = wrapper._commit

                    def slow_commit():
                        begun.set()
                        go_on.wait(SOON)
                        commit()
                        del wrapper._commit

                    wrapper._commit = slow_commit

            task = asyncio.create_task(work())
            await asyncio.get_running_loop().run_in_executor(None, begun.wait)
            task.cancel()
            await asyncio.sleep(0)
            self.assertIs(task.done(), False)
            go_on.set()
            await asyncio.wait([task])
            self.assertIs(task.cancelled(), True)
            self.assertEqual(await self.squares.acount(), 1)

        self.run_alone(main)
        self.assertEqual(self.roots(), [1])


class DroppedTests(AtomicTestCase):
    """Nobody waits for the end of a block."""

    def setUp(self):
        super().setUp()
        self.unraisable = self.enterContext(support.catch_unraisable_exception())

    def assertGone(self):
        # The worker may have a reference for another moment.
        wait_until(lambda: gc.collect() >= 0 and self.in_use() == 0)
        wait_until(lambda: not self.workers.busy)
        # Not even that a coroutine couldn't be closed.
        self.assertIsNone(self.unraisable.unraisable)

    async def until_gone(self):
        async with asyncio.timeout(SOON):
            while self.in_use() or self.workers.busy:
                await asyncio.sleep(0)
                gc.collect()
        self.assertIsNone(self.unraisable.unraisable)

    async def start(self, coroutine):
        """Start a task and drop it once it waits for what never comes."""
        never = asyncio.get_running_loop().create_future()
        begun = asyncio.Event()
        task = asyncio.create_task(coroutine(begun, never))
        # It's said otherwise that it was dropped.
        task._log_destroy_pending = False
        await begun.wait()

    async def wait_in_block(self, begun, never):
        async with atomic():
            await self.add(1)
            begun.set()
            await never

    def test_dropped_task(self):
        async def main():
            await self.start(self.wait_in_block)
            await self.until_gone()

        self.run_alone(main)
        self.assertEqual(self.roots(), [])

    def test_dropped_with_its_loop(self):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(self.start(self.wait_in_block))
        loop.close()
        del loop
        self.assertGone()
        self.assertEqual(self.roots(), [])

    def test_worker_dropped_before_its_task(self):
        async def main():
            holds = []

            async def wait_in_block(begun, never):
                async with atomic():
                    await self.add(1)
                    holds.append(async_routing.current_block.get().thread.hold)
                    begun.set()
                    await never

            await self.start(wait_in_block)
            # What its destructor does.
            holds.pop().executor.release()
            await self.until_gone()

        self.run_alone(main)
        self.assertEqual(self.roots(), [])

    def test_dropped_while_another_task_is_in_a_block(self):
        @atomic()
        async def waiting(begun, never):
            # Not a write, which would keep others from writing to SQLite.
            await self.squares.acount()
            begun.set()
            await never

        @atomic()
        async def going_on():
            await self.add(2)
            gc.collect()
            await self.add(3)
            self.assertEqual(await self.squares.acount(), 2)

        async def main():
            await self.start(waiting)
            await going_on()
            await self.until_gone()

        self.enterContext(no_collection())
        self.run_alone(main)
        self.assertEqual(self.roots(), [2, 3])

    def test_dropped_task_with_a_cursor(self):
        async def wait_with_cursor(begun, never):
            async with self.wrapper.acursor() as cursor:
                await cursor.execute("SELECT 1")
                begun.set()
                await never

        async def main():
            await self.start(wait_with_cursor)
            await self.until_gone()

        self.run_alone(main)

    def forget(self):
        connections[ALIAS].close()
        del connections[ALIAS]

    async def generate(self):
        # asgiref's thread, where what comes after it may run, goes on to hold
        # a connection.
        self.addCleanup(lambda: asyncio.run(sync_to_async(self.forget)()))
        async with atomic():
            await self.add(1)
            yield 1
            yield 2

    async def generate_once(self):
        async with atomic():
            await self.add(1)
            yield

    def test_dropped_generator(self):
        async def main():
            async for _ in self.generate():
                break
            await self.until_gone()
            # All of this looks as if it were still in the block.
            await self.add(2)
            await sync_to_async(self.squares.create)(root=3, square=9)
            await asyncio.create_task(self.add(4))
            await self.in_block(5)

        self.run_alone(main)
        self.assertEqual(self.roots(), [2, 3, 4, 5])

    def test_what_comes_after_a_dropped_generator_is_not_part_of_its_block(self):
        async def nested():
            async with asynccontextmanager(self.generate_once)():
                yield

        async def in_outer_block():
            async with atomic():
                async for _ in self.generate():
                    break
                await self.add(6)

        async def use_cursor():
            async with self.wrapper.acursor() as cursor:
                await cursor.execute(
                    "INSERT INTO backends_square (root, square) VALUES (7, 49)"
                )

        async def main(generate, use):
            # Its finalizer only starts a task that closes it.
            async for _ in generate():
                break
            await use()

        for generate in (self.generate, nested):
            for root, use in (
                (2, lambda: self.add(2)),
                (3, sync_to_async(lambda: self.squares.create(root=3, square=9))),
                (4, lambda: self.in_block(4)),
                (6, in_outer_block),
                (7, use_cursor),
            ):
                with self.subTest(generate=generate, root=root):
                    self.run_alone(lambda: main(generate, use))
                    self.assertEqual(self.roots(), [root])
                    self.empty()

    def test_generator_that_outlives_the_one_that_iterates_over_it(self):
        async def iterate(generator):
            async for root in generator:
                yield root

        async def main():
            generator = self.generate_and_add()
            async for _ in iterate(generator):
                break
            await anext(generator)
            await generator.aclose()

        self.run_alone(main)
        self.assertEqual(self.roots(), [])

    async def generate_and_add(self):
        async with atomic():
            for root in range(3):
                yield root
                await self.add(root)

    def test_thread_sensitive_code_after_a_dropped_generator(self):
        async def main():
            async for _ in self.generate():
                break
            await self.until_gone()
            await sync_to_async(self.squares.create)(root=3, square=9)

        self.run_alone(main)
        self.assertEqual(self.roots(), [3])

    def test_entered_and_left_in_several_tasks(self):
        async def main():
            generator = self.generate()
            for expected in (1, 2):
                found = await asyncio.create_task(anext(generator))
                self.assertEqual(found, expected)
            with self.assertRaises(StopAsyncIteration):
                await asyncio.create_task(anext(generator))
            self.assertEqual(self.in_use(), 0)

        self.run_alone(main)
        self.assertEqual(self.roots(), [1])

    def test_no_block_outlives_its_end(self):
        async def main():
            for root in range(3):
                await self.in_block(root)
            await self.until_gone()
            gc.collect()
            self.assertEqual(self.blocks(), [])

        self.run_alone(main)

    def test_no_block_on_a_bound_connection_outlives_its_end(self):
        with atomic():
            for root in range(3):
                async_to_sync(self.in_block)(root)
        gc.collect()
        self.assertEqual(self.blocks(), [])

    def blocks(self):
        kinds = async_atomic.Block, async_atomic._Thread
        # Not by isinstance(), which evaluates what's lazy.
        return [found for found in gc.get_objects() if issubclass(type(found), kinds)]


class BoundTests(AsyncPoolTestCase):
    """Below a transaction of sync code, as in a TestCase."""

    def setUp(self):
        super().setUp()
        block = atomic()
        block._from_testcase = True
        block.__enter__()

        def leave():
            transaction.set_rollback(True, using=ALIAS)
            block.__exit__(None, None, None)

        self.addCleanup(leave)

    async def test_blocks(self):
        await self.add(1)
        async with atomic(durable=True):
            await self.add(2)
            with self.assertRaises(Error):
                async with atomic():
                    await self.add(3)
                    raise Error
        self.assertEqual(await self.squares.acount(), 2)
        self.assertEqual(self.in_use(), 1)

    async def test_blocks_of_several_tasks_dont_overlap(self):
        async def pair(root):
            async with atomic():
                await self.add(root)
                await asyncio.sleep(0)
                await self.add(root + 1)
                if root % 4:
                    raise Error

        await asyncio.gather(
            *[pair(root) for root in range(0, 8, 2)], return_exceptions=True
        )
        roots = [s.root async for s in self.squares.order_by("root")]
        self.assertEqual(roots, [0, 1, 4, 5])

    async def test_tasks(self):
        async with atomic():
            with self.assertRaises(TransactionManagementError):
                await asyncio.create_task(self.add(1))
            await asyncio.gather(
                transaction.joined(self.add(2)), transaction.independent(self.add(3))
            )
        self.assertEqual(await self.squares.acount(), 2)
        self.assertEqual(self.in_use(), 1)

    async def test_on_commit(self):
        called = []
        async with atomic():
            transaction.on_commit(lambda: called.append(1), using=ALIAS)
        self.assertEqual(called, [])
        wrapper = await sync_to_async(lambda: connections[ALIAS])()
        self.assertEqual(len(wrapper.run_on_commit), 1)
