"""Virtual environments that are made once, and again when needed."""

import hashlib
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
OTHER_PACKAGES = ("gettext", "libmemcached-dev", "zlib1g-dev")


class Environment:
    """
    A virtual environment in ``directory``. It's remade when its Python or
    what should be in it changed; the stamp file in it says what that was.
    """

    def __init__(self, directory, python):
        self.directory = Path(directory)
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

    def create(self):
        if self.directory.exists():
            shutil.rmtree(self.directory)
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        run(
            [self.base_python, "-m", "venv", self.directory],
            f"A virtual environment could not be made in {self.directory}.",
        )

    def pip(self, *args):
        """Return the result of "pip install"."""
        command = [self.python, "-m", "pip", "install", "--quiet", *args]
        return subprocess.run(
            [str(part) for part in [*command, "--disable-pip-version-check"]],
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
    Django's own tests use of the rest. Return the names that didn't install.
    """
    required = read_requirements(REQUIREMENTS / "test.txt")
    files = sorted((tree / "tests" / "requirements").glob("*.txt"))
    wanted = [
        line
        for line in read_requirements(*files)
        if re.split(r"[^\w.-]", line)[0] not in NOT_INSTALLED
    ]
    content = [*required, *wanted]
    missing_file = environment.directory / "missing"
    if not environment.is_current(content):
        install_build_packages(environment.base_python)
        print(f"Making {environment.directory} ...", flush=True)
        environment.create()
        environment.install("--upgrade", "pip", "setuptools", "wheel")
        missing = []
        # All at once is quicker; one at a time shows which one fails.
        if environment.pip(*required, *wanted).returncode:
            environment.install(*required)
            missing = [x for x in wanted if environment.pip(x).returncode]
        missing_file.write_text("\n".join(missing))
        environment.complete(content)
    return missing_file.read_text().split("\n") if missing_file.read_text() else []


def install_build_packages(python):
    """Have what mysqlclient needs; what only Django's tests use is optional."""
    names = [] if has_mariadb() and shutil.which("gcc") else list(BUILD_PACKAGES)
    command = [
        python,
        "-c",
        "import os, sys, sysconfig as s; p = s.get_path('include'); "
        "print(os.path.isfile(p + '/Python.h'), 'python%d.%d-dev' % sys.version_info[:2])",
    ]
    has_headers, dev_package = run(command, "Python failed.").split()
    if has_headers != "True":
        names.append(dev_package)
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
