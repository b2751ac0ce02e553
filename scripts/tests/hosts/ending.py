"""
Ends with connections in some state: "python -m hosts.ending SITUATION WAY".

It says when it's ready, and goes on when it reads a line. What follows then
is to take no more than a moment, whatever became of the server.
"""

import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import django

django.setup(set_prefix=False)

from django.db import connection  # NOQA: E402

# What's held until the end.
held = []


def query(wrapper=connection, sql="SELECT 1"):
    with wrapper.cursor() as cursor:
        cursor.execute(sql)


def idle():
    """All connections are in the pool."""
    others = [connection.copy() for _ in range(2)]
    for wrapper in others:
        query(wrapper)
    for wrapper in others:
        wrapper.close()
    assert connection.pool.stats().idle == 2


def borrowed():
    """The main thread has two, and one is idle."""
    idle()
    held.append(connection.copy())
    query(held[0])
    query()
    assert connection.pool.stats().in_use == 2


def transaction():
    connection.set_autocommit(False)
    query()


def unread():
    """An answer is half read."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE n (x text)")
        cursor.execute("INSERT INTO n VALUES " + ", ".join(["('many')"] * 10000))
    if connection.vendor == "mysql":
        from MySQLdb.cursors import SSCursor

        cursor = connection.connection.cursor(SSCursor)
    else:
        cursor = connection.chunked_cursor()
    cursor.execute("SELECT a.x FROM n a")
    cursor.fetchone()
    held.append(cursor)


def executor():
    """A thread that isn't a daemon waits for work, and holds a transaction."""
    pool = ThreadPoolExecutor(1)
    pool.submit(transaction).result()
    held.append(pool)


def resetting():
    """The maintenance thread waits for the server: a session is reset."""
    first, second = connection.copy(), connection.copy()
    query(first)
    query(second)
    if connection.vendor == "mysql":
        # SQL that may have begun a transaction would be rolled back, too.
        second.connection.cursorclass = None
    else:
        query(second, "SET a.b = 1")
    first.close()
    yield
    second.close()


def connecting():
    """The maintenance thread waits for the server: it connects."""
    query()
    yield
    connection.pool.resize(min_size=3)
    while connection.pool.stats().size < 2:
        time.sleep(0.01)


SITUATIONS = [idle, borrowed, transaction, unread, executor, resetting, connecting]
WAYS = {"return": 0, "exit": 3, "exception": 1, "sigterm": 0}


def main(situation, way):
    then = {function.__name__: function for function in SITUATIONS}[situation]()
    if then is not None:
        next(then)
    # As servers do.
    signal.signal(signal.SIGTERM, lambda *args: sys.exit(0))
    print("ready", flush=True)
    sys.stdin.readline()
    if then is not None:
        next(then, None)
    if way == "sigterm":
        signal.raise_signal(signal.SIGTERM)
    elif way == "exit":
        sys.exit(WAYS[way])
    elif way == "exception":
        raise ZeroDivisionError


if __name__ == "__main__":
    main(*sys.argv[1:])
