"""Stand-ins for a driver, for tests of the pool without a database."""

import threading
import time

from django.db.pool import ConnectionPool, PoolOptions

# The longest that a test waits, in seconds, for what happens in a moment.
PATIENCE = 10


class Clock:
    """A clock that stands still, unless it's told to advance or to run."""

    def __init__(self, now=1000.0):
        self.now = now
        self.running_since = None

    def __call__(self):
        if self.running_since is None:
            return self.now
        return self.now + time.monotonic() - self.running_since

    def advance(self, seconds):
        self.now += seconds

    def run(self):
        self.running_since = time.monotonic()


class Violation(AssertionError):
    """A promise of the pool was broken."""


class Server:
    """
    Counts its connections, and remembers each that was one too many and each
    use of a connection by two at once.
    """

    def __init__(self, limit=None):
        self.limit = limit
        self.lock = threading.Lock()
        self.open = set()
        self.opened = 0
        self.most = 0
        self.violations = []

    def connect(self):
        connection = Connection(self)
        with self.lock:
            self.opened += 1
            connection.number = self.opened
            self.open.add(connection)
            self.most = max(self.most, len(self.open))
            if self.limit is not None and len(self.open) > self.limit:
                self.report(f"{len(self.open)} connections, limit {self.limit}")
        return connection

    def report(self, what):
        self.violations.append(what)


class Connection:
    """A driver's connection that notices wrong use."""

    def __init__(self, server):
        self.server = server
        self.number = None
        self.user = None
        self.closed = False

    def __repr__(self):
        return f"<Connection {self.number}>"

    def __enter__(self):
        me = threading.get_ident()
        with self.server.lock:
            if self.closed:
                self.server.report(f"{self!r} used after it was closed")
            if self.user is not None:
                self.server.report(f"{self!r} used by {self.user} and {me}")
            self.user = me
        return self

    def __exit__(self, *exc_info):
        with self.server.lock:
            if self.user != threading.get_ident():
                self.server.report(f"{self!r} was taken over")
            self.user = None

    def close(self):
        with self.server.lock:
            if self.closed:
                self.server.report(f"{self!r} closed twice")
            if self.user is not None:
                self.server.report(f"{self!r} closed while in use")
            self.closed = True
            self.server.open.discard(self)


class Pooling:
    """What a pool asks of a driver."""

    def __init__(self, server):
        self.server = server
        self.forgotten = []

    def open(self, timeout):
        return self.server.connect(), None

    def is_connect_error(self, error):
        return isinstance(error, Exception)

    def close(self, connection):
        connection.close()

    def forget(self, connection):
        self.forgotten.append(connection)


def make_pool(clock=time.monotonic, pooling=None, **options):
    """Return a ConnectionPool over a fake server, ``pool.pooling.server``."""
    # Longer than a test waits, so that one notices who isn't woken in time.
    options = PoolOptions(**{"name": "fake", "timeout": 6 * PATIENCE, **options})
    return ConnectionPool(options, pooling or Pooling(Server()), clock)


def borrow(pool, **kwargs):
    """Return a lease with a connection, opened if need be."""
    lease = pool.acquire(**kwargs)
    if lease.connection is None:
        pool.opened(lease, pool.pooling.server.connect())
    return lease


def warm(pool, count):
    """Have a pool hold some idle connections."""
    for lease in [borrow(pool) for _ in range(count)]:
        pool.release(lease)


def wait_until(condition, what="what was expected"):
    """Wait until a condition holds, for no longer than PATIENCE."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise Violation(f"Waited in vain for {what}.")
        time.sleep(0.001)


def wait_for_line(pool, length):
    """Wait until so many borrowers stand in line."""
    wait_until(lambda: pool.stats().waiting == length, f"a line of {length}")


class Call(threading.Thread):
    """A function called in a thread, for its result or its exception."""

    def __init__(self, function, *args, **kwargs):
        super().__init__(daemon=True)
        self.call = function, args, kwargs
        self.value = None
        self.error = None
        self.start()

    def run(self):
        function, args, kwargs = self.call
        try:
            self.value = function(*args, **kwargs)
        except BaseException as e:
            self.error = e

    def result(self):
        """Return what the function returned, or raise what it raised."""
        self.join(PATIENCE)
        if self.is_alive():
            raise Violation("A thread hangs.")
        if self.error is not None:
            raise self.error
        return self.value
