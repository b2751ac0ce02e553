"""
What's left in the hands of a borrower that has given its connection back: it
refuses to do anything, and says why. And what notices that a cursor on the
server was left open.
"""

import weakref

from django.db.backends.base.statements import SESSION

from .exceptions import LeaseEnded


class EndedCursor:
    """Stands in for a cursor whose connection was given back."""

    closed = True

    def __init__(self, pool_name):
        self._pool_name = pool_name

    def close(self):
        pass

    def _refuse(self):
        raise LeaseEnded(
            "The cursor is closed: its connection was given back to the pool "
            f"{self._pool_name!r} and may belong to another borrower now."
        )

    def __getattr__(self, name):
        self._refuse()

    def __iter__(self):
        self._refuse()


class EndedConnection:
    """Stands in for a connection given back inside an atomic block."""

    def __init__(self, Database, pool_name):
        self.__dict__.update(_Database=Database, _pool_name=pool_name)

    def _refuse(self):
        # The driver's own class, which is_usable() and the like expect.
        raise self._Database.InterfaceError(
            f"The connection was given back to the pool {self._pool_name!r}."
        )

    def close(self):
        pass

    def __getattr__(self, name):
        self._refuse()

    def __setattr__(self, name, value):
        self._refuse()


class CloseOnServer:
    """
    Takes the place of the close() of a cursor on the server. If it's dropped
    together with the cursor before it was called, the server still has that.
    """

    __slots__ = ("borrower", "lease", "cursor")

    def __init__(self, borrower, cursor):
        self.borrower = borrower
        self.lease = borrower.lease
        self.cursor = weakref.ref(cursor)

    def __call__(self):
        self.lease = None
        if (cursor := self.cursor()) is not None:
            # Else the garbage collector has cleared the reference before.
            return cursor.cursor.close()

    def __del__(self):
        if self.lease is not None and self.lease is self.borrower.lease:
            self.borrower.traces |= SESSION
