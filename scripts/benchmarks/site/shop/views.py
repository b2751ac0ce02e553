"""The same page twice, each with three queries; and some that only query."""

import asyncio

from django.db.models.expressions import RawSQL
from django.http import HttpResponse, JsonResponse

from .models import Author, Book

AUTHOR = 1
BOOKS = 10


def ready(request):
    """No query: for whoever waits until the server is up."""
    return HttpResponse()


def shelf(request):
    author = Author.objects.get(pk=AUTHOR)
    books = Book.objects.filter(author=author).order_by("price")[:BOOKS]
    titles = [book.title for book in books]
    count = Book.objects.filter(author=author).count()
    return JsonResponse({"author": author.name, "books": titles, "count": count})


async def async_shelf(request):
    author = await Author.objects.aget(pk=AUTHOR)
    books = Book.objects.filter(author=author).order_by("price")[:BOOKS]
    titles = [book.title async for book in books]
    count = await Book.objects.filter(author=author).acount()
    return JsonResponse({"author": author.name, "books": titles, "count": count})


async def naps(request, milliseconds):
    """Two slow queries at once."""
    nap = RawSQL("pg_sleep(%s)::text", [milliseconds / 1000])
    author = Author.objects.annotate(nap=nap).filter(pk=AUTHOR)
    await asyncio.gather(author.aget(), author.aget())
    return HttpResponse()


async def pause(request, milliseconds):
    """Wait for something else between two queries."""
    author = await Author.objects.aget(pk=AUTHOR)
    await asyncio.sleep(milliseconds / 1000)
    await Book.objects.filter(author=author).acount()
    return HttpResponse()


async def serial(request, count):
    """One query after the other."""
    for _ in range(count):
        await Author.objects.aget(pk=AUTHOR)
    return HttpResponse()
