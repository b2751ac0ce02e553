from django.db.backends.base.pooling import BaseDatabasePooling


class DatabasePooling(BaseDatabasePooling):
    connect_timeout_param = "tcp_connect_timeout"
    wrapper_attributes = ("operators", "pattern_ops")

    def in_transaction(self, connection):
        return connection.transaction_in_progress
