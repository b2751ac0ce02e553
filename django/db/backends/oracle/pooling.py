from django.db.backends.base.pooling import BaseDatabasePooling


class DatabasePooling(BaseDatabasePooling):
    connect_timeout_param = "tcp_connect_timeout"
    wrapper_attributes = ("operators", "pattern_ops")

    def make_probe(self, connection):
        # A local check, see Connection.is_healthy() in the documentation of
        # python-oracledb.
        return lambda: not connection.is_healthy()

    def in_transaction(self, connection):
        return connection.transaction_in_progress
