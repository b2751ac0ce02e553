"""Have a tool run by a Python that has what it needs."""

import importlib.util
import os
import sys

from . import ToolError
from .envs import Environment, build_environment
from .pythons import OLDEST, find_python


def provide(script, build, wanted):
    """
    Go on if this Python has modules, and else in the environment of the
    tests, which is made if need be.

    script: the path of the tool, to be run again there.
    build: the directory of the assembled tree.
    wanted: names of modules.
    """
    if not (build / "django" / "db" / "pool").is_dir():
        raise ToolError("Assemble the tree first, with scripts/tree assemble.")
    missing = [name for name in wanted if not importlib.util.find_spec(name)]
    if sys.version_info >= OLDEST and not missing:
        return
    root = script.parent.parent
    environment = Environment(root, ".venvs/test", find_python())
    if is_in(environment):
        raise ToolError(
            f"{environment.directory} has no {', '.join(dict.fromkeys(missing))}. "
            "Either that could not be installed, or the directory is broken: remove "
            "it then."
        )
    build_environment(environment, build)
    python = str(environment.python)
    os.execv(python, [python, str(script), *sys.argv[1:]])


def is_in(environment):
    """Return whether an environment is that of this Python."""
    return os.path.realpath(sys.prefix) == os.path.realpath(environment.directory)
