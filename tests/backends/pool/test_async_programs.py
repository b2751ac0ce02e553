"""
Random programs of tasks, against a model of what they should have committed.
"""

import asyncio
import itertools
import unittest

from django.db import connection, transaction
from django.db.transaction import TransactionManagementError

from .async_utils import AsyncPoolTestCase
from .utils import ALIAS, SOON, wait_until

try:
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st
except ImportError:
    raise unittest.SkipTest("hypothesis isn't installed.")

INSERT = "insert"
ATOMIC = "atomic"
PARALLEL = "parallel"
JOINED = "joined"
INDEPENDENT = "independent"
CANCELED = "canceled"

# A program is a list of steps: (what, whether it fails, programs inside).
programs = st.recursive(
    st.lists(st.just((INSERT, False, [])), min_size=1, max_size=2),
    lambda inner: st.lists(
        st.one_of(
            st.just((INSERT, False, [])),
            st.tuples(st.just(ATOMIC), st.booleans(), st.lists(inner, max_size=1)),
            st.tuples(
                st.sampled_from([PARALLEL, JOINED, INDEPENDENT, CANCELED]),
                st.just(False),
                st.lists(inner, min_size=1, max_size=3),
            ),
        ),
        max_size=3,
    ),
    max_leaves=8,
)


class Error(Exception):
    pass


@unittest.skipIf(connection.vendor == "sqlite", "It has one writer at a time.")
class ProgramTests(AsyncPoolTestCase):
    pool_options = {"max_size": 20, "timeout": SOON, "concurrent_async": True}

    @settings(
        max_examples=150,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(programs)
    def test_what_is_committed(self, program):
        self.empty()
        self.numbers = itertools.count(1)
        # What tasks committed whatever became of those that started them.
        self.committed = []
        done = []
        asyncio.run(self.run_program(program, done, in_block=False))
        wait_until(lambda: self.in_use() == 0)
        wait_until(lambda: not self.workers.busy)
        self.assertEqual(self.roots(), sorted(done + self.committed))

    async def run_program(self, program, done, in_block):
        """
        Append the numbers to done that are there if all around is committed.
        """
        for what, fails, inner in program:
            await getattr(self, what)(fails, inner, done, in_block)

    async def insert(self, fails, inner, done, in_block):
        number = next(self.numbers)
        await self.add(number)
        done.append(number)

    async def atomic(self, fails, inner, done, in_block):
        done_here = []
        try:
            async with transaction.atomic(using=ALIAS):
                for program in inner:
                    await self.run_program(program, done_here, in_block=True)
                if fails:
                    raise Error
        except Error:
            return
        done += done_here

    async def parallel(self, fails, inner, done, in_block):
        results = await asyncio.gather(
            *[self.run_program(program, done, in_block) for program in inner],
            return_exceptions=True,
        )
        for program, result in zip(inner, results):
            if in_block and any(what in (INSERT, ATOMIC) for what, _, _ in program):
                self.assertIsInstance(result, TransactionManagementError)
            else:
                self.assertIsNone(result)

    async def joined(self, fails, inner, done, in_block):
        await asyncio.gather(
            *[
                transaction.joined(self.run_program(program, done, in_block))
                for program in inner
            ]
        )

    async def independent(self, fails, inner, done, in_block):
        await asyncio.gather(
            *[
                transaction.independent(
                    self.run_program(program, self.committed, False)
                )
                for program in inner
            ]
        )

    async def canceled(self, fails, inner, done, in_block):
        """Blocks that are canceled before they end leave nothing behind."""

        async def block():
            async with transaction.atomic(using=ALIAS):
                await self.add(-1)
                waiting.set()
                await asyncio.Event().wait()

        for _ in inner:
            waiting = asyncio.Event()
            task = asyncio.create_task(transaction.joined(block()))
            await waiting.wait()
            task.cancel()
            await asyncio.wait([task])
