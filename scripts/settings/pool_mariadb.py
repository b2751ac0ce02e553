"""MariaDB, on a server of scripts/servers."""

import os

from pool_common import COMMON, DRIVER, databases, hide

globals().update(COMMON)

if DRIVER == "pymysql":
    import pymysql

    # runtests.py has imported the real one by now.
    hide("MySQLdb")
    # PyMySQL says which version of mysqlclient it stands in for.
    pymysql.version_info = max(pymysql.version_info, (2, 2, 1, "final", 0))
    pymysql.install_as_MySQLdb()


def _database(name):
    return {
        "ENGINE": "django.db.backends.mysql",
        "NAME": name,
        "USER": os.environ["POOL_MARIADB_USER"],
        "PASSWORD": os.environ["POOL_MARIADB_PASSWORD"],
        "HOST": os.environ["POOL_MARIADB_HOST"],
        "TEST": {"CHARSET": "utf8mb4"},
    }


DATABASES = databases(_database("django"), _database("other"))
