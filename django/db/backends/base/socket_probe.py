"""
Whether a socket has something to be read, without waiting for it.

select.poll() lets other threads run for the moment that it takes. A thread
that has given up the interpreter's lock, with others waiting for it, gets it
back when it's its turn again. That takes longer than all the rest of a
borrow, so the C library is asked directly where that's possible.
"""

import select
from functools import partial

try:
    import ctypes

    class _PollFD(ctypes.Structure):
        """POSIX's struct pollfd."""

        _fields_ = [
            ("fd", ctypes.c_int),
            ("events", ctypes.c_short),
            ("revents", ctypes.c_short),
        ]

    # Unlike a CDLL, it keeps the interpreter's lock. The call doesn't block.
    _poll = ctypes.PyDLL(None).poll
except Exception:
    # No ctypes, or no such function: Windows, or another interpreter.
    _poll = None


def make_socket_probe(fileno):
    """
    Return a callable without arguments that returns something true if there
    is something to be read from a descriptor, be it the end, or if it can't
    be told.
    """
    if _poll is not None:
        poll_fd = _PollFD(fileno, select.POLLIN, 0)
        # -1, for an error, is true as well.
        return partial(_poll, ctypes.byref(poll_fd), 1, 0)
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(fileno, select.POLLIN)
        return partial(poll.poll, 0)
    return lambda: select.select([fileno], [], [], 0)[0]
