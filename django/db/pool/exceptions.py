"""The errors of a connection pool."""

from django.db.utils import InterfaceError, OperationalError


class PoolTimeout(OperationalError):
    """
    No connection could be had within the pool's ``timeout``. The message says
    what the pool looked like; the cause is the last error met on connecting,
    if there was one.
    """


class PoolDeadlock(PoolTimeout):
    """
    Nobody could ever have been served: all who hold a connection of the pool
    wait for one themselves. The message names them, with what pins their
    connections and the stacks of their threads.
    """


class PoolFull(OperationalError):
    """``max_waiting`` borrowers were waiting already."""


class PoolClosed(InterfaceError):
    """The pool was closed before a connection could be had."""


class LeaseEnded(InterfaceError):
    """
    A connection, or a cursor of it, was used after it had been given back to
    its pool.
    """
