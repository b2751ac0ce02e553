"""
The PEP 517 backend of this repository: builds the patched Django.

A wheel is built by setuptools in a temporary tree, by Django's own settings.
The sdist is this repository; building from it assembles the tree again.
"""

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from . import POOL_RELEASE, ToolError, tree_base
from .tree_git import Git
from .tree_repo import Repository, ignored
from .tree_work import WorkTree

ROOT = Path(__file__).resolve().parent.parent.parent
VERSION_LINE = "__version__ = get_version(VERSION)\n"
# What a frontend may have put into an unpacked sdist or a checkout.
NOT_SOURCES = (".git", ".hg", ".tox", ".venv", ".venvs", "build", "dist", "PKG-INFO")
PKG_INFO = """\
Metadata-Version: 2.1
Name: Django
Version: {version}
Summary: Django {base} with a connection pool in its core
License: BSD-3-Clause
Requires-Python: >=3.12
"""


def package_version(repo):
    return f"{repo.pin()['version']}+pool.{POOL_RELEASE}"


# Hooks that frontends call. There's no prepare_metadata_for_build_wheel: it
# would assemble a tree of its own, and frontends take the wheel's metadata.


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    target = os.path.abspath(wheel_directory)
    with expected_failures(), tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        write_tree(Repository(ROOT), tree)
        with setuptools_in(tree) as backend:
            return backend.build_wheel(target, config_settings)


def build_sdist(sdist_directory, config_settings=None):
    with expected_failures():
        repo = Repository(ROOT)
        version = package_version(repo)
        name = f"django-{version}"
        archive = Path(sdist_directory) / f"{name}.tar.gz"
        info = PKG_INFO.format(version=version, base=repo.pin()["version"])
        with tarfile.open(archive, "w:gz", format=tarfile.PAX_FORMAT) as sdist:
            add_bytes(sdist, f"{name}/PKG-INFO", info.encode())
            for path in own_files(repo.root):
                sdist.add(repo.root / path, f"{name}/{path}", filter=anonymous)
        return archive.name


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    """Install the tree in build/, where the new files are links to here."""
    target = os.path.abspath(wheel_directory)
    with expected_failures():
        tree = WorkTree(Repository(ROOT), ROOT / "build")
        tree.assemble()
        with setuptools_in(tree.root) as backend:
            return backend.build_editable(target, config_settings)


def write_tree(repo, directory):
    """Write the tree to be built: all files, no links, the pool's version."""
    tree_base.unpack(tree_base.fetch(repo), directory)
    git = Git(directory, {"GIT_CEILING_DIRECTORIES": str(directory.parent)})
    for path in repo.patched_files():
        patch = str(repo.patch(path).file)
        git("apply", "--whitespace=nowarn", patch)
    for path in repo.new_files():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(repo.file(path), target)
    init = directory / "django" / "__init__.py"
    source = init.read_text()
    if VERSION_LINE not in source:
        raise ToolError(
            f"django/__init__.py of the base has no line {VERSION_LINE.strip()!r}: "
            f"adapt VERSION_LINE in {__file__}."
        )
    suffixed = f'{VERSION_LINE.rstrip()} + "+pool.{POOL_RELEASE}"\n'
    init.write_text(source.replace(VERSION_LINE, suffixed))


@contextlib.contextmanager
def setuptools_in(directory):
    """Yield setuptools' backend, with the tree as the current directory."""
    # Only here, since scripts/tree doesn't need it.
    import setuptools.build_meta

    before = os.getcwd()
    os.chdir(directory)
    try:
        yield setuptools.build_meta
    finally:
        os.chdir(before)


@contextlib.contextmanager
def expected_failures():
    """Frontends show a backend's output: end it with the error alone."""
    try:
        yield
    except (ToolError, OSError) as error:
        sys.exit(f"error: {error}")


def own_files(root):
    """Return the paths of the repository's files, sorted."""
    if (root / ".git").exists():
        return git_files(root)
    paths = []
    for parent, names, files in os.walk(root):
        relative = Path(parent).relative_to(root)
        if relative == Path("."):
            names[:] = [name for name in names if name not in NOT_SOURCES]
            files = [name for name in files if name not in NOT_SOURCES]
        names[:] = [n for n in names if not ignored((relative / n).as_posix())]
        paths += [(relative / name).as_posix() for name in files]
    return sorted(path for path in paths if not ignored(path))


def git_files(root):
    """Return what git has or would take, by the user's own settings too."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    result = subprocess.run(command, cwd=root, stdout=subprocess.PIPE)
    if result.returncode:
        raise ToolError(f"git ls-files failed in {root}: see above.")
    paths = [os.fsdecode(path) for path in result.stdout.split(b"\0") if path]
    return sorted(path for path in paths if (root / path).is_file())


def anonymous(info):
    """Leave the builder's name and clock out of the sdist."""
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = int(os.environ.get("SOURCE_DATE_EPOCH", info.mtime))
    return info


def add_bytes(archive, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    info.mtime = int(time.time())
    archive.addfile(anonymous(info), io.BytesIO(content))
