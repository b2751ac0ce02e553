from django.db.backends.base.pooling import BaseDatabasePooling

from .psycopg_any import is_psycopg3


class DatabasePooling(BaseDatabasePooling):
    connect_timeout_param = "connect_timeout"
    # libpq takes less for this.
    min_connect_timeout = 2
    wrapper_attributes = ("isolation_level",)

    # In both drivers, 0 is the status of a connection that is idle and not in
    # a transaction.
    if is_psycopg3:

        def in_transaction(self, connection):
            return connection.pgconn.transaction_status != 0

    else:

        def in_transaction(self, connection):
            return connection.get_transaction_status() != 0
