import asyncio
import threading
import uuid

from asgiref.sync import sync_to_async

from django.conf import settings
from django.db import connection, transaction
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse

from .canceling import canceled_at
from .models import Entry, Item

LONG = settings.PAUSE
SHORT = LONG / 30
WAIT = LONG / 3

# Tasks that outlive their requests, and how many have ended well.
tasks = set()
finished = 0


def statistics(request):
    """What the pool counts. It isn't borrowed from for that."""
    stats = connection.pool.stats()
    names = ("opened", "in_use", "waiting", "size", "timeouts", "abandoned")
    figures = {name: getattr(stats, name) for name in names}
    return JsonResponse({**figures, "background": finished})


def find(seconds=SHORT):
    return Item.paused(seconds).get()[0]


async def afind(seconds=SHORT):
    return (await Item.paused(seconds).aget())[0]


def sync_view(request):
    return HttpResponse(find())


async def async_view(request):
    return HttpResponse(await afind())


async def gather(request):
    return HttpResponse(" ".join(await asyncio.gather(afind(LONG), afind(LONG))))


async def task_group(request):
    async with asyncio.TaskGroup() as group:
        found = [group.create_task(afind(LONG)) for _ in range(2)]
    return HttpResponse(" ".join(task.result() for task in found))


async def insensitive(request):
    return HttpResponse(await sync_to_async(find, thread_sensitive=False)())


async def to_thread(request):
    return HttpResponse(await asyncio.to_thread(find))


async def background(request):
    task = asyncio.create_task(work())
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return HttpResponse(await afind())


async def work():
    global finished
    await asyncio.sleep(WAIT)
    await afind()
    finished += 1


def stream(request):
    def lines():
        for name in Item.objects.order_by("pk").values_list("name", flat=True):
            yield name + "\n"
        yield find()

    return StreamingHttpResponse(lines())


async def stream_async(request):
    async def lines():
        async for item in Item.objects.order_by("pk").aiterator(chunk_size=10):
            yield item.name + "\n"
        yield await afind()

    return StreamingHttpResponse(lines())


async def stream_error(request):
    async def lines():
        async for item in Item.objects.order_by("pk").aiterator(chunk_size=10):
            yield item.name + "\n"
            if item.pk == 15:
                raise ValueError("This is wanted.")

    return StreamingHttpResponse(lines())


async def waiting(request):
    await afind()
    await asyncio.sleep(WAIT)
    return HttpResponse(await afind())


async def slow(request):
    return HttpResponse(await afind(LONG))


async def timeout(request):
    try:
        async with asyncio.timeout(WAIT):
            await afind(LONG)
    except TimeoutError:
        # The next one isn't bothered by what goes on.
        return HttpResponse(await afind())
    return HttpResponse("There was no timeout.", status=500)


async def cancel(request, number):
    """Cancel at an await; say how it ended, and what was committed."""
    key = uuid.uuid4().hex
    task = asyncio.create_task(canceled_at(everything(key), number))
    try:
        await task
    except asyncio.CancelledError:
        end = "canceled"
    else:
        end = "done"
    rows = await Entry.objects.filter(key=key).acount()
    await Entry.objects.filter(key=key).adelete()
    if rows not in ([0, 2] if end == "canceled" else [2]):
        return HttpResponse(f"{end} at {number}: {rows} rows", status=500)
    return HttpResponse(end)


async def everything(key):
    await afind(0)
    async for _ in Item.objects.order_by("pk").aiterator(chunk_size=20):
        pass
    async with transaction.atomic():
        await Entry.objects.acreate(key=key)
        async with transaction.atomic():
            await sync_to_async(Entry.objects.create)(key=key)
    async with connection.acursor() as cursor:
        await cursor.execute("SELECT 1")
        await cursor.fetchone()
    await sync_to_async(find)(0)
    await asyncio.gather(afind(0), afind(0))


async def error(request):
    await afind()
    raise ValueError("This is wanted.")


def error_page(request):
    return HttpResponse(find(), status=500)


def leak(request):
    """Lose a connection, for the test that losses are noticed."""
    holds = threading.Event()

    def hold():
        find()
        holds.set()
        threading.Event().wait()

    threading.Thread(target=hold, daemon=True).start()
    holds.wait(10)
    return HttpResponse("Item 1")
