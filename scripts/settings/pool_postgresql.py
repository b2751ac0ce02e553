"""PostgreSQL, on a server of scripts/servers."""

import os

from pool_common import COMMON, DRIVER, databases, hide

globals().update(COMMON)

# psycopg-python is chosen by PSYCOPG_IMPL, which psycopg reads itself.
if DRIVER == "psycopg2":
    hide("psycopg")


def _database(name):
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "USER": os.environ["POOL_PG_USER"],
        "PASSWORD": os.environ["POOL_PG_PASSWORD"],
        "HOST": os.environ["POOL_PG_HOST"],
        "PORT": os.environ["POOL_PG_PORT"],
    }


DATABASES = databases(_database("django"), _database("other"))
