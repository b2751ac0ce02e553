"""The command line of scripts/tree."""

import argparse
import sys
from pathlib import Path

from . import ToolError
from .tree_check import check
from .tree_refresh import Refresh
from .tree_repo import Repository
from .tree_series import export
from .tree_work import WorkTree

ROOT = Path(__file__).resolve().parent.parent.parent


def main(arguments=None):
    options = parse(arguments)
    repo = Repository(options.repo)
    tree = WorkTree(repo, options.build or repo.root / "build")
    try:
        options.command(tree, options)
    except (ToolError, OSError) as error:
        print(f"scripts/tree {options.name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="scripts/tree",
        description="Build the patched Django tree, and keep it and this "
        "repository in step.",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--build",
        metavar="DIR",
        help="the directory of the assembled tree (default: build/)",
    )
    common.add_argument(
        "--repo",
        metavar="DIR",
        default=ROOT,
        help="the repository to work for (default: the one of this script)",
    )
    commands = parser.add_subparsers(dest="name", metavar="COMMAND", required=True)

    def add(name, command, text):
        subparser = commands.add_parser(
            name, help=text, description=text, parents=[common]
        )
        subparser.set_defaults(command=command)
        return subparser

    sub = add("assemble", run_assemble, "Make the tree, or bring it up to date.")
    sub.add_argument("--sdist", metavar="FILE", help="an archive of the base at hand")
    sub.add_argument(
        "--force",
        action="store_true",
        help="throw away the tree's edits that were not refreshed",
    )
    sub.add_argument(
        "--reject",
        action="store_true",
        help="apply what fits of patches that don't apply; the rest goes to .rej files",
    )
    add("refresh", run_refresh, "Write the tree's edits back to the repository.")
    sub = add("check", run_check, "Check the patches, the tree and the style.")
    sub.add_argument(
        "--no-lint",
        dest="lint",
        action="store_false",
        help="leave out black, isort and flake8",
    )
    sub = add("series", run_series, "Export the commits for a pull request.")
    sub.add_argument(
        "--output",
        metavar="DIR",
        help="where the mails of the series go (default: dist/series/)",
    )
    return parser.parse_args(arguments)


def run_assemble(tree, options):
    kept, failed = tree.assemble(options.sdist, options.force, options.reject)
    for path in kept:
        print(f"edited, not refreshed yet: {path}")
    for path in failed:
        print(f"did not apply wholly: {path}.patch (see {path}.rej in the tree)")
    print(f"Assembled Django {tree.repo.pin()['version']} with the pool in {tree.root}")


def run_refresh(tree, options):
    written = Refresh(tree).run()
    for line in written:
        print(line)
    # So that moved files are links, and the edits are the tree's new state.
    tree.assemble()
    if not written:
        print("Nothing to refresh.")


def run_check(tree, options):
    for line in check(tree, lint=options.lint):
        print(line, flush=True)


def run_series(tree, options):
    output = options.output or tree.repo.root / "dist" / "series"
    for line in export(tree, Path(output)):
        print(line, flush=True)
