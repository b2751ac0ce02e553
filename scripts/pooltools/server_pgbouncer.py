"""A private PgBouncer in front of a private PostgreSQL."""

import os
import shutil
import socket

from .processes import run
from .server_base import Server
from .server_postgresql import USER


class PgBouncer(Server):
    name = "pgbouncer"
    debian_packages = ("pgbouncer",)
    users = ("postgres",)

    def __init__(self, postgresql, mode="transaction", options=()):
        """
        ``mode`` is "session" or "transaction". ``options`` are more lines of
        its configuration. It stops before the PostgreSQL that it's given.
        """
        super().__init__()
        self.postgresql = postgresql
        self.mode = mode
        self.options = options
        self.program = None

    def find_programs(self):
        path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
        self.program = shutil.which("pgbouncer", path=path)
        return [] if self.program else ["pgbouncer"]

    def create(self):
        users = self.directory / "users.txt"
        users.write_text(f'"{USER}" "{self.postgresql.password}"\n')
        lines = [
            "[databases]",
            f"* = host=127.0.0.1 port={self.postgresql.port}",
            "[pgbouncer]",
            "listen_addr = 127.0.0.1",
            f"listen_port = {self.port}",
            f"unix_socket_dir = {self.directory}",
            "auth_type = scram-sha-256",
            f"auth_file = {users}",
            f"admin_users = {USER}",
            f"pool_mode = {self.mode}",
            "max_client_conn = 200",
            "default_pool_size = 20",
            "ignore_startup_parameters = extra_float_digits,options",
            *self.options,
        ]
        (self.directory / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
        for file in self.directory.iterdir():
            shutil.chown(file, self.account.pw_uid, self.account.pw_gid)
            file.chmod(0o600)

    def command(self):
        return [self.program, self.directory / "pgbouncer.ini"]

    def is_ready(self):
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def sql(self, statement):
        """Run a command of the admin console (SHOW POOLS, KILL, ...)."""
        environment = {**os.environ, "PGPASSWORD": self.postgresql.password}
        command = [
            self.postgresql.bin / "psql",
            "--no-psqlrc",
            "--quiet",
            "--no-align",
            "--tuples-only",
            f"--host={self.directory}",
            f"--port={self.port}",
            f"--username={USER}",
            "--dbname=pgbouncer",
            f"--command={statement}",
        ]
        return run(command, f"{statement} failed.", env=environment).splitlines()

    def sessions(self):
        """Return the addresses of the clients, its own console left out."""
        rows = (line.split("|") for line in self.sql("SHOW CLIENTS"))
        return [row[3:6] for row in rows if len(row) > 3 and row[2] != "pgbouncer"]

    def kill_sessions(self):
        """End the sessions behind it; those of its clients end with them."""
        return self.postgresql.kill_sessions()

    @property
    def settings(self):
        # Cursors on the server's side don't outlive a transaction, there.
        pooled = {"DISABLE_SERVER_SIDE_CURSORS": self.mode == "transaction"}
        return {
            **self.postgresql.settings,
            "HOST": str(self.directory),
            "PORT": str(self.port),
            **pooled,
        }

    @property
    def tcp_settings(self):
        return {**self.settings, "HOST": "127.0.0.1"}

    @property
    def environment(self):
        return {
            "POOL_PGBOUNCER_HOST": str(self.directory),
            "POOL_PGBOUNCER_TCP_HOST": "127.0.0.1",
            "POOL_PGBOUNCER_PORT": str(self.port),
            "POOL_PGBOUNCER_MODE": self.mode,
            "POOL_PGBOUNCER_PID": str(self.process.pid),
        }
