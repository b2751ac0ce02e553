"""
Connection pools, the same for every database backend.

Imported when a database's settings ask for a pool, not before. See
docs/topics/db/pooling.txt.
"""

from .exceptions import LeaseEnded, PoolClosed, PoolFull, PoolTimeout
from .lease import Lease
from .options import PoolOptions
from .pool import ConnectionPool
from .stats import Histogram, PoolStats

__all__ = [
    "ConnectionPool",
    "Histogram",
    "Lease",
    "LeaseEnded",
    "PoolClosed",
    "PoolFull",
    "PoolOptions",
    "PoolStats",
    "PoolTimeout",
]
