"""What a borrower holds while it has a connection of a pool."""

import sys
import traceback

from .exceptions import LeaseEnded


class Holder:
    """
    Who holds a connection, with the stack that borrowed it: an owner for
    pools with leak_warning.
    """

    def __init__(self, label):
        self.label = label
        # Without the frames themselves: they would keep their variables alive.
        self.stack = traceback.StackSummary.extract(
            traceback.walk_stack(sys._getframe(1)), lookup_lines=False
        )
        self.stack.reverse()
        self.reported = False

    def __str__(self):
        return str(self.label)

    def format_stack(self):
        return "".join(self.stack.format())


class Lease:
    """
    A one-shot token around one connection, or around the permit to open one.

    It ends when it's given to ConnectionPool.release(), discard() or
    failed(), once, whoever comes first. One that is dropped without having
    ended, by a borrower that died or by an exception at a bad moment, is
    found by ConnectionPool.reclaim_lost().

    pool: the pool that lends.
    deadline: by when the borrower wanted to be served, on the pool's clock,
        None if it didn't have to wait.
    """

    # The pool sets them. An __init__() would take longer than everything else
    # that a borrow consists of.
    #
    # _slot isn't there any more when the lease has ended. Of all who would end
    # it at the same time, the deletion lets one succeed.
    __slots__ = ("_slot", "pool", "deadline")

    @property
    def slot(self):
        """The connection's place in the pool, None if the lease has ended."""
        try:
            return self._slot
        except AttributeError:
            return None

    def end(self):
        """Return the slot if this ends the lease, None if it had ended."""
        try:
            slot = self._slot
            del self._slot
        except AttributeError:
            return None
        return slot

    @property
    def connection(self):
        """
        The driver's connection, None for a permit to open one. Raise
        LeaseEnded if the lease has ended.
        """
        if (slot := self.slot) is None:
            raise LeaseEnded(
                "This connection was given back to the pool "
                f"{self.pool.name!r} and may belong to another borrower now."
            )
        return slot.connection

    def __repr__(self):
        return f"<Lease {'ended' if self.slot is None else self.slot!r}>"
