"""Run git in a way that nobody's settings can change."""

import contextlib
import os
import shutil
import subprocess
import tempfile

from . import ToolError

NULL_MODE = "000000"
LINK_MODE = "120000"

# Commits and patches must come out the same for everyone: no global
# configuration, no translated messages, one identity, one date.
ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "scripts/tree",
    "GIT_AUTHOR_EMAIL": "tree@localhost",
    "GIT_AUTHOR_DATE": "2000-01-01T00:00:00Z",
    "GIT_COMMITTER_NAME": "scripts/tree",
    "GIT_COMMITTER_EMAIL": "tree@localhost",
    "GIT_COMMITTER_DATE": "2000-01-01T00:00:00Z",
    "LC_ALL": "C",
}
# Without the global configuration, a directory that its owner declared safe
# (a mounted volume, say) would be refused. And no collection of garbage may
# run on in the background of a directory that's about to be renamed.
OPTIONS = ("-c", "safe.directory=*", "-c", "core.quotePath=false", "-c", "gc.auto=0")


class GitError(ToolError):
    pass


class Git:
    """The git repository in ``directory``; a call runs one command there."""

    def __init__(self, directory, environment=()):
        self.directory = directory
        self.environment = dict(environment)

    def __call__(self, *args, stdin=b"", allow=(0,)):
        """Return what the command wrote, as bytes."""
        if shutil.which("git") is None:
            raise ToolError("git was not found: install it and run this again.")
        # Within a hook, GIT_DIR and its like point to another repository.
        env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        env.update(ENVIRONMENT, **self.environment)
        result = subprocess.run(
            ["git", *OPTIONS, *args],
            cwd=self.directory,
            env=env,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        if result.returncode not in allow:
            output = os.fsdecode(result.stderr or result.stdout)
            raise GitError(
                f"git {args[0]} failed in {self.directory}:",
                output.strip().splitlines(),
            )
        return result.stdout

    def line(self, *args, **kwargs):
        """Return what the command wrote, as stripped text."""
        return os.fsdecode(self(*args, **kwargs)).strip()

    def paths(self, *args, **kwargs):
        """Return the paths that a command given -z wrote."""
        return [os.fsdecode(p) for p in self(*args, **kwargs).split(b"\0") if p]

    @contextlib.contextmanager
    def scratch_index(self, copy=False):
        """
        Yield this repository with an index of its own, so that neither the
        real index nor the work tree changes. With ``copy``, it starts as the
        real one, which spares reading files that didn't change.
        """
        with tempfile.TemporaryDirectory() as directory:
            index = os.path.join(directory, "index")
            if copy:
                shutil.copy2(os.path.join(self.directory, ".git", "index"), index)
            yield Git(self.directory, {**self.environment, "GIT_INDEX_FILE": index})

    def store(self, contents):
        """Write blobs and return their ids, in order."""
        with tempfile.TemporaryDirectory() as directory:
            paths = []
            for number, content in enumerate(contents):
                paths.append(os.path.join(directory, str(number)))
                with open(paths[-1], "wb") as file:
                    file.write(content)
            listing = os.fsencode("".join(path + "\n" for path in paths))
            command = ("hash-object", "-w", "--no-filters", "--stdin-paths")
            return self.line(*command, stdin=listing).split()

    def add_entries(self, entries):
        """Put (path, mode, blob id) entries into the index."""
        lines = (f"{mode} {blob}\t{path}\0" for path, mode, blob in entries)
        listing = os.fsencode("".join(lines))
        self("update-index", "-z", "--add", "--index-info", stdin=listing)

    def changes(self, old, new):
        """Return {path: Change} for what differs between two trees."""
        command = ("diff-tree", "-r", "-z", "--no-renames", old, new)
        fields = iter(self.paths(*command))
        return {path: Change(*head[1:].split()) for head, path in zip(fields, fields)}


class Change:
    """How one path differs between two trees."""

    def __init__(self, old_mode, new_mode, old_blob, new_blob, status):
        self.old_mode, self.new_mode = old_mode, new_mode
        self.old_blob, self.new_blob = old_blob, new_blob

    @property
    def added(self):
        return self.old_mode == NULL_MODE

    @property
    def deleted(self):
        return self.new_mode == NULL_MODE

    @property
    def new_is_link(self):
        return self.new_mode == LINK_MODE

    @property
    def link_lost(self):
        """A link that was deleted, or that points elsewhere now."""
        return self.old_mode == LINK_MODE and (self.deleted or self.new_is_link)
