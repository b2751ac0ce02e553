"""Write the edits of an assembled tree back to the repository."""

import shutil

from . import ToolError
from .tree_git import LINK_MODE
from .tree_repo import NEW_FILE_DIRS


class Refresh:
    """
    Finds out first what is to be written, and writes only if all of it can be.
    """

    def __init__(self, tree):
        self.tree = tree
        self.repo = tree.repo
        self.patches = {}  # {path: its new diff, empty if the edit was undone}
        self.new_files = []
        self.problems = []

    def run(self):
        """Return the lines that say what was written."""
        self.tree.require()
        self.refuse_rejects()
        self.collect()
        if self.problems:
            raise ToolError("Nothing was refreshed. Settle this first:", self.problems)
        written = [self.write_patch(*item) for item in sorted(self.patches.items())]
        return written + [self.move(path) for path in self.new_files]

    def refuse_rejects(self):
        root = self.tree.root
        rejects = sorted(str(path.relative_to(root)) for path in root.rglob("*.rej"))
        if rejects:
            raise ToolError(
                "These hold parts of patches that didn't apply. Work them into "
                "the files that they are named after, then delete them:",
                rejects,
            )

    def collect(self):
        actual = self.tree.actual()
        edits = self.tree.edits(actual)
        recorded = self.tree.recorded()
        changes = self.tree.git.changes("base^{tree}", actual)
        added = {path: change for path, change in changes.items() if change.added}
        for path in sorted(
            {*changes, *recorded, *self.repo.patched_files()} - {*added}
        ):
            diff = b""
            if path in changes:
                diff = self.tree.diff("base^{tree}", actual, path)
            if path in changes and changes[path].new_mode == LINK_MODE:
                self.problems.append(f"{path}: is a link now; patches can't say that")
            else:
                self.collect_patch(path, diff, path in edits, recorded.get(path))
        for path, change in sorted(added.items()):
            if change.new_mode != LINK_MODE:
                self.collect_new_file(path)
            elif path in edits:
                self.problems.append(
                    f"{path}: a link that isn't the tool's. Delete it; to move or "
                    "rename a new file, do it in the repository and assemble."
                )

    def collect_patch(self, path, diff, edited, recorded):
        patch = self.repo.patch(path)
        written = patch.read()[1] if patch.file.exists() else b""
        if diff == written:
            return
        if patch.digest() == recorded:
            self.patches[path] = diff
        elif edited:
            # A patch that only the repository changed is assemble's to apply.
            self.problems.append(
                f"{path}: edited here, and {patch.file} was changed after it had "
                "been applied. Undo one of the two, or merge them by hand."
            )

    def collect_new_file(self, path):
        target = self.repo.file(path)
        if path.split("/")[0] not in NEW_FILE_DIRS:
            self.problems.append(
                f"{path}: new files belong below {', '.join(NEW_FILE_DIRS)}. "
                "Move or delete it."
            )
        elif target.exists() and newer(target, self.tree.root / path):
            self.problems.append(
                f"{path}: is a file of its own, and the repository's was changed "
                "later. Merge them there and delete this one."
            )
        else:
            self.new_files.append(path)

    def write_patch(self, path, diff):
        patch = self.repo.patch(path)
        if diff:
            patch.write(diff)
            return f"wrote {patch.file.relative_to(self.repo.root)}"
        patch.file.unlink()
        return f"deleted {patch.file.relative_to(self.repo.root)} (edit undone)"

    def move(self, path):
        target = self.repo.file(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        # An editor that saves by renaming puts a file in the link's place; so
        # the target may exist.
        shutil.move(str(self.tree.root / path), str(target))
        return f"moved {path} to the repository"


def newer(one, other):
    same = one.read_bytes() == other.read_bytes()
    return not same and one.stat().st_mtime_ns > other.stat().st_mtime_ns
