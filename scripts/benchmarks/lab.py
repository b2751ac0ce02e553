"""What the workloads are given to work with: environments and servers."""

import os
import platform
from pathlib import Path

from pooltools.server_mariadb import MariaDB
from pooltools.server_pgbouncer import PgBouncer
from pooltools.server_postgresql import PostgreSQL

from . import environments

MAX_CONNECTIONS = 300


class Lab:
    """
    quick: whether to measure for a short time only.
    """

    def __init__(self, stack, quick=False, python=None):
        self.stack = stack
        self.quick = quick
        self.base_python = python
        self.environments = {}
        self.servers = {}
        # Databases that have the tables of the site.
        self.filled = set()

    def pick(self, quick, full):
        return quick if self.quick else full

    def python(self, name):
        if name not in self.environments:
            self.environments.update(environments.make([name], self.base_python))
        return self.environments[name].python

    def server(self, name):
        """
        Return a running server: postgresql, mariadb, pgbouncer-<mode> or
        pgbouncer-<mode>-<number of connections to the server>.
        """
        if name not in self.servers:
            print(f"Starting {name} ...", flush=True)
            server = self.make_server(name)
            self.servers[name] = self.stack.enter_context(server)
        return self.servers[name]

    def make_server(self, name):
        if name == "postgresql":
            return PostgreSQL(max_connections=MAX_CONNECTIONS)
        if name == "mariadb":
            return MariaDB(max_connections=MAX_CONNECTIONS)
        _, mode, *size = name.split("-")
        return PgBouncer(
            self.server("postgresql"),
            mode=mode,
            options=[
                # As PostgreSQL on its socket.
                "auth_type = trust",
                *(f"default_pool_size = {number}" for number in size),
            ],
        )

    def describe(self):
        """Return what the results depend on: the machine and the versions."""
        described = {"machine": machine(), "environments": {}, "servers": {}}
        for name, environment in sorted(self.environments.items()):
            python, packages = environments.versions(environment)
            described["environments"][name] = {"python": python, **packages}
        for name, server in sorted(self.servers.items()):
            described["servers"][name] = server_version(name, server)
        return described


def server_version(name, server):
    if name.startswith("pgbouncer"):
        return server.sql("SHOW VERSION")[0].strip()
    query = "SHOW server_version" if name == "postgresql" else "SELECT VERSION()"
    version = server.sql(query)[0].strip()
    return f"PostgreSQL {version}" if name == "postgresql" else version


def machine():
    return {
        "system": platform.platform(),
        "processor": processor(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
    }


def processor():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
