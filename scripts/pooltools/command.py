"""What the tools' command lines have in common."""

import contextlib
import sys

from . import ToolError
from .processes import exit_on_signals


def run_tool(name, work, *args):
    """
    Return the exit status of a tool: that of work(stack, *args), or one that
    says what went wrong.

    stack: an ExitStack for what is to be stopped and removed in the end,
        whatever ends the tool.
    """
    exit_on_signals()
    try:
        with contextlib.ExitStack() as stack:
            return work(stack, *args)
    except ToolError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def add_python_option(parser):
    parser.add_argument("--python", metavar="PATH", help="the Python to use")
