"""Check that the repository and the tree agree, and that both are in style."""

import os
import tempfile
from pathlib import Path

from . import ToolError
from .tree_repo import ignored
from .tree_series import Series
from .tree_style import new_problems, style_problems


def check(tree, lint=True):
    """Yield a line for each thing found right; raise for what's wrong."""
    tree.require()
    expected = tree.expected()
    content = tree.expected(links=False)
    patched = tree.repo.patched_files()
    new = tree.repo.new_files()
    check_exact(tree, content, patched)
    yield f"{len(patched)} patches apply exactly"
    check_agreement(tree, expected)
    yield f"{len(new)} new files are linked, and no edit waits for a refresh"
    check_whitespace(tree, content)
    yield "no whitespace problems"
    commits = Series(tree.repo).assign([*patched, *new])
    yield f"every file belongs to one of the {len(commits)} commits of the series"
    if lint:
        count = check_style(tree, content, patched, new)
        yield f"{count} files pass black, isort and flake8"


def check_exact(tree, content, patched):
    """A patch with offsets or other noise isn't what refresh writes."""
    wrong = []
    for path in patched:
        patch = tree.repo.patch(path)
        if patch.read()[1] != tree.diff("base^{tree}", content, path):
            wrong.append(str(patch.file))
    if wrong:
        raise ToolError(
            "These patches apply, but at other lines than they say, or they "
            "weren't written by refresh. Run scripts/tree assemble and "
            "scripts/tree refresh:",
            wrong,
        )


def check_agreement(tree, expected):
    actual = tree.actual()
    stale = tree.git.changes(actual, expected)
    edits = sorted(set(tree.edits(actual)) & set(stale))
    if edits:
        raise ToolError(
            "Edits in the tree aren't in the repository. Run scripts/tree refresh:",
            edits,
        )
    if stale:
        raise ToolError(
            "The tree is behind the repository. Run scripts/tree assemble:",
            sorted(stale),
        )


def check_whitespace(tree, content):
    command = ("diff-tree", "--check", "-r", "--no-renames", "base^{tree}", content)
    output = os.fsdecode(tree.git(*command, allow=(0, 2)))
    # After each problem comes the line that has it. What git takes for a
    # conflict marker is the underline of a heading of seven letters.
    found = [
        line
        for line in output.splitlines()
        if not line.startswith("+")
        and not (".txt:" in line and line.endswith("leftover conflict marker"))
    ]
    if found:
        raise ToolError(
            "Whitespace problems (the lines are those of the tree's files):", found
        )


def check_style(tree, content, patched, new):
    """
    Return how many files were looked at. Files of our own must pass; in a
    patched one, only what its base hasn't got already counts.
    """
    own = [path for path in new if path.endswith(".py")] + scripts(tree.repo.root)
    patched = [path for path in patched if path.endswith(".py")]
    problems = style_problems(tree.repo.root, tree.repo.root, own)
    with tempfile.TemporaryDirectory() as scratch:
        before, after = Path(scratch, "before"), Path(scratch, "after")
        write_files(tree, "base^{tree}", before, patched)
        kept = write_files(tree, content, after, patched)
        problems += new_problems(
            style_problems(tree.repo.root, after, kept),
            style_problems(tree.repo.root, before, patched),
        )
    if problems:
        raise ToolError(
            "Style problems (correct patched files in the tree, then refresh):",
            [str(problem) for problem in problems],
        )
    return len(own) + len(kept)


def write_files(tree, state, directory, paths):
    """Write files of a git tree below ``directory``; return those it has."""
    there = set(tree.git.paths("ls-tree", "-rz", "--name-only", state))
    found = [path for path in paths if path in there]
    for path in found:
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(tree.git("cat-file", "blob", f"{state}:{path}"))
    return found


def scripts(root):
    """Return the paths of the Python files below scripts/."""
    found = []
    for parent, names, files in os.walk(root / "scripts"):
        relative = Path(parent).relative_to(root).as_posix()
        names[:] = sorted(n for n in names if not ignored(f"{relative}/{n}"))
        paths = (f"{relative}/{name}" for name in sorted(files))
        found += [path for path in paths if is_python(root / path)]
    return found


def is_python(file):
    if file.suffix:
        return file.suffix == ".py"
    with open(file, "rb") as script:
        first = script.readline()
    return first.startswith(b"#!") and b"python" in first
