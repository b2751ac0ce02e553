"""Reads the command line, starts what the campaign needs, and runs it."""

import argparse
import importlib
import json
import sys
import time
from pathlib import Path

from pooltools import ToolError
from pooltools.processes import exit_on_signals
from pooltools.provide import provide

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = ROOT / "scripts"
# Databases -> names of drivers -> their modules. The first is the default.
DRIVERS = {
    "postgresql": {"psycopg": "psycopg", "psycopg2": "psycopg2"},
    "mariadb": {"mysqlclient": "MySQLdb", "pymysql": "pymysql"},
}


def main(arguments=None):
    options = parse(arguments)
    exit_on_signals()
    try:
        find_modules(options)
        violations = run(options)
    except ToolError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 1 if violations else 0


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="scripts/chaos",
        description="Run a Django workload through the pool while faults are "
        "injected, and check that nothing is lost. Ends with status 1 if it is.",
    )
    parser.add_argument("--database", choices=DRIVERS, default="postgresql")
    parser.add_argument(
        "--driver",
        choices=[name for names in DRIVERS.values() for name in names],
        help="of the pool (default: the one that Django prefers)",
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, help="of what is random (default: any)")
    parser.add_argument("--faults", help="names with commas in between (default: all)")
    parser.add_argument("--threads", type=int, default=12)
    parser.add_argument("--max-size", type=int, default=5)
    parser.add_argument("--timeout", type=float, default=5, help="POOL['timeout']")
    parser.add_argument(
        "--pool", type=json.loads, default={}, help="more of POOL, as JSON"
    )
    parser.add_argument("--build", type=Path, default=ROOT / "build")
    options = parser.parse_args(arguments)
    drivers = DRIVERS[options.database]
    if options.driver is None:
        options.driver = next(iter(drivers))
    elif options.driver not in drivers:
        parser.error(f"{options.driver} is no driver for {options.database}.")
    if options.seed is None:
        options.seed = int(time.time())
    return options


def find_modules(options):
    """Have Django and the driver, if need be in another environment."""
    build = options.build.resolve()
    provide(SCRIPTS / "chaos", build, modules_of(options, DRIVERS))
    sys.path.insert(0, str(build))


def modules_of(options, drivers):
    """Return the names of what Django takes, with the database's driver."""
    modules = ["asgiref", "sqlparse", drivers[options.database][options.driver]]
    if options.database == "postgresql":
        # What administrates it is psycopg in any case.
        modules.append("psycopg")
    return modules


def run(options):
    """Run the campaign. Return its violations."""
    from .proxy import Proxy
    from .target import TARGETS

    print(
        f"{options.database} with {options.driver}, seed {options.seed}, "
        f"{options.threads} threads, "
        f"max_size {options.max_size}, timeout {options.timeout:g} s",
        flush=True,
    )
    with TARGETS[options.database]() as target, Proxy(target.server.port) as proxy:
        configure(options, target, proxy)
        return run_campaign(options, target, proxy)


def configure(options, target, proxy):
    import django
    from django.conf import settings

    from .backends import Credentials

    Credentials.password = target.password
    pool = {
        "max_size": options.max_size,
        "timeout": options.timeout,
        **options.pool,
    }
    database = {**target.settings(proxy.port), "POOL": pool}
    if options.driver == "pymysql":
        # It would read all of the system's certificates for each connection.
        database["OPTIONS"] = {**database.get("OPTIONS", {}), "ssl_disabled": True}
    settings.configure(
        DATABASES={"default": database},
        INSTALLED_APPS=["chaos_campaign"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
        # A pool logs what it mends; here that is the normal case.
        LOGGING_CONFIG=None,
    )
    choose_driver(options.driver)
    django.setup()


def choose_driver(name):
    """Have Django use another driver than the one that it prefers."""
    if name == "psycopg2":
        # For as long as it looks.
        psycopg, sys.modules["psycopg"] = sys.modules.get("psycopg"), None
        importlib.import_module("django.db.backends.postgresql.base")
        del sys.modules["psycopg"]
        if psycopg is not None:
            sys.modules["psycopg"] = psycopg
    elif name == "pymysql":
        import pymysql

        # It says which version of mysqlclient it stands in for.
        pymysql.version_info = max(pymysql.version_info, (2, 2, 1, "final", 0))
        pymysql.install_as_MySQLdb()


def run_campaign(options, target, proxy):
    from django.apps import apps
    from django.db import connection

    from .campaign import Campaign
    from .faults import FAULTS
    from .report import print_report
    from .workload import Workload

    names = options.faults.split(",") if options.faults else list(FAULTS)
    if unknown := set(names) - set(FAULTS):
        raise ToolError(
            f"There's no fault {', '.join(sorted(unknown))}. There are:", FAULTS
        )
    workload = Workload(options.threads, options.seed)
    with connection.schema_editor() as editor:
        for model in apps.get_app_config("chaos_campaign").get_models():
            editor.create_model(model)
    workload.fill()
    connection.close()
    campaign = Campaign(target, proxy, workload, options.timeout, options.seed)
    campaign.run(options.seconds, names, options.max_size)
    print_report(campaign)
    sys.stdout.flush()
    return campaign.violations
