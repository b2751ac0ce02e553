"""How long it takes to serve again after all connections were killed."""

import threading
import time
from statistics import median

from .setup import set_up

# Seconds for which a request is tried again.
PATIENCE = 20
OTHERS = (
    "FROM pg_stat_activity WHERE backend_type = 'client backend' "
    "AND pid <> pg_backend_pid()"
)


def recover(database, threads):
    """
    Each of some threads serves a request; while all are idle, their
    connections are killed; then each serves another.
    """
    set_up(database)
    connect_time = time_connect(database)
    clock = time.perf_counter
    # Twice: all hold their connection at once, so that there's one for each;
    # then all are told to serve again.
    barrier = threading.Barrier(threads + 1)
    failures = [0] * threads
    done = [None] * threads

    def work(number):
        request(barrier.wait)
        barrier.wait()
        barrier.wait()
        while clock() - begin < PATIENCE:
            try:
                request()
            except Exception:
                failures[number] += 1
            else:
                done[number] = clock()
                return

    workers = [threading.Thread(target=work, args=[n]) for n in range(threads)]
    for worker in workers:
        worker.start()
    barrier.wait()
    barrier.wait()
    killed = kill_all(database)
    begin = clock()
    barrier.wait()
    for worker in workers:
        worker.join()
    served = [end - begin for end in done if end is not None]
    last = max(served) if len(served) == threads else PATIENCE
    return {
        "killed": killed,
        "failed": sum(failures),
        "first": min(served, default=PATIENCE) * 1e3,
        "all": last * 1e3,
        "connect": connect_time * 1e3,
        "more than a connect": (last - connect_time) * 1e3,
    }


def request(meanwhile=None):
    """What Django does for a request with one query."""
    from django.core.signals import request_finished, request_started
    from django.db import connection

    request_started.send(sender=None)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchone()
        if meanwhile is not None:
            meanwhile()
    finally:
        request_finished.send(sender=None)


def plain_connect(database):
    import psycopg

    return psycopg.connect(
        host=database["HOST"],
        port=database["PORT"],
        user=database["USER"],
        password=database["PASSWORD"],
        dbname=database["NAME"],
        autocommit=True,
    )


def time_connect(database, times=5):
    took = []
    for _ in range(times):
        start = time.perf_counter()
        plain_connect(database).close()
        took.append(time.perf_counter() - start)
    return median(took)


def kill_all(database):
    """Kill all other sessions; return how many, when they are gone."""
    with plain_connect(database) as admin:
        query = f"SELECT pg_terminate_backend(pid) {OTHERS}"
        killed = len(admin.execute(query).fetchall())
        while admin.execute(f"SELECT count(*) {OTHERS}").fetchone()[0]:
            time.sleep(0.01)
    return killed
