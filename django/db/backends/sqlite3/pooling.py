import os

from django.db.backends.base.pooling import BaseDatabasePooling
from django.db.backends.base.statements import StatementJudge

# Pragmas that only read.
READING_PRAGMAS = (
    "database_list|foreign_key_check|foreign_key_list|index_info|index_list|"
    "index_xinfo|integrity_check|quick_check|table_info|table_list|table_xinfo"
)


class DatabasePooling(BaseDatabasePooling):
    wrapper_attributes = ("init_commands", "transaction_mode")
    statement_judge = StatementJudge(
        ["SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "WITH"],
        suspicious=r"\bload_extension\b",
        hints=["load_extension"],
        harmless_pairs={"PRAGMA": READING_PRAGMAS.upper().split("|")},
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
        return (
            connection.row_factory,
            connection.text_factory,
            connection.isolation_level,
            connection.autocommit,
        )

    # To open a file anew costs less than to undo what can be done to a
    # connection. So there's no reset(): it's closed.
