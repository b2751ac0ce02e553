"""The same page twice, each with three queries."""

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
