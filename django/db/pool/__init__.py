"""
Connection pools, the same for every database backend.

Imported when a database's settings ask for a pool, not before. See
docs/topics/db/pooling.txt.
"""

from .exceptions import LeaseEnded, PoolClosed, PoolDeadlock, PoolFull, PoolTimeout
from .lease import Lease
from .options import PoolOptions
from .pool import ConnectionPool
from .stats import Histogram, PoolStats, WorkerStats, worker_stats

__all__ = [
    "ConnectionPool",
    "Histogram",
    "Lease",
    "LeaseEnded",
    "PoolClosed",
    "PoolDeadlock",
    "PoolFull",
    "PoolOptions",
    "PoolStats",
    "PoolTimeout",
    "WorkerStats",
    "worker_stats",
]
