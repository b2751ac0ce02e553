"""
A backend as third parties write them, that knows nothing of pooling. It has
the classes of the SQLite backend and overrides what such backends override.
"""

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.sqlite3 import base

# What was called, for the tests to look at.
calls = []


class CursorWrapper:
    """A cursor of its own kind, as of a driver that isn't quite PEP 249."""

    def __init__(self, cursor):
        self._cursor = cursor

    def __getattr__(self, name):
        return getattr(self._cursor, name)

    def __iter__(self):
        return iter(self._cursor)

    def close(self):
        calls.append("cursor.close")
        self._cursor.close()


class DatabaseWrapper(base.DatabaseWrapper):
    # As if it were derived from BaseDatabaseWrapper.
    pooling_class = BaseDatabaseWrapper.pooling_class

    connects = 0

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.dialect = None
        self.schema_name = "public"

    def connect(self):
        self.connects += 1
        super().connect()

    def get_new_connection(self, conn_params):
        calls.append("get_new_connection")
        connection = super().get_new_connection(conn_params)
        # Set on opening, used by every query.
        self.dialect = "plain"
        self.server_encoding = connection.execute("PRAGMA encoding").fetchone()[0]
        return connection

    def init_connection_state(self):
        calls.append("init_connection_state")
        super().init_connection_state()

    def create_cursor(self, name=None):
        return CursorWrapper(self.connection.cursor(factory=base.SQLiteCursorWrapper))

    def _close(self):
        calls.append("_close")
        if self.connection is not None:
            with self.wrap_database_errors:
                return self.connection.close()

    def is_usable(self):
        calls.append("is_usable")
        try:
            self.connection.execute("SELECT 1").close()
        except self.Database.Error:
            return False
        return True
