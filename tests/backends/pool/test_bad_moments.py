"""
What takes an exception, a switch of threads or the garbage collector at a bad
moment, and what can't be had then.
"""

import asyncio
import gc
import threading
from concurrent.futures import Future
from types import SimpleNamespace
from unittest import mock

from asgiref.sync import sync_to_async

from django.db import transaction
from django.db.pool import async_atomic, maintenance, waiting, workers
from django.db.pool.state import IDLE, PoolState, Waiter
from django.db.pool.stats import Counters
from django.db.transaction import TransactionManagementError
from django.test import SimpleTestCase

from .async_utils import AsyncPoolTestCase, begin_to_wait
from .fakes import Call, borrow, make_pool, wait_for_line, warm
from .pool_cases import Interrupt, PoolTestCase, interrupt
from .utils import ALIAS, SOON, PooledTestCase, run_in_thread


class BorrowerTests(PooledTestCase):
    def test_closed_after_its_borrower_has_gone(self):
        """By a finalizer of the same garbage, for one."""
        self.use_pool(max_size=1)
        self.query("SELECT 1")
        borrower = self.wrapper._borrower
        lease = borrower.lease
        borrower.__del__()
        self.assertIsNone(lease.slot)
        self.assertIs(self.wrapper.pool.release(lease), False)


class PoolTests(PoolTestCase):
    def test_slot_is_lost_amid_its_end(self):
        pool = make_pool(max_size=1)
        keep_uses = Counters.keep_uses

        def keep(*args):
            keep_uses(*args)
            raise Interrupt

        with mock.patch.object(Counters, "keep_uses", keep):
            with self.assertRaises(Interrupt):
                pool.discard(borrow(pool))
        gc.collect()
        pool.reclaim_lost()
        pool.release(borrow(pool))

    def test_line_that_a_return_did_not_see(self):
        pool = make_pool(max_size=1)
        lease = borrow(pool)
        call = Call(borrow, pool)
        wait_for_line(pool, 1)
        # As if it had joined in the middle of release(), and what release()
        # does about that was interrupted.
        pool._state.calm = pool._state.generation
        pool.release(lease)
        self.assertEqual(len(pool._state.idle), 1)
        pool.reclaim_lost()
        pool.release(call.result())

    def test_serving_is_interrupted(self):
        """Who wasn't served is still in line."""
        pool = make_pool(max_size=1)
        state = pool._state
        lease = borrow(pool)
        waiter = Waiter()
        state.wait(waiter, pool.now())
        with mock.patch("django.db.pool.stats.bucket_of", interrupt):
            with self.assertRaises(Interrupt):
                state.release(lease.slot, pool.now())
        self.assertIs(waiter.served, False)
        self.assertIn(waiter, state.waiters)

    def test_what_comes_back_amid_drain_and_close(self):
        for end in (
            lambda state: state.condemn_generation("drained", 0),
            PoolState.close,
        ):
            pool = make_pool()
            state = pool._state
            slot = borrow(pool).slot
            end(state)
            # As if give() had begun before.
            slot.status = IDLE
            state.idle.append(slot)
            self.assertIsNone(state.take(pool.now()))

    def test_maintenance_waits_for_something_else(self):
        """What needs a reset isn't left to it, though something is idle."""
        pool = make_pool(max_size=2)
        warm(pool, 2)
        with (
            mock.patch.object(maintenance, "is_late", return_value=True),
            mock.patch.object(maintenance, "put") as put,
            mock.patch.object(type(pool), "reset") as reset,
        ):
            lease = borrow(pool)
            slot = lease.slot
            pool.release_dirty(lease)
        reset.assert_called_once_with(slot, None)
        put.assert_not_called()


