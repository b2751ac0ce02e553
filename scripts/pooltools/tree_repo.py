"""What this repository holds: the pinned base, new files and patches."""

import fnmatch
import hashlib
import os
import re
from pathlib import Path

from . import ToolError

# Only these hold whole files of the tree. The rest of the repository
# (scripts, its own pyproject.toml, ...) is no part of Django.
NEW_FILE_DIRS = ("django", "tests", "docs")
# An upstream file may be patched here too, and at the root.
PATCH_DIRS = (*NEW_FILE_DIRS, "extras", "js_tests")

# What editors, Python and builds leave behind, as in .gitignore: a pattern
# with a slash is meant from the root, one without for a name anywhere.
IGNORED = (
    "__pycache__",
    "*.py[co]",
    "*.egg-info",
    "*.orig",
    "*.rej",
    "*.sw[op]",
    "*~",
    ".DS_Store",
    ".coverage",
    ".tox",
    ".venv",
    "node_modules",
    "/build",
    "/dist",
    "/docs/_build",
)
SUFFIX = ".patch"
PIN = re.compile(r"^Django==(?P<version>\S+) --hash=sha256:(?P<sha256>[0-9a-f]{64})$")


class Repository:
    def __init__(self, root):
        self.root = Path(root).resolve()
        self.base_file = self.root / "scripts" / "pooltools" / "base.txt"
        self.series_file = self.root / "scripts" / "pooltools" / "series.ini"

    def pin(self):
        """Return the match of the line that names the base and its hash."""
        try:
            lines = self.base_file.read_text().splitlines()
        except FileNotFoundError:
            raise ToolError(f"{self.base_file} is missing: it names the base.")
        lines = [line for line in lines if line and not line.startswith("#")]
        match = PIN.match(lines[0]) if len(lines) == 1 else None
        if match is None:
            raise ToolError(
                f"{self.base_file} must hold one line of this form:",
                ["Django==VERSION --hash=sha256:HASH-OF-THE-SDIST"],
            )
        return match

    def new_files(self):
        """Return the paths of whole files, sorted."""
        paths = self._walk(NEW_FILE_DIRS)
        return sorted(path for path in paths if not path.endswith(SUFFIX))

    def patched_files(self):
        """Return the paths of the upstream files that have a patch, sorted."""
        top = (entry.name for entry in self.root.iterdir() if entry.is_file())
        paths = [*top, *self._walk(PATCH_DIRS)]
        return sorted(p[: -len(SUFFIX)] for p in paths if p.endswith(SUFFIX))

    def _walk(self, directories):
        for top in directories:
            for parent, names, files in os.walk(self.root / top):
                relative = os.path.relpath(parent, self.root).replace(os.sep, "/")
                names[:] = [n for n in names if not ignored(f"{relative}/{n}")]
                for name in files:
                    if not ignored(f"{relative}/{name}"):
                        yield f"{relative}/{name}"

    def file(self, path):
        return self.root / path

    def patch(self, path):
        return Patch(self.root / (path + SUFFIX))


class Patch:
    """The patch of one upstream file; it may start with words of its own."""

    def __init__(self, file):
        self.file = file

    def read(self):
        """Return (header, diff)."""
        content = self.file.read_bytes()
        start = re.search(rb"^(diff --git |--- )", content, re.MULTILINE)
        at = start.start() if start else len(content)
        return content[:at], content[at:]

    def write(self, diff):
        """Replace the diff, keeping the words above it."""
        header = self.read()[0] if self.file.exists() else b""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_bytes(header + diff)

    def digest(self):
        """Return a hash that tells whether the patch changed, or None."""
        if not self.file.exists():
            return None
        return hashlib.sha256(self.file.read_bytes()).hexdigest()


def ignored(path):
    name = path.rpartition("/")[2]
    return any(
        fnmatch.fnmatchcase("/" + path if "/" in pattern else name, pattern)
        for pattern in IGNORED
    )
