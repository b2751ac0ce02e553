from weakref import WeakKeyDictionary, ref

from django.db.backends.base.pooling import BaseDatabasePooling
from django.db.backends.base.statements import (
    EXPLAINED,
    INTERRUPTED,
    StatementJudge,
)

# SERVER_STATUS_IN_TRANS of the client/server protocol.
IN_TRANSACTION = 1


# Connections -> the server's names for them. While a query is running, the
# driver can't be asked.
_server_ids = WeakKeyDictionary()


class DatabasePooling(BaseDatabasePooling):
    connect_timeout_param = "connect_timeout"
    # It would take a query to find out anew what the server is like.
    wrapper_attributes = ("isolation_level", "mysql_server_data")
    initializing_methods = ("init_connection_state",)
    backend_module = "django.db.backends.mysql.base"
    statement_judge = StatementJudge(
        ["SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "SHOW", "WITH"],
        # User variables, locks that belong to the session, and comments that
        # the server executes.
        suspicious=r"(?<!@)@(?!@)|\bget_lock\b|\brelease_(?:all_)?locks?\b|/\*M?!",
        hints=["@", "get_lock", "release_", "/*!", "/*m!"],
        harmless_pairs={"EXPLAIN": [*EXPLAINED, "FORMAT"]},
        # mysqlclient doesn't tell whether there's a transaction to roll back,
        # which takes a round trip. SET STATEMENT ... FOR may begin one.
        session_only=(r"\s*(?:CREATE|DROP|LOCK|USE|SET\b(?!(?s:.*)\bSTATEMENT\b))\b"),
    )

    def get_fileno(self, connection):
        # PyMySQL keeps its socket to itself.
        if (sock := getattr(connection, "_sock", None)) is not None:
            return sock.fileno()
        return super().get_fileno(connection)

    def end_cursor(self, cursor):
        super().end_cursor(cursor)

        def refuse():
            raise self.wrapper_class.Database.InterfaceError(
                "The cursor is closed: its connection was given back."
            )

        # Both drivers hand out rows that they have in memory, or raise a
        # TypeError. They ask this before.
        cursor._check_executed = refuse

    def copy_closed_cursor(self, cursor, copy):
        super().copy_closed_cursor(cursor, copy)
        copy._executed = getattr(cursor, "_executed", None)

    def in_transaction(self, connection):
        # PyMySQL tells what the server said, but not what it said after rows,
        # those of INSERT ... RETURNING for one. mysqlclient doesn't tell.
        if (getattr(connection, "server_status", None) or 0) & IN_TRANSACTION:
            return True
        return None if connection.get_autocommit() else True

    def make_watch(self, connection):
        # Cursors of both drivers refer to their connection until closed.
        reference = ref(connection)
        read_driver_state = self.read_driver_state
        driver_state = self.copy_driver_state(connection)
        # Found out once: it takes long to look for what isn't there.
        tells_status = hasattr(connection, "server_status")

        def is_unchanged():
            connection = reference()
            # What in_transaction() asks, and whether the driver is as it was.
            if (
                connection.open
                and connection.get_autocommit()
                and not (tells_status and connection.server_status & IN_TRANSACTION)
                and read_driver_state(connection) == driver_state
            ):
                return True
            return False

        return is_unchanged

    def open_with(self, wrapper, timeout):
        session = super().open_with(wrapper, timeout)
        _server_ids[wrapper.connection] = wrapper.connection.thread_id()
        return session

    def cancel_query(self, connection):
        # A connection of its own, beyond max_size: the others are in use.
        wrapper = self.make_wrapper()
        killer = wrapper.get_new_connection(wrapper.get_connection_params())
        try:
            with killer.cursor() as cursor:
                cursor.execute("KILL QUERY %s", [_server_ids[connection]])
        finally:
            killer.close()

    def make_clean(self, wrapper, borrower):
        # Both drivers know whether they were closed. PyMySQL can be left in
        # the middle of an answer, whatever the server's last status was.
        return (
            wrapper.connection.open
            and not borrower.traces & INTERRUPTED
            and super().make_clean(wrapper, borrower)
        )

    def check_in_doubt(self, wrapper):
        # The server says nothing unasked but that it's about to leave. What
        # else there is to read is an answer that ping() would take for its
        # own.
        return False

    def read_driver_state(self, connection):
        decoders = getattr(connection, "converter", None)
        if decoders is None:
            # PyMySQL's name for them.
            decoders = connection.decoders
        return (
            connection.get_autocommit(),
            connection.cursorclass,
            connection.encoding,
            # Dictionaries are slow to compare.
            [*connection.encoders.values()],
            [*decoders.values()],
        )

    def reset(self, wrapper, session):
        connection = wrapper.connection
        _, connection.cursorclass, *unchangeable = session.driver_state
        if [*self.read_driver_state(connection)][2:] != unchangeable:
            # For one, the driver would go on to use its character set.
            return False
        params = wrapper.get_connection_params()
        if not params.keys().isdisjoint(["read_default_file", "read_default_group"]):
            # Only the driver knows who the user is.
            return False
        try:
            # The server drops all of the session's state, in one round trip.
            change_user = connection.change_user
        except AttributeError:
            # PyMySQL can't.
            return False
        change_user(
            params.get("user") or "",
            params.get("password") or "",
            params.get("database") or "",
        )
        connection.autocommit(wrapper.settings_dict["AUTOCOMMIT"])
        # The driver waits for each answer, and the server has no means to do
        # this along with the above.
        statements = self.session_statements(params)
        if self.has_own_initialization:
            statements += self.initial_statements(wrapper)
        if statements and params.get("multi_statements", True):
            # On lines of their own: init_command may end with a comment.
            statements = ["\n; ".join(statements)]
        with connection.cursor() as cursor:
            for sql in statements:
                cursor.execute(sql)
        self.initialize_again(wrapper)
        return True

    def session_statements(self, params):
        """
        Return the SQL of what the driver sets up from its parameters when it
        connects, and the server forgets with the session, as a list.
        """
        statements = []
        if collation := params.get("collation"):
            statements.append(f"SET NAMES {params['charset']} COLLATE {collation}")
        if sql_mode := params.get("sql_mode"):
            statements.append(f"SET SESSION sql_mode='{sql_mode}'")
        if init_command := params.get("init_command"):
            statements.append(init_command.rstrip("; \t\r\n"))
        return statements

    def initial_statements(self, wrapper):
        """Return what init_connection_state() executes, as a list."""
        statements = []
        if wrapper.features.is_sql_auto_is_null_enabled:
            statements.append("SET SQL_AUTO_IS_NULL = 0")
        if wrapper.isolation_level:
            level = wrapper.isolation_level.upper()
            statements.append(f"SET SESSION TRANSACTION ISOLATION LEVEL {level}")
        return statements
