"""The asynchronous methods of caches, with concurrent_async."""

import asyncio
import threading

from asgiref.sync import sync_to_async

from django.core.cache.backends.db import DatabaseCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.management import call_command
from django.db import connections
from django.test import override_settings

from .async_utils import AsyncPoolTestCase
from .utils import ALIAS, SOON

TABLE = "pool_test_cache"


class Router:
    """Has the entries of caches live in the pooled database."""

    def db_for_read(self, model, **hints):
        return ALIAS if model._meta.app_label == "django_cache" else None

    db_for_write = db_for_read


class MeetingMixin:
    """A cache whose get() waits for others. It notes who they were."""

    barrier = None

    def get(self, *args, **kwargs):
        value = super().get(*args, **kwargs)
        self.threads.append(threading.current_thread())
        if self.barrier is not None:
            self.barrier.wait(SOON)
        return value


class MeetingDatabaseCache(MeetingMixin, DatabaseCache):
    pass


class MeetingLocMemCache(MeetingMixin, LocMemCache):
    pass


@override_settings(
    CACHES={
        "default": {
            "BACKEND": "django.core.cache.backends.db.DatabaseCache",
            "LOCATION": TABLE,
        }
    },
    DATABASE_ROUTERS=[Router()],
)
class CacheTests(AsyncPoolTestCase):
    def setUp(self):
        super().setUp()
        self.addCleanup(self.drop_cache)
        call_command("createcachetable", database=ALIAS, verbosity=0)
        connections[ALIAS].close()
        self.cache = MeetingDatabaseCache(TABLE, {})
        self.cache.threads = []

    def drop_cache(self):
        with self.wrapper.cursor() as cursor:
            cursor.execute(f"DROP TABLE {TABLE}")
        self.wrapper.close()

    def get_at_once(self, number):
        async def main():
            await asyncio.gather(*[self.cache.aget("key") for _ in range(number)])

        asyncio.run(main())
        return len(set(self.cache.threads))

    def forget(self):
        connections[ALIAS].close()
        del connections[ALIAS]

    def test_operations_of_one_task_run_at_the_same_time(self):
        self.cache.barrier = threading.Barrier(3)
        self.assertEqual(self.get_at_once(3), 3)
        self.assertEqual(self.in_use(), 0)

    def test_nothing_is_held_after_any_method(self):
        async def main():
            cache = self.cache
            for method, expected in (
                (cache.aset("a", 1), None),
                (cache.aget("a"), 1),
                (cache.aadd("a", 2), False),
                (cache.atouch("a"), True),
                (cache.aincr("a"), 2),
                (cache.adecr("a"), 1),
                (cache.ahas_key("a"), True),
                (cache.aget_or_set("b", lambda: 3), 3),
                (cache.aset_many({"c": 4, "d": 5}), []),
                (cache.aget_many(["b", "c"]), {"b": 3, "c": 4}),
                (cache.adelete("b"), True),
                (cache.adelete_many(["c"]), None),
                (cache.aincr_version("d"), 2),
                (cache.aclear(), None),
                (cache.aget("a"), None),
                (cache.aclose(), None),
            ):
                with self.subTest(method=method.__name__):
                    self.assertEqual(await method, expected)
                    self.assertEqual(self.in_use(), 0)

        asyncio.run(main())
        self.assertEqual(self.stats().abandoned, 0)

    def test_other_caches_stay_in_their_thread(self):
        self.cache = MeetingLocMemCache("pool", {})
        self.cache.threads = []
        self.assertEqual(self.get_at_once(3), 1)
        self.assertNotIn("django-db-worker", self.cache.threads[0].name)

    def test_without_the_option(self):
        self.use_pool(concurrent_async=False)
        # asgiref's thread goes on to hold a connection.
        self.addCleanup(lambda: asyncio.run(sync_to_async(self.forget)()))
        self.assertEqual(self.get_at_once(3), 1)
        self.assertNotIn("django-db-worker", self.cache.threads[0].name)

    def test_methods_may_be_replaced(self):
        """What they are replaced by needn't be a method."""
        self.cache.get = lambda key, default=None, version=None: key
        self.assertEqual(asyncio.run(self.cache.aget("key")), "key")