class MaintenanceTests(SimpleTestCase):
    def test_waking_keeps_it_from_ending(self):
        locked = []
        inbox = maintenance._inbox

        def put(message):
            locked.append(maintenance._lock._is_owned())
            inbox.put(message)

        checked = SimpleNamespace(
            put=put, get=inbox.get, get_nowait=inbox.get_nowait, empty=inbox.empty
        )
        with mock.patch.object(maintenance, "_inbox", checked):
            maintenance.wake()
        self.assertEqual(locked, [True])

    def test_step_that_could_not_begin(self):
        out_of_memory = mock.Mock(side_effect=MemoryError)
        with (
            mock.patch.object(
                maintenance, "time", SimpleNamespace(monotonic=out_of_memory)
            ),
            self.assertLogs("django.db.pool", "ERROR"),
        ):
            maintenance._guarded(lambda: None)

        def work():
            if acquired := maintenance._at_work.acquire(timeout=SOON):
                maintenance._at_work.release()
            return acquired

        self.assertIs(run_in_thread(work), True)


class WorkerTests(SimpleTestCase):
    def test_comes_back_after_stop(self):
        found = workers._Workers()
        worker = found.take()
        found.stop()
        found.put_back(worker)
        self.assertEqual(found.idle, [])

    def test_nobody_to_interrupt_a_job(self):
        job = workers.Job(Future(), lambda: None)
        job.thread = threading.current_thread()
        with mock.patch.object(
            workers.WorkerExecutor, "put", side_effect=RuntimeError("no thread")
        ):
            job.interrupt()
        # Or the job would wait for that.
        self.assertIs(job.interruption.is_set(), True)

    def test_end_that_raises_anything(self):
        future = Future()
        job = workers.Job(future, lambda: 1, interrupt)
        with self.assertLogs("django.db.pool", "ERROR"):
            job.run()
        self.assertEqual(future.result(0), 1)

    def test_fork_amid_an_interruption(self):
        lock = threading.Lock()
        lock.acquire()
        with (
            mock.patch.object(workers, "workers", workers.workers),
            mock.patch.object(workers, "_interrupting", lock),
        ):
            workers._forget()
            self.assertIs(workers._interrupting.locked(), False)

    def test_waiter_of_a_closed_event_loop(self):
        line = waiting.Line()
        asyncio.run(line.enter(1, SOON, None))
        coroutine, loop = begin_to_wait(line)
        loop.close()
        line.leave()
        self.assertEqual((line.inside, len(line.places)), (0, 0))
        # What the garbage collector does.
        coroutine.close()
        self.assertEqual(line.inside, 0)


class BlockTests(AsyncPoolTestCase):
    def test_joined_task_amid_the_end(self):
        """It can't write after the rollback, on the same connection."""
        go_on = threading.Event()
        self.addCleanup(go_on.set)
        original = async_atomic.Block._exit

        async def main():
            loop, ending = asyncio.get_running_loop(), asyncio.Event()

            def exit(block, exc_info):
                loop.call_soon_threadsafe(ending.set)
                go_on.wait(SOON)
                return original(block, exc_info)

            async def add_at_the_end():
                await ending.wait()
                try:
                    with self.assertRaises(TransactionManagementError):
                        async with asyncio.timeout(0.1):
                            await self.add(1)
                finally:
                    go_on.set()

            with (
                mock.patch.object(async_atomic.Block, "_exit", exit),
                self.assertRaises(ZeroDivisionError),
            ):
                async with transaction.atomic(using=ALIAS):
                    await self.squares.acount()
                    joined = transaction.joined(add_at_the_end())
                    task = asyncio.create_task(joined)
                    await sync_to_async(lambda: None)()
                    raise ZeroDivisionError
            await task

        asyncio.run(main())
        self.assertEqual(self.roots(), [])

    def test_put_amid_another(self):
        """By the garbage collector, which closes a block."""
        first, second = mock.Mock(), mock.Mock()
        submitted = []

        def submit(run):
            if run is first.run:
                thread.put(thread.root, second)
            submitted.append(run)

        thread = async_atomic._Thread(SimpleNamespace(submit=submit))
        thread.put(thread.root, first)
        self.assertEqual(submitted, [first.run, second.run])
