"""Put the patched Django and what the demo needs into .venv."""

import hashlib
import os

from .envs import Environment, install_build_packages
from .pythons import find_python

# The package of the driver, for each database.
DRIVERS = {
    "sqlite": [],
    "postgresql": ["psycopg[binary]>=3.2"],
    "mariadb": ["mysqlclient>=2.2.1"],
}
WEB_SERVER = "waitress>=3"

IS_EDITABLE = """
import importlib.metadata, json
try:
    url = importlib.metadata.distribution("Django").read_text("direct_url.json")
except importlib.metadata.PackageNotFoundError:
    raise SystemExit(1)
raise SystemExit(not json.loads(url or "{}").get("dir_info", {}).get("editable"))
"""


def install(root, database, python=None):
    """Return the environment, made or brought up to date."""
    environment = Environment(root, ".venv", find_python(python))
    with environment.locked():
        if not usable(environment):
            print(f"Making {environment.directory} ...", flush=True)
            environment.create()
        install_django(environment, root)
        install_rest(environment, database)
    return environment


def usable(environment):
    """It may be a developer's own: it's left alone if it works."""
    if not environment.python.exists():
        return False
    code = "import sys, pip; raise SystemExit(sys.version_info < (3, 12))"
    return environment.succeeds(code)


def install_django(environment, root):
    content = [source_digest(root)]
    if environment.is_current(content):
        return
    if environment.succeeds(IS_EDITABLE):
        print("Django is installed there in editable mode: used as it is.", flush=True)
        return
    print("Building and installing the patched Django ...", flush=True)
    # Uninstalled first, since after an edit its version is the same.
    environment.uninstall("Django")
    environment.install(root)
    environment.complete(content)


def install_rest(environment, database):
    names = [WEB_SERVER, *DRIVERS[database]]
    modules = {"sqlite": "sqlite3", "postgresql": "psycopg", "mariadb": "MySQLdb"}
    if environment.succeeds(f"import waitress, {modules[database]}"):
        return
    if database == "mariadb":
        install_build_packages(environment.base_python)
    print(f"Installing {', '.join(names)} ...", flush=True)
    environment.install(*names)


def source_digest(root):
    """Return a hash of all that the installed Django is made from."""
    digest = hashlib.sha256()
    paths = [root / "scripts" / "pooltools" / "base.txt"]
    for parent, names, files in sorted(os.walk(root / "django")):
        paths += [os.path.join(parent, name) for name in files]
    for path in sorted(map(str, paths)):
        if not path.endswith((".pyc", ".pyo")):
            digest.update(path.encode() + b"\0")
            with open(path, "rb") as file:
                digest.update(file.read())
    return digest.hexdigest()
