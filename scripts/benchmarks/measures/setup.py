"""Set Django up with one database."""

import threading


def set_up(database):
    import django
    from django.conf import settings

    settings.configure(DATABASES={"default": database}, USE_TZ=True)
    django.setup()


def use_at_once(count):
    """Have so many threads use a connection each, and end."""
    from django.db import connection

    barrier = threading.Barrier(count)

    def use():
        connection.ensure_connection()
        barrier.wait()
        connection.close()

    threads = [threading.Thread(target=use) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
