"""A private PostgreSQL server."""

import glob
import os
import re
import secrets
import shutil
import signal
import subprocess
from pathlib import Path

from .processes import run
from .server_base import Server

USER = "django"
DATABASES = ("django", "other")


class PostgreSQL(Server):
    name = "postgresql"
    debian_packages = ("postgresql",)
    users = ("postgres",)
    # "Fast" shutdown: disconnect the clients. "Immediate": as in a crash.
    stop_signal = signal.SIGINT
    stop_signal_immediate = signal.SIGQUIT
    orphan_signal = "INT"

    def __init__(self, max_connections=200, options=()):
        """``options`` are more settings of the server, as "name=value"."""
        super().__init__()
        self.options = [f"max_connections={max_connections}", *options]
        self.password = secrets.token_hex(16)
        self.bin = None

    def find_programs(self):
        wanted = ("initdb", "postgres", "psql", "pg_isready")
        for directory in binary_directories():
            if all(os.access(directory / name, os.X_OK) for name in wanted):
                self.bin = directory
                return []
        return ["postgres"]

    def create(self):
        password_file = self.directory / "password"
        password_file.write_text(self.password)
        password_file.chmod(0o644)
        run(
            [
                self.bin / "initdb",
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                f"--username={USER}",
                f"--pwfile={password_file}",
                "--auth-local=trust",
                "--auth-host=scram-sha-256",
                f"--pgdata={self.directory / 'data'}",
            ],
            "A database directory for PostgreSQL could not be made.",
            **self.as_account(),
        )

    def command(self):
        settings = [
            "listen_addresses=127.0.0.1",
            f"port={self.port}",
            f"unix_socket_directories={self.directory}",
            # A forgotten transaction shall make a test fail, not hang.
            "lock_timeout=60s",
            # The data needn't survive the machine.
            "fsync=off",
            "synchronous_commit=off",
            "full_page_writes=off",
            # Tests use them.
            "max_prepared_transactions=10",
            *self.options,
        ]
        flags = [part for setting in settings for part in ("-c", setting)]
        return [self.bin / "postgres", "-D", self.directory / "data", *flags]

    def is_ready(self):
        command = [self.bin / "pg_isready", "-q", "-h", self.directory]
        return subprocess.call([*command, "-p", str(self.port)]) == 0

    def prepare(self):
        for database in DATABASES:
            self.sql(f'CREATE DATABASE "{database}"')

    def sql(self, statement, database="postgres"):
        """Run SQL as superuser; return the lines of the result."""
        command = [
            self.bin / "psql",
            "--no-psqlrc",
            "--quiet",
            "--no-align",
            "--tuples-only",
            "--set=ON_ERROR_STOP=1",
            f"--host={self.directory}",
            f"--port={self.port}",
            f"--username={USER}",
            f"--dbname={database}",
            f"--command={statement}",
        ]
        return run(command, f"{statement} failed.").splitlines()

    def sessions(self):
        """Return the process ids of the clients' sessions."""
        query = (
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' "
            "AND pid <> pg_backend_pid()"
        )
        return [int(line) for line in self.sql(query)]

    def kill_sessions(self):
        """End all sessions of clients; return how many there were."""
        query = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return len(self.sql(query))

    @property
    def settings(self):
        """A value for DATABASES["default"], on the socket."""
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": DATABASES[0],
            "USER": USER,
            "PASSWORD": self.password,
            "HOST": str(self.directory),
            "PORT": str(self.port),
        }

    @property
    def tcp_settings(self):
        """The same by TCP, where SCRAM asks for the password."""
        return {**self.settings, "HOST": "127.0.0.1"}

    @property
    def environment(self):
        return {
            "POOL_PG_HOST": str(self.directory),
            "POOL_PG_TCP_HOST": "127.0.0.1",
            "POOL_PG_PORT": str(self.port),
            "POOL_PG_USER": USER,
            "POOL_PG_PASSWORD": self.password,
            "POOL_PG_DATABASE": DATABASES[0],
            "POOL_PG_PID": str(self.process.pid),
        }


def binary_directories():
    """Yield where the programs may be: Debian's newest version first."""

    def version(path):
        return [int(number) for number in re.findall(r"\d+", path)]

    debian = glob.glob("/usr/lib/postgresql/*/bin")
    yield from map(Path, sorted(debian, key=version, reverse=True))
    program = shutil.which("postgres")
    if program:
        yield Path(program).resolve().parent
    if shutil.which("pg_config"):
        result = subprocess.run(["pg_config", "--bindir"], stdout=subprocess.PIPE)
        yield Path(os.fsdecode(result.stdout).strip())
