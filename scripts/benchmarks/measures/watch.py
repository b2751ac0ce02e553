"""Watch how many connections a server has."""

import threading
import time

# Seconds between two looks.
INTERVAL = 0.05


def watch(database, seconds):
    """Return the highest number of connections to the database seen."""
    with Watcher(database) as watcher:
        time.sleep(seconds)
    return {"peak": watcher.peak}


class Watcher:
    """Watches in a thread while the context is open. ``peak`` is the most."""

    def __init__(self, database):
        is_mariadb = database["ENGINE"].endswith("mysql")
        self.count = (mariadb if is_mariadb else postgresql)(database)
        self.peak = 0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *args):
        self.stopped.set()
        self.thread.join()

    def run(self):
        while True:
            # The last look is after the end.
            is_last = self.stopped.wait(INTERVAL)
            self.peak = max(self.peak, self.count())
            if is_last:
                return


def postgresql(database):
    import psycopg

    connection = psycopg.connect(
        host=database["HOST"],
        port=database["PORT"],
        user=database["USER"],
        password=database["PASSWORD"],
        dbname="postgres",
        autocommit=True,
    )
    query = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND datname = %s"
    )
    return lambda: connection.execute(query, [database["NAME"]]).fetchone()[0]


def mariadb(database):
    import MySQLdb

    connection = MySQLdb.connect(
        unix_socket=database["HOST"],
        user=database["USER"],
        password=database["PASSWORD"],
    )

    def look():
        cursor = connection.cursor()
        cursor.execute("SHOW GLOBAL STATUS LIKE 'Threads_connected'")
        # Ours is one of them.
        return int(cursor.fetchone()[1]) - 1

    return look
