"""Find a Python that this Django runs on."""

import glob
import json
import os
import shutil
import subprocess

from . import ToolError

OLDEST = (3, 12)
# Newer ones are used if there is no other: nobody has tried them yet.
NEWEST = (3, 14)

PROBE = """
import json, ssl, sqlite3, sys, sysconfig, venv, ensurepip
free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
print(json.dumps([sys.executable, list(sys.version_info[:3]), free_threaded]))
"""


def find_python(wanted=None):
    """
    Return the path of the best Python: ``wanted`` if given, or else the
    newest that is known to do.
    """
    if wanted:
        found = probe(wanted)
        if found is None or found[0] < OLDEST:
            raise ToolError(
                f"{wanted} is not a Python 3.12 or newer with the modules venv, "
                "ensurepip, ssl and sqlite3."
            )
        return found[1]
    found = [probe(candidate) for candidate in unique(candidates())]
    usable = [item for item in found if item is not None and item[0] >= OLDEST]
    if not usable:
        raise ToolError(
            "No Python 3.12 or newer with the modules venv, ensurepip, ssl and "
            "sqlite3 was found on PATH, in pyenv or in uv. Install one:",
            [
                "Debian 13, Ubuntu 24.04: apt-get install python3-venv python3-dev",
                "with uv:                 uv python install 3.13",
                "with pyenv:              pyenv install 3.13",
                "macOS:                   brew install python@3.13",
                "or name one with --python PATH.",
            ],
        )
    known = [item for item in usable if item[0][:2] <= NEWEST]
    return max(known)[1] if known else min(usable)[1]


def candidates():
    """Yield commands and paths that may be a Python, the likeliest first."""
    names = ("python3.14", "python3.13", "python3.12", "python3", "python")
    for name in names:
        for directory in os.get_exec_path():
            path = os.path.join(directory, name)
            # pyenv's shims are there for versions that aren't selected.
            if os.access(path, os.X_OK) and "shims" not in path.split(os.sep):
                yield path
    root = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    yield from glob.glob(os.path.join(root, "versions", "3.*", "bin", "python3"))
    uv = shutil.which("uv") or os.path.expanduser("~/.local/bin/uv")
    if os.access(uv, os.X_OK):
        for version in ("3.14", "3.13", "3.12"):
            command = [uv, "python", "find", "--no-python-downloads", version]
            path = output_of(command)
            if path:
                yield path.strip()


def unique(paths):
    """Yield each file once, by whatever names it is known."""
    seen = set()
    for path in paths:
        real = os.path.realpath(path)
        if real not in seen:
            seen.add(real)
            yield path


def probe(python):
    """Return ((version), path) of a Python that can do what is needed."""
    output = output_of([python, "-I", "-c", PROBE])
    if output is None:
        return None
    path, version, free_threaded = json.loads(output)
    if free_threaded:
        # The drivers have no wheels for it.
        return None
    return tuple(version), path


def output_of(command):
    try:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            universal_newlines=True,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout if result.returncode == 0 else None
