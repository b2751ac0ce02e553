"""What a part of the pool takes within a query or a request: without it."""

from .leases import compare_by_turns, make_loop
from .setup import set_up_site

# Requests or queries of a batch.
BATCH = 10


def compare(database, other, use, without, seconds):
    """
    Return what a use of a database takes compared with another database, both
    in this process, in batches by turns.

    use: "get()", or "request" for one with three queries, without a server.
    without: the name of what the pool is to do without, None for nothing.
    """
    set_up_site(database, other=other)
    if without is not None:
        leave_out(without)
    loops = [
        make_loop(use, alias) if use != "request" else make_requests(alias)
        for alias in ("default", "other")
    ]
    return compare_by_turns(*loops, BATCH, seconds)


def leave_out(part):
    """Have the pool work without a part, which isn't safe."""
    from django.db import connections
    from django.db.pool.policy import TransactionPolicy

    pooling = type(connections["default"]).pooling_class
    if part == "socket":
        replace(pooling, "make_probe", lambda self, connection: None)
    elif part == "driver":
        replace(pooling, "make_watch", lambda self, connection: lambda: True)
    elif part == "giving back":
        replace(TransactionPolicy, "rest", lambda self, borrower, wrapper: None)
    else:
        raise ValueError(f"There's no part {part!r}.")


def replace(owner, name, method):
    if not hasattr(owner, name):
        # Nothing would be left out.
        raise AttributeError(f"{owner.__name__} has no {name}().")
    setattr(owner, name, method)


def make_requests(alias):
    from shop.models import Author, Book
    from shop.views import AUTHOR, BOOKS

    from django.core.signals import request_finished, request_started

    authors, books = Author.objects.using(alias), Book.objects.using(alias)

    def serve(n):
        for _ in range(n):
            request_started.send(sender=None)
            author = authors.get(pk=AUTHOR)
            of_author = books.filter(author=author)
            list(of_author.order_by("price")[:BOOKS])
            of_author.count()
            request_finished.send(sender=None)

    return serve
