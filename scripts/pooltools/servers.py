"""Start private servers around a command."""

import argparse
import os
import signal
import subprocess
import sys

from .command import run_tool
from .processes import stop_process
from .server_mariadb import MariaDB
from .server_pgbouncer import PgBouncer
from .server_postgresql import PostgreSQL

NAMES = ("postgresql", "mariadb", "pgbouncer")


def start(names, stack, **options):
    """
    Start the servers of these names on an ExitStack, which stops them. Return
    them by name.
    """
    servers = {}
    if "postgresql" in names or "pgbouncer" in names:
        server = PostgreSQL(max_connections=options.get("max_connections", 200))
        servers["postgresql"] = stack.enter_context(server)
    if "pgbouncer" in names:
        mode = options.get("pgbouncer_mode", "transaction")
        server = PgBouncer(servers["postgresql"], mode=mode)
        servers["pgbouncer"] = stack.enter_context(server)
    if "mariadb" in names:
        server = MariaDB(
            max_connections=options.get("max_connections", 200),
            time_zones=options.get("time_zones", False),
        )
        servers["mariadb"] = stack.enter_context(server)
    return servers


def environment(servers):
    """Return the variables that tell a command where the servers are."""
    variables = {}
    for server in servers.values():
        variables.update(server.environment)
    return variables


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="scripts/servers",
        description="Start private database servers and run a command that finds "
        "them through the variables POOL_PG_HOST, POOL_PG_PORT, POOL_PG_USER, "
        "POOL_PG_PASSWORD, POOL_PG_DATABASE, and the same with POOL_MARIADB and "
        "POOL_PGBOUNCER. Without a command, print them and wait for Ctrl-C.",
    )
    parser.add_argument("servers", nargs="+", choices=NAMES, metavar="SERVER")
    parser.add_argument("--max-connections", type=int, default=200)
    parser.add_argument(
        "--pgbouncer-mode", choices=["session", "transaction"], default="transaction"
    )
    parser.add_argument(
        "--time-zones", action="store_true", help="load MariaDB's time zone tables"
    )
    argv = list(sys.argv[1:] if argv is None else argv)
    command = []
    if "--" in argv:
        position = argv.index("--")
        argv, command = argv[:position], argv[position + 1 :]
    options = vars(parser.parse_args(argv))
    return run_tool("scripts/servers", serve, options, command)


def serve(stack, options, command):
    servers = start(options.pop("servers"), stack, **options)
    return run(command, environment(servers))


def run(command, variables):
    if not command:
        for name, value in variables.items():
            print(f"export {name}={value}")
        print("# Running. Ctrl-C stops the servers.", flush=True)
        signal.pause()
    process = subprocess.Popen(command, env={**os.environ, **variables})
    try:
        return process.wait()
    finally:
        stop_process(process)


if __name__ == "__main__":
    sys.exit(main())
