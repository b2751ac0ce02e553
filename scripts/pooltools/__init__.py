"""
The tools of this repository.

They run on any Python that a build may start with, so they use the standard
library only and the syntax of Python 3.9.
"""

# The N of the version 6.1.3+pool.N that packages are built with.
POOL_RELEASE = 1


class ToolError(Exception):
    """
    A failure that its reader can act upon: printed without a traceback.

    The message says what is wrong and what to do. The details, one per line,
    say with which files.
    """

    def __init__(self, message, details=()):
        super().__init__(message)
        self.message = message
        self.details = list(details)

    def __str__(self):
        return "\n".join([self.message, *("  " + line for line in self.details)])
