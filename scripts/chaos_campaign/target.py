"""The server that the pool connects to, and what can be done to it."""

import contextlib
import secrets

from pooltools.server_mariadb import MariaDB
from pooltools.server_postgresql import PostgreSQL

# The user that the pool connects as, who has no privileges, and that of
# others who take connections away.
USER = "chaos"
OTHER = "crowd"
MAX_CONNECTIONS = 30


class Target:
    """
    What the campaign does to a server, in its SQL. The administrator comes
    through the server's own socket, past the proxy.
    """

    engine = None

    def __init__(self):
        self.server = self.make_server()
        self.password = secrets.token_hex(8)
        self.passwords = {}

    def __enter__(self):
        self.server.start()
        try:
            for name in (USER, OTHER):
                self.create_user(name, self.password)
        except BaseException:
            self.server.close()
            raise
        return self

    def __exit__(self, *exc_info):
        self.server.close()

    def settings(self, port):
        """Return a value for DATABASES["default"], through the proxy."""
        return {
            **self.server.settings,
            "ENGINE": self.engine,
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "USER": USER,
            "PASSWORD": "",
        }


class PostgreSQLTarget(Target):
    engine = "chaos_campaign.backends.postgresql"

    def make_server(self):
        return PostgreSQL(
            MAX_CONNECTIONS,
            # What was acknowledged must survive a crash of the server.
            options=["synchronous_commit=on"],
        )

    def admin(self):
        """Return a connection with all privileges, as a context manager."""
        import psycopg

        settings = self.server.settings
        connection = psycopg.connect(
            host=settings["HOST"],
            port=settings["PORT"],
            user=settings["USER"],
            dbname=settings["NAME"],
            autocommit=True,
            connect_timeout=5,
            # It isn't meant by end_idle_sessions().
            options="-c idle_session_timeout=0",
        )
        return contextlib.closing(connection)

    def create_user(self, name, password):
        self.server.sql(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
        self.server.sql(f"GRANT ALL ON SCHEMA public TO {name}", "django")

    def set_password(self, password):
        self.server.sql(f"ALTER ROLE {USER} PASSWORD '{password}'")

    sessions_sql = (
        "SELECT pid FROM pg_stat_activity "
        f"WHERE usename = '{USER}' AND backend_type = 'client backend'"
    )

    def sessions(self, cursor):
        cursor.execute(self.sessions_sql)
        return [pid for pid, in cursor.fetchall()]

    def kill(self, cursor, sessions):
        for pid in sessions:
            cursor.execute("SELECT pg_terminate_backend(%s)", [pid])

    def end_idle_sessions(self, cursor, after):
        """Have the server end sessions that are idle for so many seconds."""
        cursor.execute(f"ALTER SYSTEM SET idle_session_timeout = {int(after * 1000)}")
        cursor.execute("SELECT pg_reload_conf()")

    def keep_idle_sessions(self, cursor):
        cursor.execute("ALTER SYSTEM RESET idle_session_timeout")
        cursor.execute("SELECT pg_reload_conf()")

    def open_other(self):
        """Open a connection of somebody else's."""
        import psycopg

        return psycopg.connect(
            host="127.0.0.1",
            port=self.server.port,
            user=OTHER,
            password=self.password,
            dbname="django",
            connect_timeout=5,
        )


class MariaDBTarget(Target):
    engine = "chaos_campaign.backends.mysql"

    def make_server(self):
        return MariaDB(
            MAX_CONNECTIONS,
            # As above: in the operating system's hands with each commit.
            options=["innodb-flush-log-at-trx-commit=2"],
        )

    def admin(self):
        import MySQLdb

        connection = MySQLdb.connect(
            unix_socket=str(self.server.socket),
            user=self.server.settings["USER"],
            password=self.server.password,
            database="django",
            autocommit=True,
            connect_timeout=5,
            # It isn't meant by end_idle_sessions().
            init_command="SET SESSION wait_timeout = 28800",
        )
        return contextlib.closing(connection)

    def create_user(self, name, password):
        user = f"{name}@127.0.0.1"
        self.server.sql(f"CREATE USER {user} IDENTIFIED BY '{password}'")
        self.server.sql(f"GRANT ALL ON django.* TO {user}")

    def set_password(self, password):
        self.server.sql(f"ALTER USER {USER}@127.0.0.1 IDENTIFIED BY '{password}'")

    sessions_sql = (
        f"SELECT id FROM information_schema.processlist WHERE user = '{USER}'"
    )

    def sessions(self, cursor):
        cursor.execute(self.sessions_sql)
        return [number for number, in cursor.fetchall()]

    def kill(self, cursor, sessions):
        import MySQLdb

        for number in sessions:
            # It may have ended by itself.
            with contextlib.suppress(MySQLdb.OperationalError):
                cursor.execute(f"KILL {number}")

    def end_idle_sessions(self, cursor, after):
        # For new sessions only, and in whole seconds.
        cursor.execute(f"SET GLOBAL wait_timeout = {max(1, round(after))}")

    def keep_idle_sessions(self, cursor):
        cursor.execute("SET GLOBAL wait_timeout = 28800")

    def open_other(self):
        import MySQLdb

        return MySQLdb.connect(
            host="127.0.0.1",
            port=self.server.port,
            user=OTHER,
            password=self.password,
            database="django",
            connect_timeout=5,
        )


TARGETS = {"postgresql": PostgreSQLTarget, "mariadb": MariaDBTarget}
