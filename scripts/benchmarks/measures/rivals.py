"""
The pools without a database: each as its documentation says it's used, with
connections that do nothing. What a pool does to a connection on its own
account and can be told to leave out by a documented option (a reset, a
rollback, a ping) is left out, for a dummy does it for nothing anyway.
"""

import queue
import threading
import time
from collections import deque


class Opener:
    """Opens dummies, which takes a given time, and counts them."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds
        self.started = 0
        self.finished = 0
        self.lock = threading.Lock()

    def __call__(self, dummy_class):
        with self.lock:
            self.started += 1
        if self.seconds:
            time.sleep(self.seconds)
        with self.lock:
            self.finished += 1
        return dummy_class()


class Dummy:
    def close(self):
        pass

    def rollback(self):
        pass


class Rival:
    """
    acquire() returns something that release() gives back. loop() does both n
    times with as little around it as the rival's users would have.
    """

    def __init__(self, size, opener, warm=0):
        self.size = size
        self.opener = opener
        self.warm = warm
        self.start()

    def start(self):
        raise NotImplementedError

    def loop(self, n):
        acquire, release = self.acquire, self.release
        for _ in range(n):
            release(acquire())

    def fill(self, count):
        """Have some connections opened: that many threads hold one at once."""
        barrier = threading.Barrier(count)

        def hold():
            handle = self.acquire()
            barrier.wait()
            self.release(handle)

        threads = [threading.Thread(target=hold) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def stop(self):
        pass


class DjangoPool(Rival):
    def start(self):
        # Imported by the pool's thread otherwise, while we measure.
        import django.db.pool.registry  # NOQA: F401
        from django.db.backends.base.pooling import Session
        from django.db.pool.options import PoolOptions
        from django.db.pool.pool import ConnectionPool

        class Pooling:
            def close(self, connection):
                pass

        options = PoolOptions(name="bench", max_size=self.size)
        self.pool = ConnectionPool(options, Pooling())
        self.session_class = Session
        self.fill(self.warm)

    def acquire(self):
        lease = self.pool.acquire()
        if lease.connection is None:
            # It's a permit to open one.
            self.pool.opened(lease, self.opener(Dummy), self.session_class())
        return lease

    def release(self, lease):
        self.pool.release(lease)

    def fill(self, count):
        if count:
            super().fill(count)

    def loop(self, n):
        acquire, release = self.pool.acquire, self.pool.release
        for _ in range(n):
            release(acquire())


class DjangoPoolRead(DjangoPool):
    """The same, and the connection is read from the lease."""

    def loop(self, n):
        acquire, release = self.pool.acquire, self.pool.release
        for _ in range(n):
            lease = acquire()
            lease.connection
            release(lease)


class PsycopgPool(Rival):
    def start(self):
        from psycopg.pq import TransactionStatus
        from psycopg_pool import ConnectionPool

        opener = self.opener

        class Status:
            transaction_status = TransactionStatus.IDLE

        class PsycopgDummy(Dummy):
            pgconn = Status()
            closed = False

            @classmethod
            def connect(cls, conninfo, **kwargs):
                return opener(cls)

        self.pool = ConnectionPool(
            connection_class=PsycopgDummy,
            min_size=self.warm,
            max_size=self.size,
            open=False,
        )
        self.pool.open()
        self.pool.wait()
        self.acquire = self.pool.getconn
        self.release = self.pool.putconn

    def stop(self):
        self.pool.close()


class Closing(Rival):
    """A pool whose connections are given back by their close()."""

    def release(self, handle):
        handle.close()

    def loop(self, n):
        acquire = self.acquire
        for _ in range(n):
            acquire().close()


class SQLAlchemyFIFO(Closing):
    use_lifo = False

    def start(self):
        from sqlalchemy.pool import QueuePool

        self.pool = QueuePool(
            lambda: self.opener(Dummy),
            pool_size=self.size,
            max_overflow=0,
            use_lifo=self.use_lifo,
            reset_on_return=None,
        )
        self.acquire = self.pool.connect
        if self.warm:
            self.fill(self.warm)


class SQLAlchemyLIFO(SQLAlchemyFIFO):
    use_lifo = True


class Peewee(Rival):
    def start(self):
        from peewee import Database
        from playhouse.pool import PooledDatabase

        opener = self.opener

        class DummyDatabase(Database):
            def _connect(self):
                return opener(Dummy)

        class PooledDummyDatabase(PooledDatabase, DummyDatabase):
            pass

        self.database = PooledDummyDatabase(
            "bench", max_connections=self.size, timeout=30
        )
        self.acquire = self.database.connect
        if self.warm:
            self.fill(self.warm)

    def release(self, handle):
        self.database.close()

    def loop(self, n):
        connect, close = self.database.connect, self.database.close
        for _ in range(n):
            connect()
            close()


class DBUtils(Closing):
    def start(self):
        from dbutils.pooled_db import PooledDB

        def connect():
            return self.opener(Dummy)

        # What it would learn from the driver's module, as "failures" below.
        connect.threadsafety = 1
        self.pool = PooledDB(
            connect,
            maxconnections=self.size,
            blocking=True,
            reset=False,
            ping=0,
            failures=(OSError,),
        )
        self.acquire = self.pool.connection
        if self.warm:
            self.fill(self.warm)


class MySQLConnector(Closing):
    """It opens all its connections at the start, and never waits."""

    def start(self):
        from mysql.connector import pooling
        from mysql.connector.connection import MySQLConnection

        class MySQLDummy(MySQLConnection):
            def __init__(self, **kwargs):
                super().__init__()

            def is_connected(self):
                return True

            def close(self):
                pass

            disconnect = close

        pooling.connect = lambda **kwargs: self.opener(MySQLDummy)
        self.pool = pooling.MySQLConnectionPool(
            pool_size=self.size, pool_name="bench", pool_reset_session=False, user="x"
        )
        self.acquire = self.pool.get_connection


class Nothing(Rival):
    """No pool: to see what the threads do by themselves."""

    def start(self):
        self.connection = self.opener(Dummy)

    def acquire(self):
        return self.connection

    def release(self, connection):
        pass


class LifoQueue(Rival):
    def start(self):
        self.queue = queue.LifoQueue()
        for _ in range(self.size):
            self.queue.put(self.opener(Dummy))
        self.acquire = self.queue.get
        self.release = self.queue.put


class FloorBound(Rival):
    """A deque and a Lock, their methods looked up beforehand."""

    def start(self):
        idle = deque(self.opener(Dummy) for _ in range(self.size))
        lock = threading.Lock()
        self.lock_acquire, self.lock_release = lock.acquire, lock.release
        self.pop, self.append = idle.pop, idle.append

    def acquire(self):
        self.lock_acquire()
        connection = self.pop()
        self.lock_release()
        return connection

    def release(self, connection):
        self.lock_acquire()
        self.append(connection)
        self.lock_release()


class FloorWith(Rival):
    """A deque, and a Lock in a "with" statement."""

    def start(self):
        self.idle = deque(self.opener(Dummy) for _ in range(self.size))
        self.lock = threading.Lock()

    def acquire(self):
        with self.lock:
            return self.idle.pop()

    def release(self, connection):
        with self.lock:
            self.idle.append(connection)


RIVALS = {
    "django-pool": DjangoPool,
    "django-pool-read": DjangoPoolRead,
    "psycopg_pool": PsycopgPool,
    "sqlalchemy-fifo": SQLAlchemyFIFO,
    "sqlalchemy-lifo": SQLAlchemyLIFO,
    "peewee": Peewee,
    "dbutils": DBUtils,
    "mysql.connector": MySQLConnector,
    "queue.LifoQueue": LifoQueue,
    "nothing": Nothing,
    "floor": FloorBound,
    "floor-with": FloorWith,
}
