import copy
from operator import attrgetter, itemgetter

from django.db.backends.base.pooling import BaseDatabasePooling
from django.db.backends.base.statements import EXPLAINED, StatementJudge

from .psycopg_any import is_psycopg3

if is_psycopg3:
    from psycopg.adapt import AdaptersMap

    read_attributes = itemgetter(
        "_isolation_level",
        "_read_only",
        "_deferrable",
        "_autocommit",
        "row_factory",
        "cursor_factory",
        "server_cursor_factory",
        "_notice_handlers",
        "_notify_handlers",
        "_tpc",
    )
else:
    from psycopg2.extensions import STATUS_PREPARED

# What DISCARD ALL stands for. DISCARD ALL itself can't be sent together with
# other statements: they would make up a transaction.
RESET_SESSION = (
    "SET SESSION AUTHORIZATION DEFAULT",
    "RESET ALL",
    "CLOSE ALL",
    "UNLISTEN *",
    "SELECT pg_advisory_unlock_all()",
    "DISCARD PLANS",
    "DISCARD TEMP",
    "DISCARD SEQUENCES",
)
DEALLOCATE = "DEALLOCATE ALL"
# The statements that the driver has prepared on its own are left to it: it
# goes on to use them.
DEALLOCATE_BY_SQL = """DO $$
DECLARE statement record;
BEGIN
    FOR statement IN SELECT name FROM pg_prepared_statements WHERE from_sql LOOP
        EXECUTE format('DEALLOCATE %I', statement.name);
    END LOOP;
END $$"""


class SentQuery:
    """What last_executed_query() reads of psycopg's own."""

    __slots__ = ("query",)


# Seconds that asking for a query to be canceled may take.
CANCEL_TIMEOUT = 5.0


