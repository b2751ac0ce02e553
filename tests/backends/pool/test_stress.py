"""
Real threads, more than connections, that do what threads do: use, die, time
out, get interrupted. The fake server notices two users of one connection and
one connection too many.
"""

import random
import sys
import threading
import time
from unittest import mock

from django.db.pool import PoolClosed, PoolFull, PoolTimeout, maintenance
from django.test import SimpleTestCase

from .fakes import Call, Clock, Pooling, Server, borrow, make_pool, warm


class Interrupt(BaseException):
    """Thrown into a wait."""


def interrupting_clock():
    """
    Throw exceptions into waits: a waiter asks for the time before it goes to
    sleep, when it wakes, and when it was served.
    """
    if sys._getframe(1).f_code.co_name == "_wait" and random.random() < 0.02:
        raise Interrupt
    return time.monotonic()


class FailingPooling(Pooling):
    def open(self, timeout):
        if random.random() < 0.2:
            raise OSError("refused")
        return super().open(timeout)


class StressTests(SimpleTestCase):
    SECONDS = 2.0
    THREADS = 24

    def setUp(self):
        # The test reclaims by itself. A thread per pool is started for each
        # connect otherwise, as these pools are registered nowhere.
        self.enterContext(mock.patch.object(maintenance, "wake"))
        self.enterContext(mock.patch.object(maintenance, "put"))
        seed = time.time_ns()
        self.rng = random.Random(seed)
        self.context = f"Seed {seed}."

    def use(self, pool, lease, rng):
        """What a thread may do with what it was given."""
        server = pool.pooling.server
        if lease.connection is None:
            if rng.random() < 0.15:
                pool.failed(lease, OSError("refused"))
                return
            if rng.random() < 0.02:
                # Dies while connecting: the lease is dropped.
                return
            if rng.random() < 0.3:
                time.sleep(rng.random() * 0.002)
            pool.opened(lease, server.connect())
        fate = rng.random()
        with lease.connection:
            if fate < 0.4:
                time.sleep(rng.random() * 0.001)
        if fate < 0.9:
            assert pool.release(lease) is True
            if fate < 0.05:
                assert pool.release(lease) is False
        elif fate < 0.98:
            assert pool.discard(lease) is True
        # Else it dies without giving back: the lease is dropped.

    def work(self, pool, seed, end):
        rng = random.Random(seed)
        served = 0
        while time.monotonic() < end:
            timeout = rng.choice([0, 0.0005, 0.002, 0.05, None])
            try:
                lease = pool.acquire(timeout=timeout)
            except (PoolTimeout, PoolFull, OSError, Interrupt):
                continue
            self.use(pool, lease, rng)
            served += 1
            del lease
        return served

    def test_nothing_is_lost_or_shared(self):
        size = 5
        server = Server(limit=size)
        pool = make_pool(
            clock=interrupting_clock,
            pooling=FailingPooling(server),
            max_size=size,
            min_size=1,
            connecting=2,
            max_waiting=20,
            max_lifetime=0.05,
            max_idle=0.01,
        )
        end = time.monotonic() + self.SECONDS

        def disturb():
            """Maintenance, resizes and drains."""
            rng = random.Random(self.rng.random())
            while any(call.is_alive() for call in calls):
                pool.maintain()
                if rng.random() < 0.1:
                    pool.drain()
                pool.resize(max_size=rng.randint(1, size))
                time.sleep(0.001)

        calls = [
            Call(self.work, pool, self.rng.random(), end) for _ in range(self.THREADS)
        ]
        disturber = Call(disturb)
        served = [call.result() for call in calls]
        disturber.result()
        pool.reclaim_lost()
        self.assertEqual(server.violations, [], self.context)
        self.assertGreater(sum(served), 500, self.context)
        stats = pool.stats()
        self.assertEqual((stats.in_use, stats.connecting, stats.waiting), (0, 0, 0))
        self.assertEqual(stats.size, stats.idle, self.context)
        self.assertEqual(len(server.open), stats.size, self.context)
        self.assertEqual(stats.opened, server.opened, self.context)
        self.assertEqual(
            sum(stats.closed.values()), server.opened - len(server.open), self.context
        )
        # As many as ever can be had.
        pool.resize(min_size=0, max_size=size)

        def borrow_after_the_pause():
            while True:
                try:
                    return borrow(pool)
                except (OSError, Interrupt):
                    time.sleep(0.01)

        leases = [borrow_after_the_pause() for _ in range(size)]
        self.assertEqual(len({lease.connection for lease in leases}), size)
        pool.close()
        for lease in leases:
            pool.release(lease)
        self.assertEqual(server.open, set())
        self.assertEqual(server.violations, [])

    def test_close_under_load_leaves_nobody_behind(self):
        for _ in range(10):
            server = Server(limit=4)
            pool = make_pool(pooling=Pooling(server), max_size=4)

            def work():
                with self.assertRaises(PoolClosed):
                    while True:
                        lease = borrow(pool)
                        with lease.connection:
                            pass
                        pool.release(lease)

            calls = [Call(work) for _ in range(12)]
            time.sleep(0.02)
            pool.close()
            for call in calls:
                call.result()
            self.assertEqual(server.open, set())
            self.assertEqual(server.violations, [])
            self.assertEqual(pool.stats().size, 0)

    def test_nobody_starves(self):
        """
        32 threads that ask again at once share 8 connections evenly. Jain's
        index is 1 if all are served equally often, 1/n if one gets all.
        """
        pool = make_pool(max_size=8, connecting=8)
        warm(pool, 8)
        end = time.monotonic() + 2
        start = threading.Barrier(32)

        def work():
            served = 0
            start.wait(10)
            while time.monotonic() < end:
                lease = pool.acquire()
                time.sleep(0.0002)
                pool.release(lease)
                served += 1
            return served

        calls = [Call(work) for _ in range(32)]
        counts = [call.result() for call in calls]
        index = sum(counts) ** 2 / (len(counts) * sum(n * n for n in counts))
        self.assertGreaterEqual(index, 0.95, counts)

    def test_spike_opens_next_to_nothing(self):
        """
        50 clients at once, 5 idle connections, room for 5 more, 150 ms for a
        connect, 2 ms for a query. test_state.py has it to the millisecond.
        """
        clock = Clock()

        class SlowPooling(Pooling):
            def open(self, timeout):
                clock.advance(0.15)
                return super().open(timeout)

        pooling = SlowPooling(Server(limit=10))
        pool = make_pool(clock=clock, pooling=pooling, min_size=5, max_size=10)
        pool.maintain()
        clock.run()
        self.assertEqual((pool.stats().idle, pool.stats().opened), (5, 5))
        start = threading.Barrier(50)

        def client():
            start.wait(10)
            lease = pool.acquire()
            if lease.connection is None:
                time.sleep(0.15)
                pool.opened(lease, pool.pooling.server.connect())
            with lease.connection:
                time.sleep(0.002)
            pool.release(lease)

        for call in [Call(client) for _ in range(50)]:
            call.result()
        self.assertLessEqual(pool.stats().opened - 5, 1)
        self.assertEqual(pool.stats().acquired, 50)
        self.assertEqual(pool.pooling.server.violations, [])
