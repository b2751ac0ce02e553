import os
import sqlite3
from functools import lru_cache, wraps
from operator import attrgetter

from django.db.backends.base.pooling import BaseDatabasePooling
from django.db.backends.base.statements import EXPLAINED, StatementJudge

# Pragmas that only read.
READING_PRAGMAS = (
    "database_list|foreign_key_check|foreign_key_list|index_info|index_list|"
    "index_xinfo|integrity_check|quick_check|table_info|table_list|table_xinfo"
)

# Methods of a connection that change what it can't be asked for afterwards.
CHANGING_METHODS = (
    "create_aggregate",
    "create_collation",
    "create_function",
    "create_window_function",
    "deserialize",
    "enable_load_extension",
    "load_extension",
    "set_authorizer",
    "set_progress_handler",
    "set_trace_callback",
    "setconfig",
    "setlimit",
)

DRIVER_ATTRIBUTES = ("row_factory", "text_factory", "isolation_level", "autocommit")
read_attributes = attrgetter(*DRIVER_ATTRIBUTES)
read_attributes_and_changes = attrgetter(*DRIVER_ATTRIBUTES, "_changes")


@lru_cache
def count_changes(connection_class):
    """
    Return a subclass of a class of connections that counts the calls of
    CHANGING_METHODS.
    """

    def counting(method):
        @wraps(method)
        def count(self, *args, **kwargs):
            self._changes += 1
            return method(self, *args, **kwargs)

        return count

    methods = {
        name: counting(getattr(connection_class, name))
        for name in CHANGING_METHODS
        # SQLite may have been compiled without some.
        if hasattr(connection_class, name)
    }
    return type(
        connection_class.__name__, (connection_class,), {"_changes": 0, **methods}
    )


class DatabasePooling(BaseDatabasePooling):
    has_server = False
    wrapper_attributes = ("init_commands", "transaction_mode")
    statement_judge = StatementJudge(
        ["SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "WITH"],
        suspicious=r"\bload_extension\b",
        hints=["load_extension"],
        harmless_pairs={
            "PRAGMA": READING_PRAGMAS.upper().split("|"),
            "EXPLAIN": [*EXPLAINED, "QUERY"],
        },
    )

    @classmethod
    def can_pool(cls, wrapper):
        # Each connection to an in-memory database may have a database of its
        # own, and closing the last one loses the data.
        return not wrapper.is_in_memory_db() and ":memory:" not in str(
            wrapper.settings_dict["NAME"]
        )

    @classmethod
    def is_of_one_thread(cls, wrapper):
        name = str(wrapper.settings_dict["NAME"])
        return not cls.can_pool(wrapper) and "cache=shared" not in name

    def adapt_params(self, conn_params, timeout):
        super().adapt_params(conn_params, timeout)
        connection_class = conn_params.get(
            "factory", getattr(self.wrapper_class.Database, "Connection", None)
        )
        if isinstance(connection_class, type) and issubclass(
            connection_class, sqlite3.Connection
        ):
            conn_params["factory"] = count_changes(connection_class)

    def make_probe(self, connection):
        """
        A connection goes on to use a file that was deleted or replaced, where
        nobody will find what it writes.
        """
        paths = [
            path
            for _, name, path in connection.execute("PRAGMA database_list")
            if name == "main"
        ]
        if not paths or not paths[0]:
            return None
        stat, (path,) = os.stat, paths
        opened = stat(path)
        device, inode = opened.st_dev, opened.st_ino

        def is_replaced():
            try:
                found = stat(path)
            except OSError:
                return True
            return found.st_ino != inode or found.st_dev != device

        return is_replaced

    def check_in_doubt(self, wrapper):
        return False

    def in_transaction(self, connection):
        return connection.in_transaction

    def forget(self, connection):
        # "Do not open an SQLite database connection, then fork(), then try to
        # use that database connection in the child process": not even to
        # close it. https://www.sqlite.org/howtocorrupt.html
        self.keep_forever(connection)

    def read_driver_state(self, connection):
        try:
            return read_attributes_and_changes(connection)
        except AttributeError:
            # It was made by something else than a class of sqlite3's.
            return read_attributes(connection)

    # To open a file anew costs less than to undo what can be done to a
    # connection. So there's no reset(): it's closed.
