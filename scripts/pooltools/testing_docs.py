"""Build the documentation; only warnings that the base hasn't got count."""

import collections
import re
import shutil
from pathlib import Path

from .processes import run
from .testing_report import Outcome
from .tree_git import Git

WARNING = re.compile(
    r"^.*?/docs/(?P<file>[^\n:]+):(\d+:)? (?P<text>(WARNING|ERROR|CRITICAL): .*)$",
    re.MULTILINE,
)
# References to the documentation of others can't be checked without asking it.
ELSEWHERE = re.compile(r"'(python|psycopg|sphinx):")


def check_docs(context):
    """
    Return an outcome in which the changed documents are the tests. The base
    is built first, then what changed is put into it and built again.
    """
    changed = changed_documents(context.build)
    if not changed:
        return Outcome(skipped=["documentation: nothing changed"])
    base = context.runner.base()
    before = collections.Counter(build(context, base))
    for name in changed:
        target = base / "docs" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        # With the time of now: that's how Sphinx sees what changed.
        shutil.copyfile(context.build / "docs" / name, target)
    failed = {}
    for name, text in build(context, base):
        if before[name, text]:
            before[name, text] -= 1
        elif not ELSEWHERE.search(text):
            failed.setdefault(f"docs/{name}", []).append(text)
    return Outcome(
        {f"docs/{name}" for name in changed} - set(failed),
        {name: "\n".join(texts) for name, texts in failed.items()},
    )


def changed_documents(tree):
    paths = Git(tree).paths("diff", "--name-only", "-z", "--diff-filter=d", "base")
    return [path[len("docs/") :] for path in paths if path.startswith("docs/")]


def build(context, tree):
    """Return the warnings, as pairs of a document and the text."""
    script = Path(__file__).resolve().parent / "docs_warnings.py"
    output = run(
        [context.python, script, tree / "docs", context.directory / "docs"],
        "Sphinx failed.",
        cwd=context.directory,
    )
    return [(match["file"], match["text"]) for match in WARNING.finditer(output)]
