"""Querysets that several tasks use at the same time."""

import asyncio
import threading
from contextlib import contextmanager
from unittest import mock

from backends.models import Square

from django.db.models import QuerySet, sql

from .async_utils import AsyncPoolTestCase
from .utils import ALIAS, SOON


class NotingQuerySet(QuerySet):
    def _fetch_all(self):
        super()._fetch_all()
        self.noted = len(self._result_cache)


class SharedQuerySetTests(AsyncPoolTestCase):
    def setUp(self):
        super().setUp()
        self.fill(3)

    async def list(self, queryset):
        return [square async for square in queryset]

    async def fetch(self, queryset):
        return [square.root for square in await self.list(queryset)]

    async def iterate(self, queryset):
        return [square.root async for square in queryset.aiterator()]

    @contextmanager
    def meeting(self, owner, name, number):
        """
        Have so many calls of a method wait for each other. The value is a
        list of the objects that they are called on.
        """
        barrier, met = threading.Barrier(number), []
        original = getattr(owner, name)

        def method(self, *args, **kwargs):
            met.append(self)
            barrier.wait(SOON)
            return original(self, *args, **kwargs)

        with mock.patch.object(owner, name, method):
            yield met

    def run_all(self, *coroutines):
        async def main():
            return await asyncio.gather(*coroutines)

        return asyncio.run(main())

    def test_queryset(self):
        """Compiling changes a query for a time: each task has its own."""
        squares = self.squares.order_by("root")
        with self.meeting(sql.Query, "get_compiler", 4) as queries:
            lists = self.run_all(
                self.fetch(squares),
                self.fetch(squares),
                self.iterate(squares),
                self.iterate(squares),
            )
        self.assertEqual(lists, [[0, 1, 2]] * 4)
        self.assertEqual(len({id(query) for query in [squares.query, *queries]}), 5)

    def test_deferred_filter(self):
        """What a related manager's query is filtered by is left for later."""
        squares = self.squares.all()
        squares._defer_next_filter = True
        squares = squares.filter(root__gt=0)
        self.assertIsNotNone(squares._deferred_filter)
        apply_filter, threads = squares._filter_or_exclude_inplace, []

        def note(*args):
            threads.append(threading.current_thread())
            apply_filter(*args)

        squares._filter_or_exclude_inplace = note
        counts = self.run_all(squares.acount(), squares.acount())
        self.assertEqual(counts, [2, 2])
        self.assertEqual(threads, [threading.current_thread()])

    def test_raw_queryset(self):
        """A cursor is kept with its query."""
        squares = self.squares.raw("SELECT * FROM backends_square ORDER BY root")
        with self.meeting(sql.RawQuery, "_execute_query", 2) as queries:
            lists = self.run_all(self.fetch(squares), self.fetch(squares))
        self.assertEqual(lists, [[0, 1, 2]] * 2)
        self.assertEqual(len({id(query) for query in [squares.query, *queries]}), 3)

    def test_results_are_kept(self):
        squares = NotingQuerySet(Square, using=ALIAS).order_by("root")
        with self.meeting(sql.Query, "get_compiler", 2):
            lists = self.run_all(self.list(squares), self.list(squares))
        results = squares._result_cache
        self.assertEqual([square.root for square in results], [0, 1, 2])
        # All have those of the first.
        for objects in lists:
            self.assertEqual([*map(id, objects)], [*map(id, results)])
        # And what a subclass keeps.
        self.assertEqual(squares.noted, 3)
        self.run_all(self.list(squares))
        self.assertIs(squares._result_cache, results)
