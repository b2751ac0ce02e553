"""Set Django up, alone or with the site, and use its database."""

import json
import os
import sys
import threading
from pathlib import Path

SITE = Path(__file__).resolve().parent.parent / "site"


def set_up(database):
    import django
    from django.conf import settings

    settings.configure(DATABASES={"default": database}, USE_TZ=True)
    django.setup()


def set_up_site(database, **others):
    """
    Set the site up in this process.

    others: alias -> database, where one isn't enough.
    """
    sys.path.insert(0, str(SITE))
    os.environ["BENCH_DATABASE"] = json.dumps(database)
    os.environ["DJANGO_SETTINGS_MODULE"] = "config"
    import config

    import django

    config.DATABASES.update(others)
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
