from django.db.backends.base.pooling import BaseDatabasePooling

# SERVER_STATUS_IN_TRANS of the client/server protocol.
IN_TRANSACTION = 1


class DatabasePooling(BaseDatabasePooling):
    connect_timeout_param = "connect_timeout"
    wrapper_attributes = ("isolation_level",)
    harmless_words = BaseDatabasePooling.harmless_words | {"REPLACE"}

    def get_fileno(self, connection):
        # PyMySQL keeps its socket to itself.
        if (sock := getattr(connection, "_sock", None)) is not None:
            return sock.fileno()
        return super().get_fileno(connection)

    def in_transaction(self, connection):
        # PyMySQL tells what the server said last, mysqlclient doesn't.
        status = getattr(connection, "server_status", None)
        return None if status is None else bool(status & IN_TRANSACTION)

    def make_clean(self, wrapper, borrower):
        # Both drivers know whether they were closed. PyMySQL can be left in
        # the middle of an answer, whatever the server's last status was.
        return (
            wrapper.connection.open
            and not borrower.interrupted
            and super().make_clean(wrapper, borrower)
        )
