"""Virtual environments that are made once, and again when needed."""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from . import ToolError, packages
from .processes import run

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"

# Django's own requirements that its tests do without: a browser, and a
# daemon that watches files.
NOT_INSTALLED = ("selenium", "pywatchman")

# What pip compiles, and the Debian packages that it takes.
BUILD_PACKAGES = ("gcc", "libc6-dev", "pkg-config", "libmariadb-dev")
HEADERS = """
import os, sys, sysconfig
header = os.path.join(sysconfig.get_path("include"), "Python.h")
print(os.path.isfile(header), "%d.%d" % sys.version_info[:2])
"""
OTHER_PACKAGES = ("gettext", "libmemcached-dev", "zlib1g-dev")


class Environment:
    """
    A virtual environment, ``name`` below ``root``. It's remade when its Python
    or what should be in it changed; the stamp file in it says what that was.
    """

    def __init__(self, root, name, python):
        self.directory = root / name
        # Not in the directory, which may be remade.
        self.lock = root / ".venvs" / f"{Path(name).name}.lock"
        self.base_python = python
        self.python = self.directory / "bin" / "python"
        self.stamp = self.directory / "complete"

    def is_current(self, content):
        if not (self.stamp.is_file() and self.python.exists()):
            return False
        return self.stamp.read_text() == self.digest(content)

    def complete(self, content):
        self.stamp.write_text(self.digest(content))

    def digest(self, content):
        parts = [str(self.base_python), *content]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    @contextlib.contextmanager
    def locked(self):
        """Two runs at once: the second waits until the first has made it."""
        self.lock.parent.mkdir(parents=True, exist_ok=True)
        with open(self.lock, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def create(self):
        if self.directory.exists():
            shutil.rmtree(self.directory)
        run(
            [self.base_python, "-m", "venv", self.directory],
            f"A virtual environment could not be made in {self.directory}.",
        )

    def pip(self, *args):
        """Return the result of "pip install"."""
        command = [self.python, "-m", "pip", "install", "--quiet", *args]
        return subprocess.run(
            [str(part) for part in command],
            env=quiet_pip(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
        )

    def install(self, *args):
        result = self.pip(*args)
        if result.returncode:
            output = [line[:200] for line in result.stdout.strip().splitlines()]
            names = " ".join(str(arg) for arg in args)
            raise ToolError(f"pip could not install {names}. It said:", output[-25:])

    def uninstall(self, name):
        command = [self.python, "-m", "pip", "uninstall", "--quiet", "--yes", name]
        run(command, f"pip could not uninstall {name}.", env=quiet_pip())

    def succeeds(self, code):
        """Return whether this Python runs the code without an error."""
        command = [str(self.python), "-I", "-c", code]
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


def quiet_pip():
    # A constraint of the user's is for other installations than these.
    return {
        **{k: v for k, v in os.environ.items() if k != "PIP_CONSTRAINT"},
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
    }


def read_requirements(*files):
    """Return the requirements in pip's files, comments left out."""
    lines = []
    for file in files:
        for line in Path(file).read_text().splitlines():
            line = line.partition("#")[0].strip()
            if line and line not in lines:
                lines.append(line)
    return lines


def build_environment(environment, tree):
    """
    Fill the environment of the tests: what they can't do without, and what
    Django's own tests and those of hosts use of the rest. Return the names
    that didn't install.
    """
    required = read_requirements(REQUIREMENTS / "test.txt")
    files = sorted((tree / "tests" / "requirements").glob("*.txt"))
    files.append(REQUIREMENTS / "hosts.txt")
    wanted = [
        line
        for line in read_requirements(*files)
        if re.split(r"[^\w.-]", line)[0] not in NOT_INSTALLED
    ]
    missing_file = environment.directory / "missing"
    with environment.locked():
        if not environment.is_current([*required, *wanted]):
            missing = fill(environment, required, wanted)
            missing_file.write_text("\n".join(missing))
            environment.complete([*required, *wanted])
        return missing_file.read_text().splitlines()


def fill(environment, required, wanted):
    install_build_packages(environment.base_python)
    print(f"Making {environment.directory} ...", flush=True)
    environment.create()
    environment.install("--upgrade", "pip", "setuptools", "wheel")
    # All at once is quicker; one at a time shows which one fails.
    if environment.pip(*required, *wanted).returncode == 0:
        return []
    environment.install(*required)
    return [name for name in wanted if environment.pip(name).returncode]


def install_build_packages(python):
    """Have what mysqlclient needs; the rest is optional."""
    names = [] if has_mariadb() and shutil.which("gcc") else list(BUILD_PACKAGES)
    has_headers, version = run([python, "-c", HEADERS], "Python failed.").split()
    if has_headers != "True":
        names.append(f"python{version}-dev")
    if names:
        packages.install(names, "mysqlclient is compiled from its source.")
    if not shutil.which("msgfmt"):
        try:
            packages.install(OTHER_PACKAGES, "Some of Django's tests use gettext.")
        except ToolError as error:
            print(f"Going on without: {error}", flush=True)


def has_mariadb():
    if not shutil.which("pkg-config"):
        return False
    for name in ("mysqlclient", "mariadb", "libmariadb"):
        if subprocess.call(["pkg-config", "--exists", name]) == 0:
            return True
    return False
