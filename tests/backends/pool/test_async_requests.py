"""ASGI requests on pooled connections."""

import asyncio
import threading
from unittest import mock

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from asgiref.testing import ApplicationCommunicator

from django.core.asgi import get_asgi_application
from django.core.signals import request_finished
from django.db import async_routing, connections, transaction
from django.http import HttpResponse, StreamingHttpResponse
from django.test import AsyncRequestFactory, override_settings
from django.urls import path

from .async_utils import AsyncPoolTestCase, no_collection
from .utils import ALIAS, SOON, wait_until

# What the views do, set by the tests.
behavior = {}


def query():
    with connections[ALIAS].cursor() as cursor:
        cursor.execute("SELECT 1")
    name = behavior["thread"] = threading.current_thread().name
    return name


def sync_view(request):
    query()
    behavior.get("sync", lambda: None)()
    return HttpResponse("ok")


async def async_view(request):
    await behavior["view"](request)
    return HttpResponse("ok")


async def streaming_view(request):
    return StreamingHttpResponse(behavior["stream"]())


def error_handler(request):
    query()
    return HttpResponse("error", status=500)


handler500 = error_handler
urlpatterns = [
    path("sync/", sync_view),
    path("async/", async_view),
    path("stream/", streaming_view),
]


@override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[], ALLOWED_HOSTS=["testserver"])
class RequestTests(AsyncPoolTestCase):
    # With and without the option.
    pool_options = {"max_size": 4, "timeout": SOON}

    def setUp(self):
        super().setUp()
        behavior.clear()
        self.finished = []
        request_finished.connect(self.note_finished)
        self.addCleanup(request_finished.disconnect, self.note_finished)

    def note_finished(self, **kwargs):
        self.finished.append(threading.current_thread().name)

    def scope(self, path):
        return AsyncRequestFactory()._base_scope(path=path)

    async def get(self, path, application=None, status=200):
        """Handle a request, and check the status of the response."""
        communicator = ApplicationCommunicator(
            application or get_asgi_application(), self.scope(path)
        )
        await communicator.send_input({"type": "http.request"})
        messages = []
        while True:
            messages.append(await communicator.receive_output(SOON))
            if messages[-1]["type"] == "http.response.body" and not messages[-1].get(
                "more_body"
            ):
                break
        await communicator.wait(SOON)
        self.assertEqual(messages[0]["status"], status)

    async def call(self, path, send=None):
        """Handle a request in the present task."""

        async def receive():
            if not received:
                received.append(True)
                return {"type": "http.request"}
            await asyncio.Event().wait()

        async def ignore(message):
            await asyncio.sleep(0)

        received = []
        await get_asgi_application()(self.scope(path), receive, send or ignore)

    def check(self, main, requests=1):
        """Run a coroutine. Nothing may be held after that."""
        asyncio.run(main)
        wait_until(lambda: self.in_use() == 0)
        wait_until(lambda: not self.workers.busy)
        self.assertEqual(len(self.finished), requests)

    def test_sync_view(self):
        async def main():
            for _ in range(5):
                await self.get("/sync/")
                # The response is sent before the worker is back.
                await asyncio.to_thread(wait_until, lambda: not self.workers.busy)

        self.check(main(), 5)
        self.assertEqual(self.stats().opened, 1)
        self.assertEqual(len(self.workers.all), 1)
        self.assertIn("django-db-worker", behavior["thread"])

    def test_thread_sensitive_code_has_one_thread_per_request(self):
        async def view(request):
            name = await sync_to_async(query)()
            await asyncio.sleep(0)
            self.assertEqual(await sync_to_async(query)(), name)

        behavior["view"] = view

        async def main():
            await asyncio.gather(*[self.get("/async/") for _ in range(8)])

        self.check(main(), 8)
        self.assertLessEqual(self.stats().opened, 4)

    def test_exception_in_the_view(self):
        async def view(request):
            await sync_to_async(query)()
            raise ValueError

        behavior["view"] = view

        self.check(self.get("/async/", status=500))

    def test_streaming(self):
        async def stream():
            for _ in range(3):
                await sync_to_async(query)()
                yield b"x"

        behavior["stream"] = stream
        self.check(self.get("/stream/"))

    def test_exception_in_streaming(self):
        async def stream():
            await sync_to_async(query)()
            yield b"x"
            raise ValueError

        behavior["stream"] = stream

        async def main():
            with self.assertRaises(ValueError):
                await self.call("/stream/")

        self.check(main())

    def test_failing_send(self):
        behavior["sync"] = query

        async def main():
            async def send(message):
                raise OSError

            with self.assertRaises(OSError):
                await self.call("/sync/", send)

        self.check(main())

    def test_failing_send_in_a_stream(self):
        """It isn't left to the garbage collector to close the iterator."""
        closed = []

        async def stream():
            try:
                async for square in self.squares.aiterator(chunk_size=1):
                    yield str(square.root)
            finally:
                closed.append(True)

        behavior["stream"] = stream
        sent = []

        async def send(message):
            sent.append(message)
            if len(sent) == 3:
                raise OSError

        async def main():
            try:
                await self.call("/stream/", send)
            except OSError as e:
                # It refers to the response.
                error = e
            self.assertEqual(closed, [True])
            await asyncio.to_thread(wait_until, lambda: not self.workers.busy)
            del error

        self.fill(5)
        self.enterContext(no_collection())
        self.check(main())

    def test_failing_close_of_a_stream(self):
        async def stream():
            try:
                yield "x"
                yield "y"
            finally:
                raise ValueError

        behavior["stream"] = stream
        # Not with assertLogs(): setup() configures logging anew.
        with mock.patch.object(async_routing.logger, "exception") as log:
            self.check(self.stream_with_failing_send())
        log.assert_called_once()

    async def stream_with_failing_send(self):
        """Fail to send an "x"."""

        async def send(message):
            if message.get("body") == b"x":
                raise OSError

        with self.assertRaises(OSError):
            await self.call("/stream/", send)

    def test_disconnect(self):
        begun = asyncio.Event()

        async def view(request):
            await sync_to_async(query)()
            begun.set()
            await asyncio.Event().wait()

        behavior["view"] = view

        async def main():
            communicator = ApplicationCommunicator(
                get_asgi_application(), self.scope("/async/")
            )
            await communicator.send_input({"type": "http.request"})
            await begun.wait()
            await communicator.send_input({"type": "http.disconnect"})
            await communicator.wait(SOON)

        self.check(main())

    def cancel(self, steps):
        async def view(request):
            await sync_to_async(query)()
            await asyncio.sleep(0)
            await sync_to_async(query)()

        behavior["view"] = view

        async def main():
            task = asyncio.create_task(self.call("/async/"))
            for _ in range(steps):
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.wait([task])
            await asyncio.sleep(0)

        asyncio.run(main())
        wait_until(lambda: self.in_use() == 0)
        wait_until(lambda: not self.workers.busy)

    def test_cancelled_handler(self):
        for steps in range(12):
            with self.subTest(steps=steps):
                self.cancel(steps)
        self.assertLessEqual(self.stats().opened, 4)
        self.assertEqual(self.stats().abandoned, 0)

    def test_task_that_outlives_the_request(self):
        async def later():
            await go_on.wait()
            await sync_to_async(query)()
            # Given back when the call has ended.
            await asyncio.to_thread(wait_until, lambda: self.in_use() == 0)

        async def view(request):
            tasks.append(asyncio.create_task(later()))

        tasks = []
        go_on = asyncio.Event()
        behavior["view"] = view

        async def main():
            await self.get("/async/")
            go_on.set()
            await asyncio.gather(*tasks)

        self.check(main())

    def test_an_outer_context_decides(self):
        async def view(request):
            await sync_to_async(query)()

        behavior["view"] = view

        async def main():
            async with ThreadSensitiveContext():
                await self.call("/async/")

        asyncio.run(main())
        self.assertNotIn("django-db-worker", behavior["thread"])

    def test_lifespan(self):
        async def main():
            application = get_asgi_application()
            communicator = ApplicationCommunicator(application, {"type": "lifespan"})
            await communicator.send_input({"type": "lifespan.startup"})
            message = await communicator.receive_output(SOON)
            self.assertEqual(message["type"], "lifespan.startup.complete")
            await self.get("/sync/", application)
            pool = self.wrapper.pool
            wait_until(lambda: pool.stats().idle == 1)
            await communicator.send_input({"type": "lifespan.shutdown"})
            message = await communicator.receive_output(SOON)
            self.assertEqual(message["type"], "lifespan.shutdown.complete")
            await communicator.wait(SOON)
            self.assertIs(pool.closed, True)
            self.assertEqual(pool.stats().size, 0)

        self.check(main())


