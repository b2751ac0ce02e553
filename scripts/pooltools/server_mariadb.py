"""A private MariaDB server."""

import os
import secrets
import shutil
import subprocess
from pathlib import Path

from .processes import run
from .server_base import Server

USER = "django"
DATABASES = ("django", "other")
ZONEINFO = Path("/usr/share/zoneinfo")


class MariaDB(Server):
    name = "mariadb"
    debian_packages = ("mariadb-server", "tzdata")
    users = ("mysql",)

    programs = {
        "mariadbd": ("mariadbd", "mysqld"),
        "install-db": ("mariadb-install-db", "mysql_install_db"),
        "client": ("mariadb", "mysql"),
        "tzinfo": ("mariadb-tzinfo-to-sql", "mysql_tzinfo_to_sql"),
    }

    def __init__(self, max_connections=200, time_zones=False, options=()):
        """
        ``time_zones`` loads the tables that conversions of time zones need.
        ``options`` are more options of mariadbd, without the dashes.
        """
        super().__init__()
        self.time_zones = time_zones
        self.options = [f"max-connections={max_connections}", *options]
        self.password = secrets.token_hex(16)
        self.found = {}

    def find_programs(self):
        path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/usr/local/sbin"
        for key, names in self.programs.items():
            found = (shutil.which(name, path=path) for name in names)
            self.found[key] = next(filter(None, found), None)
        return [self.programs[key][0] for key in self.found if not self.found[key]]

    @property
    def socket(self):
        return self.directory / "mariadb.sock"

    def create(self):
        run(
            [
                self.found["install-db"],
                "--no-defaults",
                f"--datadir={self.directory / 'data'}",
                # Nobody is let in without a password.
                "--auth-root-authentication-method=socket",
                "--skip-test-db",
            ],
            "A data directory for MariaDB could not be made.",
            **self.as_account(),
        )
        # Run by the server itself, before it accepts connections.
        statements = [
            f"CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb4;"
            for name in DATABASES
        ]
        for host in ("localhost", "127.0.0.1"):
            user = f"'{USER}'@'{host}'"
            statements += [
                f"CREATE USER IF NOT EXISTS {user} IDENTIFIED BY '{self.password}';",
                f"GRANT ALL PRIVILEGES ON *.* TO {user} WITH GRANT OPTION;",
            ]
        (self.directory / "init.sql").write_text("\n".join(statements) + "\n")
        # The password isn't given on a command line, where others see it.
        (self.directory / "client.cnf").write_text(
            f"[client]\nuser={USER}\npassword={self.password}\n"
            f"socket={self.socket}\ndefault-character-set=utf8mb4\n"
        )

    def command(self):
        options = [
            "no-defaults",
            f"datadir={self.directory / 'data'}",
            f"socket={self.socket}",
            f"pid-file={self.directory / 'mariadb.pid'}",
            f"init-file={self.directory / 'init.sql'}",
            # When a server starts, it deletes the temporary tables that it
            # finds, which may be another one's.
            f"tmpdir={self.directory}",
            "bind-address=127.0.0.1",
            f"port={self.port}",
            "skip-name-resolve",
            "character-set-server=utf8mb4",
            # A forgotten transaction shall make a test fail, not hang: for
            # locks of tables, the default is a day.
            "lock-wait-timeout=60",
            # The data needn't survive the machine.
            "innodb-flush-log-at-trx-commit=0",
            "innodb-flush-method=nosync",
            "innodb-doublewrite=0",
            *self.options,
        ]
        return [self.found["mariadbd"], *("--" + option for option in options)]

    def client(self, *args):
        defaults = f"--defaults-file={self.directory / 'client.cnf'}"
        return [self.found["client"], defaults, *args]

    def is_ready(self):
        # The socket is there before the init file has run; clients wait.
        command = self.client("--execute=SELECT 1")
        return (
            subprocess.call(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            == 0
        )

    def prepare(self):
        if self.time_zones and ZONEINFO.is_dir():
            statements = subprocess.run(
                [self.found["tzinfo"], str(ZONEINFO)],
                stdout=subprocess.PIPE,
                # It complains about every file that is no time zone.
                stderr=subprocess.DEVNULL,
                check=True,
            ).stdout
            subprocess.run(self.client("mysql"), input=statements, check=True)

    def sql(self, statement, database="mysql"):
        """Run SQL with all privileges; return the lines of the result."""
        command = self.client(
            "--batch", "--skip-column-names", f"--execute={statement}", database
        )
        return run(command, f"{statement} failed.").splitlines()

    def sessions(self):
        """Return the ids of the clients' sessions."""
        query = (
            "SELECT id FROM information_schema.processlist "
            f"WHERE user = '{USER}' AND id <> CONNECTION_ID()"
        )
        return [int(line) for line in self.sql(query)]

    def kill_sessions(self):
        """End all sessions of clients; return how many there were."""
        sessions = self.sessions()
        statements = "".join(f"KILL {number};" for number in sessions)
        # One that has ended by itself meanwhile is no reason to stop.
        command = self.client("--force", f"--execute={statements}")
        subprocess.run(command, stderr=subprocess.DEVNULL)
        return len(sessions)

    @property
    def settings(self):
        """A value for DATABASES["default"], on the socket."""
        return {
            "ENGINE": "django.db.backends.mysql",
            "NAME": DATABASES[0],
            "USER": USER,
            "PASSWORD": self.password,
            "HOST": str(self.socket),
            "PORT": "",
            "TEST": {"CHARSET": "utf8mb4"},
        }

    @property
    def tcp_settings(self):
        return {**self.settings, "HOST": "127.0.0.1", "PORT": str(self.port)}

    @property
    def environment(self):
        return {
            "POOL_MARIADB_HOST": str(self.socket),
            "POOL_MARIADB_TCP_HOST": "127.0.0.1",
            "POOL_MARIADB_PORT": str(self.port),
            "POOL_MARIADB_USER": USER,
            "POOL_MARIADB_PASSWORD": self.password,
            "POOL_MARIADB_DATABASE": DATABASES[0],
            "POOL_MARIADB_PID": str(self.process.pid),
        }
