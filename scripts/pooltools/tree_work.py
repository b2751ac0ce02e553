"""
The assembled tree: a git work tree made of the base and this repository.

Its history is two commits, each with a tag: ``base`` is the untouched sdist,
``assembled`` adds the patches and links to the new files. So ``git status``
there shows the edits that aren't in the repository yet. Three states matter,
each a git tree:

    assembled   what the tool last put into the directory
    actual      what the directory holds now
    expected    what the repository asks for now

An edit is what changed from assembled to actual. Nothing here overwrites one,
unless told to.
"""

import os
import shutil
import tempfile
from pathlib import Path

from . import ToolError, tree_base
from .tree_git import LINK_MODE, Git, GitError
from .tree_repo import IGNORED


class WorkTree:
    def __init__(self, repo, directory):
        self.repo = repo
        self.root = Path(directory).resolve()
        self.git = Git(self.root)

    # State.

    def exists(self):
        if not (self.root / ".git").is_dir():
            return False
        command = ("rev-parse", "--quiet", "--verify", "refs/tags/assembled")
        return bool(self.git.line(*command, allow=(0, 1)))

    def require(self):
        if not self.exists():
            raise ToolError(f"{self.root} holds no tree: run scripts/tree assemble.")
        if self.base_pin() != self.repo.pin()[0]:
            raise ToolError(
                f"{self.root} was made from another base ({self.base_pin()}): "
                "run scripts/tree assemble."
            )

    def base_pin(self):
        return self.git.line("log", "-1", "--format=%B", "base")

    def recorded(self):
        """Return {path: digest} of the patches that were last applied."""
        lines = self.git.line("log", "-1", "--format=%b", "assembled").splitlines()
        return {path: digest for digest, path in (x.split(" ", 1) for x in lines)}

    def actual(self):
        """Return the git tree of what the directory holds."""
        with self.git.scratch_index(copy=True) as git:
            git("add", "--all")
            return git.line("write-tree")

    def expected(self, links=True):
        """
        Return the git tree that the repository asks for. With ``links``, new
        files are links into it, otherwise they are files.
        """
        tree, failed = self.apply_patches(links)
        if failed:
            lines = [x for error in failed.values() for x in error]
            raise ToolError(
                "These patches don't apply to the base. Correct them, or run "
                "scripts/tree assemble --reject, which applies what fits:",
                lines,
            )
        return tree

    def apply_patches(self, links=True):
        """Return (git tree, {path: lines of the error})."""
        failed = {}
        in_base = set(self.git.paths("ls-tree", "-rz", "--name-only", "base"))
        with self.git.scratch_index() as git:
            git("read-tree", "base")
            patched = self.repo.patched_files()
            for path in patched:
                patch = self.repo.patch(path)
                if path not in in_base:
                    failed[path] = [f"{patch.file}: the base has no {path}."]
                    continue
                if not patch.read()[1]:
                    failed[path] = [f"{patch.file}: there is no diff in it."]
                    continue
                try:
                    command = ("apply", "--cached", "--whitespace=nowarn")
                    git(*command, str(patch.file))
                except GitError as error:
                    failed[path] = [f"{patch.file}:", *error.details]
            self.add_new_files(git, in_base, links)
            tree = git.line("write-tree")
        strays = set(self.git.changes("base^{tree}", tree)) & in_base - set(patched)
        if strays:
            raise ToolError(
                "A patch may change only the file that it's named after. These "
                "files are changed by the patch of another one:",
                sorted(strays),
            )
        return tree, failed

    def add_new_files(self, git, in_base, links):
        paths = self.repo.new_files()
        clashes = [path for path in paths if path in in_base]
        if clashes:
            raise ToolError(
                "The base has these files already. Delete them from the "
                "repository, edit them in the tree and run scripts/tree refresh:",
                clashes,
            )
        files = [self.repo.file(path) for path in paths]
        if links:
            modes = [LINK_MODE] * len(paths)
            contents = [os.fsencode(self.link_target(path)) for path in paths]
        else:
            executable = (os.access(file, os.X_OK) for file in files)
            modes = ["100755" if x else "100644" for x in executable]
            contents = [file.read_bytes() for file in files]
        git.add_entries(zip(paths, modes, git.store(contents)))

    def link_target(self, path):
        parent = (self.root / path).parent
        return os.path.relpath(self.repo.file(path), parent)

    def edits(self, actual):
        """
        Return {path: Change} of what was edited in the directory. A link that
        was lost isn't an edit: the file that it stood for is in the
        repository, and assembling restores it.
        """
        changes = self.git.changes("assembled^{tree}", actual)
        return {p: c for p, c in changes.items() if not c.link_lost}

    def diff(self, old, new, path):
        """Return the canonical patch of one file between two git trees."""
        text = self.git(
            "diff-tree",
            "--patch",
            "--binary",
            "--full-index",
            "--no-renames",
            "--no-textconv",
            old,
            new,
            "--",
            f":(literal){path}",
        )
        if b"\nGIT binary patch\n" in text:
            return text
        # Hashes would change with lines that the patch doesn't show.
        head, hunks, rest = text.partition(b"\n@@ ")
        kept = [x for x in head.split(b"\n") if not x.startswith(b"index ")]
        return b"\n".join(kept) + hunks + rest

    # Assembling.

    def assemble(self, sdist=None, force=False, reject=False):
        """
        Bring the directory to what the repository asks for. Return the paths
        of the edits that were left alone, and those whose patch failed.
        """
        if self.exists() and self.base_pin() != self.repo.pin()[0]:
            edits = sorted(self.edits(self.actual()))
            if edits and not force:
                raise self.loss("The base changed, and the tree is made anew.", edits)
            # Before the old tree is gone.
            sdist = tree_base.fetch(self.repo, sdist)
            shutil.rmtree(self.root)
        if not self.exists():
            self.create(tree_base.fetch(self.repo, sdist))
        failed = {}
        if reject:
            expected, failed = self.apply_patches()
        else:
            expected = self.expected()
        actual = self.actual()
        differing = self.git.changes(actual, expected)
        edits = {} if force else self.edits(actual)
        kept = sorted(set(differing) & set(edits))
        asked = self.git.changes("assembled^{tree}", expected)
        conflicts = [path for path in kept if path in asked]
        if conflicts:
            raise self.loss("The repository changed these files too.", conflicts)
        self.update({p: c for p, c in differing.items() if p not in kept})
        self.record(expected)
        for path in failed:
            patch = str(self.repo.patch(path).file)
            self.git("apply", "--reject", "--whitespace=nowarn", patch, allow=(0, 1))
        return kept, sorted(failed)

    def loss(self, reason, paths):
        return ToolError(
            f"{reason} Edits in {self.root} would be lost. Run scripts/tree refresh "
            "first, or throw them away with scripts/tree assemble --force:",
            paths,
        )

    def create(self, sdist):
        """Make the directory, with the base as its only commit."""
        if self.root.exists() and any(self.root.iterdir()):
            raise ToolError(
                f"{self.root} isn't a tree that this tool made: move it away, or "
                "name another directory with --build."
            )
        self.root.parent.mkdir(parents=True, exist_ok=True)
        # Next to its place and then renamed, so that no tree is half made.
        with tempfile.TemporaryDirectory(
            prefix=f".{self.root.name}-", dir=self.root.parent
        ) as scratch:
            partial = Path(scratch) / "tree"
            tree_base.unpack(sdist, partial)
            git = Git(partial)
            git("init", "--quiet", "--template=", "--initial-branch=pool")
            (partial / ".git" / "info").mkdir(exist_ok=True)
            exclude = "".join(pattern + "\n" for pattern in IGNORED)
            (partial / ".git" / "info" / "exclude").write_text(exclude)
            git("add", "--all", "--force")
            git("commit", "--quiet", "--no-verify", "-m", self.repo.pin()[0])
            git("tag", "base")
            git("tag", "assembled")
            if self.root.exists():
                self.root.rmdir()
            partial.rename(self.root)

    def update(self, changes):
        """Bring the named files of the directory to their new state."""
        present = []
        for path, change in changes.items():
            file = self.root / path
            if change.deleted:
                file.unlink()
                remove_empty(file.parent, self.root)
            else:
                present.append((path, change.new_mode, change.new_blob))
        with self.git.scratch_index(copy=True) as git:
            git.add_entries(present)
            listing = os.fsencode("".join(f"{path}\0" for path, _, _ in present))
            git("checkout-index", "--force", "-z", "--stdin", stdin=listing)

    def record(self, expected):
        """Make the ``assembled`` commit, and the index its copy."""
        digests = ((p, self.repo.patch(p).digest()) for p in self.repo.patched_files())
        lines = "".join(f"{digest} {path}\n" for path, digest in digests)
        message = f"Applied the patches and linked the new files.\n\n{lines}"
        command = ("commit-tree", expected, "-p", "base", "-F", "-")
        commit = self.git.line(*command, stdin=os.fsencode(message))
        self.git("symbolic-ref", "HEAD", "refs/heads/pool")
        self.git("update-ref", "refs/tags/assembled", commit)
        self.git("reset", "--quiet", "--mixed", commit)


def remove_empty(directory, root):
    """Remove the directories that became empty, up to ``root``."""
    while directory != root and not any(directory.iterdir()):
        directory.rmdir()
        directory = directory.parent
