"""
The environments: the patched Django in one, stock Django and all the others
that the pool is compared with in another.
"""

import json
import re
from pathlib import Path

from pooltools.demo_install import source_digest
from pooltools.envs import Environment, install_build_packages
from pooltools.processes import run
from pooltools.pythons import find_python

ROOT = Path(__file__).resolve().parent.parent.parent

PATCHED = "patched"
STOCK = "stock"
CHARTS = "charts"

# The patched Django's base, and what both environments have. The versions
# are left to pip, and printed.
BASE_FILE = ROOT / "scripts" / "pooltools" / "base.txt"
COMMON = ["psycopg[binary]", "mysqlclient", "gunicorn", "uvicorn"]
RIVALS = [
    "psycopg-pool",
    "SQLAlchemy",
    "peewee",
    "DBUtils",
    "mysql-connector-python",
    "django-db-connection-pool",
]

VERSIONS = """
import importlib.metadata, json, platform, re, sys
versions = {
    re.sub(r"[-_.]+", "-", d.name).lower(): d.version
    for d in importlib.metadata.distributions()
}
print(json.dumps([platform.python_implementation() + " " + sys.version, versions]))
"""


def stock_version():
    """Return the version of Django that the patches are for."""
    return re.search(r"^Django==(\S+)", BASE_FILE.read_text(), re.M).group(1)


def make(names, python=None):
    """Return the environments of these names, made or brought up to date."""
    base = find_python(python)
    makers = {PATCHED: make_patched, STOCK: make_stock, CHARTS: make_charts}
    return {name: makers[name](base) for name in names}


def make_patched(base):
    environment = Environment(ROOT, ".venvs/bench-patched", base)
    fill(environment, [str(ROOT), *COMMON], source_digest(ROOT))
    return environment


def make_stock(base):
    environment = Environment(ROOT, ".venvs/bench-stock", base)
    fill(environment, [f"Django=={stock_version()}", *COMMON, *RIVALS])
    return environment


def make_charts(base):
    environment = Environment(ROOT, ".venvs/bench-charts", base)
    fill(environment, ["matplotlib"])
    return environment


def fill(environment, requirements, *content):
    with environment.locked():
        if environment.is_current([*requirements, *content]):
            return
        if "mysqlclient" in requirements:
            install_build_packages(environment.base_python)
        print(f"Making {environment.directory.relative_to(ROOT)} ...", flush=True)
        environment.create()
        environment.install(*requirements)
        environment.complete([*requirements, *content])


def versions(environment):
    """Return (the Python's version, {distribution: version})."""
    command = [environment.python, "-I", "-c", VERSIONS]
    return tuple(json.loads(run(command, "The environment is broken.")))
