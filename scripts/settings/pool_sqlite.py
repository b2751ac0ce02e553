"""SQLite, in files: a database in memory is never pooled."""

import multiprocessing
import os
import tempfile

from pool_common import COMMON, databases

globals().update(COMMON)

# Other start methods test on databases in memory.
multiprocessing.set_start_method("fork", force=True)

# That of runtests.py, which removes it in the end.
_directory = tempfile.gettempdir()


def _database(name):
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.path.join(_directory, f"{name}.sqlite3"),
        "TEST": {"NAME": os.path.join(_directory, f"test_{name}.sqlite3")},
    }


DATABASES = databases(_database("default"), _database("other"))
