"""Watch how many connections a server has."""

import time

# Seconds between two looks.
INTERVAL = 0.05


def watch(database, seconds):
    """Return the highest number of connections to the database seen."""
    look = mariadb if database["ENGINE"].endswith("mysql") else postgresql
    peak = 0
    end = time.monotonic() + seconds
    count = look(database)
    while time.monotonic() < end:
        peak = max(peak, count())
        time.sleep(INTERVAL)
    return {"peak": peak}


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
