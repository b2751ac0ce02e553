"""
What's left in the hands of a borrower that has given its connection back: it
refuses to do anything, and says why.
"""

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
