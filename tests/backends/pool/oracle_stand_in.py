"""
A stand-in for connections of python-oracledb, for lack of an Oracle server.

It isn't Oracle and knows no SQL. It does what python-oracledb's documentation
("API: python-oracledb", thin mode) says of the attributes and methods that
Django's backend uses, and writes down what it was asked to do. Its public
names are checked against the installed driver's by the tests.
"""

import oracledb


class Server:
    """What the connections to one database have in common."""

    def __init__(self):
        self.up = True
        # Keyword arguments of each connect(), and the connections.
        self.connects = []
        self.connections = []
        self.committed = []

    def connect(self, **kwargs):
        self.connects.append(kwargs)
        if not self.up:
            raise oracledb.OperationalError("DPY-6005: cannot connect to database")
        connection = Connection(self)
        self.connections.append(connection.log)
        return connection


class Log:
    """What happened to a connection. It outlives it."""

    def __init__(self):
        self.statements = []
        self.calls = []
        self.alive = True
        self.open = True


class Connection:
    version = "19.28.0.0.0"
    thin = True

    def __init__(self, server):
        self._server = server
        self._pending = []
        self.log = Log()
        self.autocommit = False
        self.stmtcachesize = 20
        self.inputtypehandler = None
        self.outputtypehandler = None

    def _verify_connected(self):
        if not self.log.open:
            raise oracledb.InterfaceError("DPY-1001: not connected to database")

    def _round_trip(self, call):
        self._verify_connected()
        if not self.log.alive:
            raise oracledb.OperationalError("DPY-4011: closed the connection")
        self.log.calls.append(call)

    @property
    def transaction_in_progress(self):
        self._verify_connected()
        return bool(self._pending)

    def is_healthy(self):
        # A local check: it sees what the socket tells.
        return self.log.open and self.log.alive

    def ping(self):
        self._round_trip("ping")

    def commit(self):
        self._round_trip("commit")
        self._server.committed += self._pending
        self._pending = []

    def rollback(self):
        self._round_trip("rollback")
        self._pending = []

    def close(self):
        # Rolls back what is pending, as the documentation says.
        self._verify_connected()
        self.log.open = False
        self._pending = []

    def cursor(self, scrollable=False):
        self._verify_connected()
        return Cursor(self)


class Cursor:
    def __init__(self, connection):
        self.connection = connection
        self.arraysize = 100
        self.rowcount = -1
        self.description = None
        self.outputtypehandler = None
        self._open = True

    def _verify_open(self):
        if not self._open:
            raise oracledb.InterfaceError("DPY-1006: cursor is not open")
        self.connection._verify_connected()

    def execute(self, statement, parameters=None):
        self._verify_open()
        self.connection._round_trip("execute")
        self.connection.log.statements.append(statement)
        if "no_such_column" in statement:
            raise oracledb.DatabaseError("ORA-00904: invalid identifier")
        if statement.startswith("SELECT"):
            self.description = [("1", oracledb.DB_TYPE_NUMBER, 1, None, 1, 0, True)]
        elif statement.startswith("INSERT"):
            self.connection._pending.append(statement)
            if self.connection.autocommit:
                self.connection.commit()

    def setinputsizes(self, *args, **kwargs):
        self._verify_open()

    def fetchone(self):
        self._verify_open()
        return (1,)

    def fetchmany(self, size=None):
        self._verify_open()
        return []

    def close(self):
        self._verify_open()
        self._open = False
