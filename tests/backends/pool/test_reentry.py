"""
Calls of a pool in the midst of others of the same thread, as finalizers and
signal handlers make them: none hangs, and nothing is lost.
"""

import asyncio
import itertools
import os
import sys
import threading
import unittest
from unittest import mock

from django.db.pool import (
    PoolDeadlock,
    PoolTimeout,
    aio,
    deadlock,
    maintenance,
    queueing,
    registry,
    waiting,
    watch,
)
from django.test import SimpleTestCase

from .async_utils import begin_to_wait
from .counting import monitoring_tool
from .fakes import Call, borrow, make_pool, wait_until, warm
from .pool_cases import BRIEF, PoolTestCase
from .utils import SOON, PooledTestCase

POOL_MODULES = os.path.dirname(maintenance.__file__)


class Interruption:
    """
    A handler called by this thread before one of the bytecode instructions
    that it executes in the modules of the pool.

    tool: see monitoring_tool().
    """

    def __init__(self, tool):
        self.handler = None
        self.thread = threading.get_ident()
        instruction = sys.monitoring.events.INSTRUCTION
        sys.monitoring.register_callback(tool, instruction, self._on_instruction)
        sys.monitoring.set_events(tool, instruction)

    def call(self, function, handler, number):
        """
        Call a function and, before instruction number so and so, a handler.
        Return whether there are so many.
        """
        self.left = number
        self.handler = handler
        try:
            function()
        finally:
            has_come = self.handler is None
            self.handler = None
        return has_come

    def _on_instruction(self, code, offset):
        if not code.co_filename.startswith(POOL_MODULES):
            return sys.monitoring.DISABLE
        if self.handler is None or threading.get_ident() != self.thread:
            return None
        self.left -= 1
        if self.left < 0:
            handler, self.handler = self.handler, None
            handler()


@unittest.skipUnless(
    hasattr(sys, "monitoring"), "Calls are interrupted by sys.monitoring of CPython."
)
class AnyStepTests(PoolTestCase):
    """A handler comes at each step of a call."""

    size = 3
    # To come at each instruction would take minutes.
    stride = 11
    handlers = "acquire", "discard", "drain", "stats"

    def calls(self, pool, held):
        """
        Return functions by name that use a pool in all the ways that take its
        lock. Some of them end one of the leases held.
        """

        def acquire():
            pool.release(borrow(pool, timeout=BRIEF))

        def wait():
            with mock.patch.object(pool._state, "max_size", 1):
                pool.acquire(timeout=BRIEF)

        def fail():
            lease = pool.acquire(timeout=BRIEF)
            if lease.connection is None:
                pool.failed(lease, OSError("There's no server."))
            else:
                pool.release(lease)

        def release_expired():
            lease = held.pop()
            lease.slot.expires_at = 0
            pool.release(lease)

        calls = {
            "acquire": acquire,
            "wait": wait,
            "fail": fail,
            "release": release_expired,
            "release_dirty": lambda: pool.release_dirty(held.pop()),
            "discard": lambda: pool.discard(held.pop()),
            "discard_dead": pool.discard_dead,
            "drain": pool.drain,
            "resize": lambda: pool.resize(max_size=self.size),
            "stats": pool.stats,
            "maintain": pool.maintain,
        }

        def or_refused(function):
            def call():
                try:
                    function()
                except (PoolDeadlock, PoolTimeout):
                    pass

            return call

        return {name: or_refused(function) for name, function in calls.items()}

    def interrupt(self, interruption, call, handler, number):
        pool = make_pool(max_size=self.size)
        pool.pooling.reset_in_time = lambda *args: True
        held = [borrow(pool) for _ in range(2)]
        calls = self.calls(pool, held)
        has_come = interruption.call(calls[call], calls[handler], number)
        for lease in held:
            pool.release(lease)
        done = threading.Event()
        maintenance.put_and_wake(done.set)
        self.assertIs(done.wait(SOON), True)
        # As the maintenance thread does before long. It doesn't know the
        # pools of this test.
        pool.maintain()
        self.assertPool(pool, in_use=0, connecting=0, resetting=0, waiting=0)
        for lease in [borrow(pool, timeout=SOON) for _ in range(self.size)]:
            pool.release(lease)
        self.assertEqual(pool.pooling.server.violations, [])
        return has_come

    def interrupt_everywhere(self, call, handler):
        """Return how often the handler has interrupted the call."""
        with monitoring_tool() as tool:
            interruption = Interruption(tool)
            for count in itertools.count():
                number = count * self.stride
                try:
                    has_come = self.interrupt(interruption, call, handler, number)
                except BaseException as e:
                    e.add_note(f"{handler} at instruction {number} of {call}")
                    raise
                if not has_come:
                    return count

    def test_any_call_in_any_other(self):
        calls = self.calls(make_pool(), [])
        for call, handler in itertools.product(calls, self.handlers):
            with self.subTest(call=call, handler=handler):
                # Somewhere else, for it might hang.
                count = Call(self.interrupt_everywhere, call, handler).result()
                self.assertGreater(count, 1)


