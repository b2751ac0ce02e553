"""Run black, isort and flake8, and say what they found in one form."""

import collections
import os
import re
import shutil
import subprocess
import sys

from . import ToolError

BLACK = re.compile(r"^(?:would reformat|error: cannot format) (?P<path>.+?)(?::.*)?$")
ISORT = re.compile(r"^ERROR: (?P<path>.+?) Imports are incorrectly .*$")
FLAKE8 = re.compile(r"^(?P<path>.+?):(?P<line>\d+):\d+: (?P<text>.*)$")


class Problem:
    def __init__(self, path, text, line=0, source=""):
        self.path, self.line, self.text = path, line, text
        # The same problem in two versions of a file, wherever its line is.
        self.key = (path, text, source)

    def __str__(self):
        place = f"{self.path}:{self.line}" if self.line else self.path
        return f"{place}: {self.text}"


def new_problems(after, before):
    """Return those of ``after`` that ``before`` hasn't got."""
    known = collections.Counter(problem.key for problem in before)
    new = []
    for problem in after:
        if known[problem.key]:
            known[problem.key] -= 1
        else:
            new.append(problem)
    return new


def style_problems(config, directory, paths):
    """
    Return the problems of files below ``directory``, by the settings of the
    repository at ``config``.
    """
    if not paths:
        return []
    pyproject, setup_cfg = config / "pyproject.toml", config / "setup.cfg"
    problems = []
    command = ["black", "--check", f"--config={pyproject}"]
    for match in run(command, directory, paths, BLACK):
        problems.append(Problem(match["path"], "not formatted as black does"))
    command = ["isort", "--check-only", f"--settings-file={pyproject}"]
    for match in run(command, directory, paths, ISORT):
        # isort names files in full.
        path = os.path.relpath(match["path"], os.path.realpath(directory))
        problems.append(Problem(path, "imports not sorted as isort does"))
    command = ["flake8", f"--config={setup_cfg}"]
    for match in run(command, directory, paths, FLAKE8):
        number = int(match["line"])
        lines = (directory / match["path"]).read_text().splitlines()
        source = lines[number - 1].strip() if number <= len(lines) else ""
        problems.append(Problem(match["path"], match["text"], number, source))
    return problems


def run(command, directory, paths, pattern):
    """Return the matches of the lines that tell a problem."""
    result = subprocess.run(
        [*find_tool(command[0]), *command[1:], *paths],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    matches = [pattern.match(line) for line in result.stdout.splitlines()]
    found = [match for match in matches if match]
    if result.returncode and not found:
        raise ToolError(f"{command[0]} failed:", result.stdout.strip().splitlines())
    return found


def find_tool(name):
    """Return the command of a tool: this Python's module or a program."""
    command = [sys.executable, "-m", name, "--version"]
    if subprocess.run(command, capture_output=True).returncode == 0:
        return command[:-1]
    if shutil.which(name):
        return [name]
    raise ToolError(
        f"{name} was not found. Install what the check needs (python -m pip install "
        "black isort flake8), or leave it out with --no-lint."
    )
