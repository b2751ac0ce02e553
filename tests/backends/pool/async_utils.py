"""What the tests of asynchronous operations share."""

import asyncio
import gc
import threading
from contextlib import contextmanager
from unittest import mock

from backends.models import Square

from django.db import async_routing, connections
from django.db.pool import waiting, workers

from .utils import ALIAS, SOON, PooledTestCase


@contextmanager
def no_collection():
    """Have the garbage collector run only when it's called."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def begin_to_wait(line):
    """
    Have a coroutine begin to wait in a line of operations. Return it, and its
    event loop, which doesn't run any more.
    """
    loop = asyncio.new_event_loop()
    coroutine = line.enter(1, SOON, None)

    async def begin():
        coroutine.send(None)

    loop.run_until_complete(begin())
    return coroutine, loop


class AsyncPoolTestCase(PooledTestCase):
    """
    Adds a table for Square. The tests run asyncio.run() themselves where sync
    code above would make a difference.
    """

    pool_options = {"max_size": 4, "timeout": SOON, "concurrent_async": True}

    def setUp(self):
        super().setUp()
        # Those of other tests know this alias with other settings.
        self.workers = workers._Workers()
        self.enterContext(mock.patch.object(workers, "workers", self.workers))
        self.enterContext(mock.patch.object(waiting, "line", waiting.Line()))
        self.addCleanup(self.workers.stop)
        # The option of any database counts.
        others = {
            alias: {**settings_dict, "POOL": None, "OPTIONS": {}}
            for alias, settings_dict in connections.settings.items()
            if alias != ALIAS
        }
        self.enterContext(mock.patch.dict(connections.settings, others))
        self.squares = Square.objects.using(ALIAS)
        wrapper = self.unpooled()
        if wrapper.vendor == "sqlite":
            self.query("PRAGMA journal_mode = WAL", wrapper=wrapper)
            with wrapper.schema_editor() as editor:
                # Its transaction is one of the alias's own wrapper.
                editor.create_model(Square)
            self.wrapper.close()
        else:
            self.query("DELETE FROM backends_square", wrapper=wrapper)
            self.addCleanup(self.empty)
        wrapper.close()

    def empty(self):
        wrapper = self.unpooled()
        self.query("DELETE FROM backends_square", wrapper=wrapper)
        wrapper.close()

    def fill(self, count):
        """Add so many squares, from 0."""
        wrapper = self.unpooled()
        with wrapper.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO backends_square (root, square) VALUES (%s, %s)",
                [(root, root**2) for root in range(count)],
            )
        wrapper.close()

    def use_pool(self, **options):
        super().use_pool(**{**self.pool_options, **options})

    def roots(self):
        """Return what others see."""
        wrapper = self.unpooled()
        try:
            with wrapper.cursor() as cursor:
                cursor.execute("SELECT root FROM backends_square ORDER BY root")
                return [row[0] for row in cursor.fetchall()]
        finally:
            wrapper.close()

    async def add(self, root):
        return await self.squares.acreate(root=root, square=root**2)

    def in_use(self):
        return self.wrapper.pool.stats().in_use

    async def meet(self, number):
        """
        Run that many operations that wait for each other. Return the wrappers
        that they had.
        """
        barrier = threading.Barrier(number)
        wrappers = []

        def operation():
            wrapper = connections[ALIAS]
            self.query("SELECT 1", wrapper=wrapper)
            wrappers.append(wrapper)
            barrier.wait(SOON)

        operation = async_routing.sync_to_async(operation)
        await asyncio.gather(*[operation() for _ in range(number)])
        return wrappers
