"""Export the commits for a pull request, as mails for ``git am``."""

import configparser
import fnmatch
import os
import tempfile
import textwrap
from pathlib import Path

from . import ToolError
from .tree_git import Git

SUBJECT_WIDTH = 72
# For whoever exports without having told git a name.
AUTHOR_NAME = "Contributors of the Django connection pool"
AUTHOR_EMAIL = "django-pool@localhost"


class Commit:
    def __init__(self, name, section):
        self.name = name
        self.subject = section["subject"].strip()
        patterns = section["files"].split()
        self.included = [p for p in patterns if not p.startswith("!")]
        self.excluded = [p[1:] for p in patterns if p.startswith("!")]
        paragraphs = section.get("body", "").strip().split("\n\n")
        filled = [textwrap.fill(" ".join(p.split()), SUBJECT_WIDTH) for p in paragraphs]
        self.message = "\n\n".join([self.subject, *filter(None, filled)]) + "\n"
        self.paths = []

    def takes(self, path):
        def matches(patterns):
            return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)

        return matches(self.included) and not matches(self.excluded)


class Series:
    """The table of commits: which there are, and which files each has."""

    def __init__(self, repo):
        self.file = repo.series_file
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read_string(self.file.read_text(), source=str(self.file))
            self.commits = [Commit(name, parser[name]) for name in parser.sections()]
        except FileNotFoundError:
            raise ToolError(f"{self.file} is missing: it lists the commits.")
        except KeyError as error:
            raise ToolError(f"{self.file}: a commit has no {error} entry.")
        except configparser.Error as error:
            raise ToolError(f"{self.file} can't be read:", str(error).splitlines())
        long = [c.subject for c in self.commits if len(c.subject) > SUBJECT_WIDTH]
        if long:
            raise ToolError(
                f"{self.file}: subjects are at most {SUBJECT_WIDTH} columns wide:", long
            )

    def assign(self, paths):
        """Give each path to its commit; return the commits that have any."""
        problems = []
        for path in paths:
            takers = [commit for commit in self.commits if commit.takes(path)]
            if len(takers) == 1:
                takers[0].paths.append(path)
            else:
                names = ", ".join(commit.name for commit in takers) or "none"
                problems.append(f"{path}: {names}")
        if problems:
            raise ToolError(
                f"Each file must belong to one commit of {self.file}. These don't:",
                problems,
            )
        return [commit for commit in self.commits if commit.paths]


def export(tree, output):
    """Write the mails to ``output``, prove them, and yield what to say."""
    tree.require()
    if tree.actual() != tree.expected():
        raise ToolError(
            f"{tree.root} and the repository differ: run scripts/tree check, which "
            "says where, and do as it says."
        )
    target = tree.expected(links=False)
    changes = tree.git.changes("base^{tree}", target)
    git = Git(tree.root, authorship(tree.repo))
    commit, parent = None, "base^{commit}"
    commits = Series(tree.repo).assign(sorted(changes))
    for commit in commits:
        parent = write_commit(git, commit, parent, changes)
    output.mkdir(parents=True, exist_ok=True)
    for old in output.glob("[0-9][0-9][0-9][0-9]-*.patch"):
        old.unlink()
    command = ["format-patch", "--quiet", "--no-signature", "--zero-commit"]
    command += ["--binary", "--full-index", "--no-renames"]
    git(*command, f"--output-directory={output.resolve()}", f"base..{parent}")
    mails = sorted(output.resolve().glob("[0-9][0-9][0-9][0-9]-*.patch"))
    prove(tree, mails, target)
    for mail, commit in zip(mails, commits):
        count = len(commit.paths)
        yield f"{mail.name}: {commit.subject} ({count} file{'s' * (count != 1)})"
    yield "git am applies the series to the base, and the result is the tree."


def write_commit(git, commit, parent, changes):
    """Return the id of a commit that adds its files to ``parent``."""
    with git.scratch_index() as index:
        index("read-tree", parent)
        # Mode 000000, of a file that's gone, removes the entry.
        index.add_entries(
            (path, changes[path].new_mode, changes[path].new_blob)
            for path in commit.paths
        )
        tree = index.line("write-tree")
    command = ("commit-tree", tree, "-p", parent, "-F", "-")
    return git.line(*command, stdin=commit.message.encode())


def authorship(repo):
    """
    Return the environment for commits in the name of whoever exports them, at
    the date of the repository's last commit, so that exporting the same state
    twice gives the same mails.
    """
    own = Git(repo.root, {"GIT_CONFIG_GLOBAL": os.path.expanduser("~/.gitconfig")})
    name = own.line("config", "user.name", allow=(0, 1)) or AUTHOR_NAME
    email = own.line("config", "user.email", allow=(0, 1)) or AUTHOR_EMAIL
    date = own.line("log", "-1", "--format=%aI", allow=(0, 128))
    environment = {}
    for who in ("AUTHOR", "COMMITTER"):
        environment[f"GIT_{who}_NAME"] = name
        environment[f"GIT_{who}_EMAIL"] = email
        if date:
            environment[f"GIT_{who}_DATE"] = date
    return environment


def prove(tree, mails, target):
    """Apply the mails to a fresh checkout of the base."""
    with tempfile.TemporaryDirectory() as scratch:
        checkout = Path(scratch) / "checkout"
        clone = ("clone", "--quiet", "--shared", "--no-checkout")
        tree.git(*clone, str(tree.root), str(checkout))
        git = Git(checkout)
        git("checkout", "--quiet", "--detach", "base")
        git("am", "--quiet", *(str(mail) for mail in mails))
        result = git.line("rev-parse", "HEAD^{tree}")
        differing = git.changes(result, target)
    if differing:
        raise ToolError(
            "git am applies the series, but these files come out different (do "
            "they have line ends of Windows?):",
            sorted(differing),
        )