def call_with(lock, function, *args):
    """
    Call a function in a thread that holds a lock. Return what it returns.
    """

    def call():
        with lock:
            return function(*args)

    return Call(call).result()


class LockedTests(PoolTestCase):
    """What's done while this thread holds a lock."""

    def setUp(self):
        self.pool = make_pool(max_size=2)

    def assertPutOff(self, function, *args):
        with mock.patch.object(maintenance, "put") as put:
            before = self.pool.stats()
            call_with(self.pool._lock, function, *args)
            self.assertEqual(self.pool.stats(), before)
        [(step,)] = [call.args for call in put.call_args_list]
        step()
        self.assertNotEqual(self.pool.stats(), before)

    def test_calls_that_can_wait(self):
        lease = borrow(self.pool)
        self.assertPutOff(self.pool.count_pin, "cursor")
        self.assertPutOff(self.pool.resize, 0, 3)
        self.assertPutOff(self.pool.discard, lease)
        self.assertPutOff(self.pool.release_dirty, borrow(self.pool))
        warm(self.pool, 1)
        self.assertPutOff(self.pool.drain)
        lease = borrow(self.pool)
        self.pool.drain()
        self.assertPutOff(self.pool.release, lease)
        warm(self.pool, 1)
        self.assertPutOff(self.pool.close)

    def test_what_needs_no_lock(self):
        """A return that nobody waits for isn't put off."""
        lease = borrow(self.pool)
        call_with(self.pool._lock, self.pool.release, lease)
        self.assertPool(self.pool, idle=1)
        lease = call_with(self.pool._lock, self.pool.acquire)
        self.pool.release(lease)

    def test_borrower_that_would_wait(self):
        # As one that has borrowed through a wrapper does.
        self.enterContext(mock.patch.object(queueing, "wait_listeners", [lambda: True]))
        for lock in (self.pool._lock, deadlock._lock):
            with self.subTest(lock=lock):
                leases = [borrow(self.pool) for _ in range(2)]
                message = (
                    "A connection of the pool 'fake' can't be waited for here: this "
                    "code is a finalizer, or a signal handler, that has interrupted "
                    "its own thread in the midst of a call of a pool."
                )
                with self.assertRaisesMessage(PoolDeadlock, message):
                    call_with(lock, self.pool.acquire)
                for lease in leases:
                    self.pool.release(lease)
                self.assertNothingLost(self.pool, 2)

    def test_wait_in_the_midst_of_the_beginning_of_another(self):
        """It has noted, and forgotten, that the thread waits."""
        self.enterContext(mock.patch.object(queueing, "wait_listeners", [lambda: True]))
        pool = make_pool(max_size=1)
        lease = borrow(pool)
        find_stuck = deadlock._find_stuck

        def find(*args):
            with self.assertRaises(PoolDeadlock):
                pool.acquire(timeout=BRIEF)
            return find_stuck(*args)

        with (
            mock.patch.object(deadlock, "_find_stuck", find),
            self.assertRaises(PoolTimeout),
        ):
            pool.acquire(timeout=BRIEF)
        pool.release(lease)
        self.assertNothingLost(pool, 1)