class DatabasePooling(BaseDatabasePooling):
    connect_timeout_param = "connect_timeout"
    # libpq takes less for this.
    min_connect_timeout = 2
    wrapper_attributes = ("isolation_level",)
    initializing_methods = ("init_connection_state", "_configure_connection")
    backend_module = "django.db.backends.postgresql.base"
    statement_judge = StatementJudge(
        ["SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH", "SHOW", "VALUES"],
        # Functions that change the session, the view that does so when it's
        # updated, and names in which anything may be written as a number. The
        # locks of pg_advisory_xact_lock() end with the transaction.
        suspicious=(
            r"\bset_config\b|\bset_limit\b|\bpg_settings\b|"
            r"\bpg_(?:try_)?advisory_(?!xact)|\b(?:next|set)val\b|\bdblink|"
            r"\bu&\""
        ),
        hints=[
            "set_config",
            "set_limit",
            "pg_settings",
            "advisory_",
            "nextval",
            "setval",
            "dblink",
            'u&"',
        ],
        into_creates=True,
        harmless_pairs={
            "SET": ["LOCAL", "TRANSACTION", "CONSTRAINTS"],
            "EXPLAIN": EXPLAINED,
        },
    )

    # In both drivers, 0 is the status of a connection that is idle and not in
    # a transaction.
    if is_psycopg3:
        # Attributes as they are changed, and what's read for them: properties
        # would cost more than the rest of giving back.
        driver_attributes = {
            "isolation_level": "_isolation_level",
            "read_only": "_read_only",
            "deferrable": "_deferrable",
            "prepare_threshold": "_prepared.prepare_threshold",
            "prepared_max": "_prepared.prepared_max",
            "row_factory": "row_factory",
            "cursor_factory": "cursor_factory",
            "server_cursor_factory": "server_cursor_factory",
            "autocommit": "_autocommit",
        }
        # Whoever changes these can't be undone. Registering an adapter
        # replaces a mapping, see make_probe().
        driver_registries = [
            "_notice_handlers",
            "_notify_handlers",
            "_adapters._loaders",
        ]

        def make_probe(self, connection):
            # A copy shares its mappings with the original: from now on, they
            # are replaced instead of changed.
            AdaptersMap(connection.adapters)
            return super().make_probe(connection)

        def in_transaction(self, connection):
            # After tpc_prepare(), the server has none, and the driver refuses
            # everything else, rollback() included.
            return (
                connection.pgconn.transaction_status != 0 or connection._tpc is not None
            )

        def copy_closed_cursor(self, cursor, copy):
            # It forgets everything else itself.
            copy._query = None
            if (query := cursor._query) is not None:
                copy._query = sent = SentQuery()
                sent.query = query.query

        def make_clean(self, wrapper, borrower):
            # 1 is the status amid an answer or a COPY. A generator, or a Copy,
            # may hold the driver's lock then, for as long as it's left alone.
            return (
                wrapper.connection.pgconn.transaction_status != 1
                and super().make_clean(wrapper, borrower)
            )

        def prepares_statements(self, connection):
            return connection.prepare_threshold is not None

        def execute(self, connection, sql):
            with connection.cursor() as cursor:
                # With "prepare", it would deallocate itself.
                cursor.execute(sql, prepare=False)

        def forget_messages(self, connection):
            # psycopg 3.1 doesn't keep any.
            if backlog := getattr(connection, "_notifies_backlog", None):
                backlog.clear()

    else:
        driver_attributes = {
            "isolation_level": "isolation_level",
            "readonly": "readonly",
            "deferrable": "deferrable",
            "cursor_factory": "cursor_factory",
            "autocommit": "autocommit",
        }
        # The driver believes in the encoding that it has set itself.
        driver_registries = ["string_types", "binary_types", "encoding"]

        def copy_closed_cursor(self, cursor, copy):
            super().copy_closed_cursor(cursor, copy)
            copy.query = cursor.query
            copy.statusmessage = cursor.statusmessage

        def in_transaction(self, connection):
            # After tpc_prepare(), the server has none, and the driver refuses
            # everything else, rollback() included.
            return (
                connection.get_transaction_status() != 0
                or connection.status == STATUS_PREPARED
            )

        def rollback(self, connection):
            connection.rollback()
            if self.in_transaction(connection):
                # In autocommit mode, psycopg2 doesn't know of a transaction
                # that SQL has begun.
                self.execute(connection, "ROLLBACK")

        def prepares_statements(self, connection):
            return False

        def execute(self, connection, sql):
            with connection.cursor() as cursor:
                cursor.execute(sql)

        def forget_messages(self, connection):
            connection.notices, connection.notifies = [], []

    _read_driver_state = attrgetter(*driver_attributes.values(), *driver_registries)

    if is_psycopg3:

        def read_driver_state(self, connection):
            # The keys of this dictionary are slow to compare.
            dumpers = [*connection._adapters._dumpers.values()]
            return *self._read_driver_state(connection), dumpers

        def make_watch(self, connection):
            # What read_driver_state() tells and whether there's a transaction,
            # with half as many steps: this is a good part of what a return
            # costs.
            pgconn, attributes = connection.pgconn, connection.__dict__
            wanted = tuple(map(copy.copy, read_attributes(attributes)))
            prepared, adapters = connection._prepared, connection._adapters
            threshold, maximum = prepared.prepare_threshold, prepared.prepared_max
            loaders = [*adapters._loaders]
            dumpers = adapters._dumpers.values()
            wanted_dumpers = [*dumpers]

            def is_unchanged():
                # Returning their value would take half as many steps more.
                if (
                    pgconn.transaction_status == 0
                    and read_attributes(attributes) == wanted
                    and prepared.prepare_threshold == threshold
                    and prepared.prepared_max == maximum
                    and adapters._loaders == loaders
                    and [*dumpers] == wanted_dumpers
                ):
                    return True
                return False

            return is_unchanged

    else:

        def read_driver_state(self, connection):
            return self._read_driver_state(connection)

    def cancel_query(self, connection):
        if is_psycopg3:
            connection.cancel_safe(timeout=CANCEL_TIMEOUT)
        else:
            connection.cancel()

    def reset(self, wrapper, session):
        connection = wrapper.connection
        if not self.restore_driver_state(connection, session.driver_state):
            return False
        statements = [*RESET_SESSION]
        statements.append(
            DEALLOCATE_BY_SQL if self.prepares_statements(connection) else DEALLOCATE
        )
        # What init_connection_state() sets, in the same round trip.
        if wrapper.timezone_name:
            statements.append(
                wrapper.ops.compose_sql("SET TIME ZONE %s", [wrapper.timezone_name])
            )
        if role := wrapper.settings_dict["OPTIONS"].get("assume_role"):
            statements.append(wrapper.ops.compose_sql("SET ROLE %s", [role]))
        self.execute(connection, "; ".join(statements))
        # Notifications, for one, that nobody has read.
        self.forget_messages(connection)
        self.initialize_again(wrapper)
        return True

    def restore_driver_state(self, connection, wanted):
        """
        Set the driver's attributes to what they were. Return False if there's
        more to undo.
        """
        found = self.read_driver_state(connection)
        count = len(self.driver_attributes)
        if found[count:] != wanted[count:]:
            return False
        for name, value, was in zip(self.driver_attributes, found, wanted):
            if value != was:
                setattr(connection, name, was)
        return True