class ConcurrentRequestTests(RequestTests):
    pool_options = AsyncPoolTestCase.pool_options

    def test_failing_send_in_a_stream_with_an_atomic_block(self):
        async def stream():
            async with transaction.atomic(using=ALIAS):
                try:
                    await self.add(1)
                    yield "x"
                finally:
                    # Still part of it.
                    counts.append(await self.squares.acount())

        behavior["stream"] = stream
        counts = []
        self.check(self.stream_with_failing_send())
        self.assertEqual(counts, [1])
        self.assertEqual(self.roots(), [])

    def test_gather_in_a_view(self):
        async def view(request):
            await self.meet(3)

        behavior["view"] = view
        self.check(self.get("/async/"))

    @override_settings(DEBUG=True)
    def test_queries_of_workers_are_logged(self):
        async def view(request):
            await self.squares.acount()
            async with transaction.atomic(using=ALIAS):
                await self.squares.afirst()
            await sync_to_async(query)()
            log = await sync_to_async(lambda: connections[ALIAS].queries)()
            found.extend(entry["sql"] for entry in log)

        found = []
        behavior["view"] = view
        self.check(self.get("/async/"))
        # Not those that initialize a connection.
        found = [sql for sql in found if "square" in sql or sql == "SELECT 1"]
        self.assertEqual(len(found), 3, found)
        self.assertIn("COUNT", found[0])
        # The next request starts with nothing.
        behavior["view"] = self.look_at_log
        self.finished.clear()
        self.check(self.get("/async/"))

    async def look_at_log(self, request):
        log = await sync_to_async(lambda: connections[ALIAS].queries)()
        self.assertEqual(log, [])

    def test_nothing_is_held_between_two_calls(self):
        async def view(request):
            await sync_to_async(query)()
            self.assertEqual(self.in_use(), 0)

        behavior["view"] = view
        self.check(self.get("/async/"))

    def test_mixed_load_on_few_connections(self):
        self.use_pool(max_size=2)

        async def view(request):
            await sync_to_async(query)()
            await asyncio.gather(self.squares.acount(), self.squares.acount())
            await sync_to_async(query)()
            async for square in self.squares.aiterator():
                await self.squares.acount()

        behavior["view"] = view
        self.fill(1)

        async def main():
            paths = ["/async/", "/sync/"] * 10
            await asyncio.gather(*[self.get(path) for path in paths])

        self.check(main(), 20)
        self.assertLessEqual(self.stats().opened, 2)
        self.assertEqual(self.stats().timeouts, 0)
