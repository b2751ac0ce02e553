from operator import attrgetter

from django.db.backends.base.pooling import BaseDatabasePooling
from django.db.backends.base.statements import StatementJudge


class DatabasePooling(BaseDatabasePooling):
    connect_timeout_param = "tcp_connect_timeout"
    wrapper_attributes = ("operators", "pattern_ops")
    # What's declared in WITH can't outlive the statement.
    statement_judge = StatementJudge(
        ["SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH"]
    )

    # Those that the driver knows in each mode and with each client library.
    _read_driver_state = attrgetter(
        "autocommit", "inputtypehandler", "outputtypehandler", "stmtcachesize"
    )

    def make_probe(self, connection):
        # A local check, see Connection.is_healthy() in the documentation of
        # python-oracledb.
        return lambda: not connection.is_healthy()

    def in_transaction(self, connection):
        return connection.transaction_in_progress

    def read_driver_state(self, connection):
        return self._read_driver_state(connection)