@unittest.skipUnless(
    hasattr(sys, "monitoring"), "Calls are interrupted by sys.monitoring of CPython."
)
class RegistryTests(PooledTestCase):
    """A finalizer needs a pool while pools are looked for, made or closed."""

    def interrupt(self, interruption, make_call, number):
        settings = {"POOL": {"max_size": 3}}
        mine, its = self.copy(**settings), self.copy(**settings)
        has_come = interruption.call(make_call(mine), lambda: its.pool, number)
        try:
            self.assertIs(mine.pool, its.pool)
            pools = registry.all_pools()
            self.assertEqual(pools.count(its.pool), 1)
            self.assertEqual([pool.max_size for pool in pools].count(3), 1)
        finally:
            self.close(mine)
            self.close(its)
        return has_come

    def interrupt_everywhere(self, make_call):
        with monitoring_tool() as tool:
            interruption = Interruption(tool)
            for number in itertools.count():
                if not self.interrupt(interruption, make_call, number):
                    return number

    def test_making_a_pool(self):
        def make_call(wrapper):
            return lambda: wrapper.pool

        self.assertGreater(self.interrupt_everywhere(make_call), 100)

    def test_looking_for_pools_to_close(self):
        def make_call(wrapper):
            return registry.close_orphans

        self.assertGreater(self.interrupt_everywhere(make_call), 20)

    def test_closing_the_pools_of_other_settings(self):
        def make_call(wrapper):
            other = self.copy(POOL={"max_size": 2})
            other.pool
            return other.close_pool

        self.assertGreater(self.interrupt_everywhere(make_call), 100)


class OtherLocksTests(SimpleTestCase):
    def test_maintenance(self):
        done = threading.Event()
        maintenance.put(done.set)
        call_with(maintenance._lock, maintenance.wake)
        maintenance.wake()
        self.assertIs(done.wait(SOON), True)

    def test_maintenance_thread_that_is_about_to_end(self):
        """Who comes just before it's known to have ended isn't left alone."""
        done = threading.Event()
        retire = maintenance._retire
        inbox = maintenance._inbox
        come = []

        class Inbox:
            """A finalizer comes after it was found to be empty."""

            def __getattr__(self, name):
                return getattr(inbox, name)

            def empty(self):
                if come or not inbox.empty():
                    return inbox.empty()
                come.append(True)
                maintenance.put_and_wake(done.set)
                return True

        def retire_interrupted():
            maintenance._inbox = Inbox()
            try:
                return retire()
            finally:
                maintenance._inbox = inbox

        with (
            mock.patch.object(maintenance, "_retire", retire_interrupted),
            mock.patch("django.db.pool.registry.all_pools", return_value=[]),
        ):
            maintenance.wake()
            self.assertIs(done.wait(SOON), True)
        self.assertEqual(come, [True])

    def test_line_of_operations(self):
        """A coroutine that was dropped is closed there."""
        line = waiting.Line()
        asyncio.run(line.enter(1, SOON, None))

        def leave():
            line.leave()
            return line.inside

        # Not as long as it's locked.
        self.assertEqual(call_with(line._lock, leave), 1)
        wait_until(lambda: not line.inside)
        asyncio.run(line.enter(1, SOON, None))
        coroutine, loop = begin_to_wait(line)

        def close():
            coroutine.close()
            return len(line.places)

        self.assertEqual(call_with(line._lock, close), 1)
        wait_until(lambda: not line.places)
        line.leave()
        self.assertEqual(line.inside, 0)
        loop.close()

    def test_worker_of_several_holds(self):
        """A dropped iterator ends its own while another one ends."""
        outer, first, second = aio.Hold(), aio.Hold(), aio.Hold()
        first.outer = second.outer = outer
        outer.users = 3
        outer.executor = mock.Mock()

        def submit(last):
            second.end()

        outer.executor.submit = submit
        Call(first.end, lambda: None).result()
        outer.executor.release.assert_not_called()
        outer.end()
        outer.executor.release.assert_called_once_with(False)

    def test_time_limit(self):
        """There's none then, and none is left over."""

        def limited():
            with watch.time_limit(0, self.fail) as limit:
                return limit

        limit = call_with(watch._lock, limited)
        self.assertIs(limit.exceeded, False)
        self.assertNotIn(limit, watch._limits)
