"""Get the sdist of the base: from pip, checked, kept in the user's cache."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from . import ToolError

# "pip download" asks an sdist for its metadata, which runs the sdist's build.
# All that's wanted here is the file, on any Python, and none of it should run
# before its hash was checked. So this answers in the place of setuptools,
# with the metadata that every sdist holds.
METADATA_BACKEND = """
import email
import os
import shutil


def prepare_metadata_for_build_wheel(directory, config_settings=None):
    with open("PKG-INFO", encoding="utf-8") as file:
        metadata = email.message_from_file(file)
    name = "%(Name)s-%(Version)s.dist-info" % metadata
    os.mkdir(os.path.join(directory, name))
    shutil.copy("PKG-INFO", os.path.join(directory, name, "METADATA"))
    return name
"""


def fetch(repo, sdist=None):
    """Return the path of the base's sdist; ``sdist`` is one at hand."""
    pin = repo.pin()
    if sdist is not None:
        if not os.path.isfile(sdist):
            raise ToolError(f"{sdist} is not a file: --sdist names an archive.")
        found = sha256(sdist)
        if found != pin["sha256"]:
            raise ToolError(
                f"{sdist} is not the pinned base, Django {pin['version']}:",
                [
                    f"its sha256 is {found},",
                    f"wanted is     {pin['sha256']} ({repo.base_file}).",
                ],
            )
        return Path(sdist)
    cached = cache_dir() / f"{pin['sha256']}.tar.gz"
    if not cached.is_file() or sha256(cached) != pin["sha256"]:
        with tempfile.TemporaryDirectory() as directory:
            archive = download(repo, directory)
            cached.parent.mkdir(parents=True, exist_ok=True)
            # Into its place in one step: others may be reading it.
            partial = f"{cached}.{os.getpid()}"
            shutil.copyfile(archive, partial)
            os.replace(partial, cached)
    return cached


def cache_dir():
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    directory = Path(home) / "django-pool"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        pass
    if os.access(directory, os.W_OK):
        return directory
    # No home to write to: a build in a container, say.
    return Path(tempfile.gettempdir()) / f"django-pool-{os.getuid()}"


def download(repo, directory):
    """Let pip fetch the base into ``directory``; return the file's path."""
    version = repo.pin()["version"]
    print(f"Downloading the sdist of Django {version} ...", flush=True)
    backend = Path(directory) / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    (backend / "build_meta.py").write_text(METADATA_BACKEND)
    target = Path(directory) / "sdist"
    path = [str(backend.parent), os.environ.get("PYTHONPATH", "")]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        # Settings that make sense for installing, and none for a download.
        "PIP_REQUIRE_VIRTUALENV": "0",
        "PIP_CONSTRAINT": "",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    command = [
        *find_pip(),
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary=Django",
        "--no-build-isolation",
        "--ignore-requires-python",
        f"--requirement={repo.base_file}",
        f"--dest={target}",
    ]
    result = subprocess.run(
        command,
        cwd=directory,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    files = sorted(target.glob("*.tar.gz")) if target.is_dir() else []
    if result.returncode or len(files) != 1:
        # pip lists every release there is when it can't find one.
        output = [line[:300] for line in result.stdout.strip().splitlines()]
        raise ToolError(
            f"pip could not download the sdist of Django {version} with the hash "
            f"in {repo.base_file}. Check the network and pip's settings, or pass "
            "an archive that you have with --sdist. pip said:",
            output[-10:],
        )
    return files[0]


def find_pip():
    """Return the command of a pip: this Python's or another one's."""
    for python in (sys.executable, "python3", "python"):
        command = [python, "-m", "pip"]
        try:
            subprocess.run(
                [*command, "--version"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return command
    raise ToolError(
        f"pip was not found: install it for {sys.executable} (python -m ensurepip, "
        "or the package python3-pip), or pass an archive of the base with --sdist."
    )


def unpack(sdist, directory):
    """Unpack the sdist so that ``directory`` is the tree's root."""
    directory = Path(directory)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        with tarfile.open(sdist) as archive:
            # The hash was checked: the filter only keeps owners and modes sane
            # and silences the warning of Python 3.12.
            if hasattr(tarfile, "data_filter"):
                archive.extractall(scratch, filter="data")
            else:
                archive.extractall(scratch)
        (top,) = Path(scratch).iterdir()
        # Made by the sdist's build and remade by every other: not sources.
        for product in top.glob("*.egg-info"):
            shutil.rmtree(product)
        shutil.move(str(top), str(directory))


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()
