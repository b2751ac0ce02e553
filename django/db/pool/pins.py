"""
What keeps a connection with its borrower under POOL["lease"] = "transaction".

Names, reasons and places, for people to read. What a pin leads to is decided
in policy.py.
"""

import logging
import sys
import threading
import time
import weakref

from .lease import Holder

logger = logging.getLogger("django.db.pool")

TRANSACTION = "transaction"
CURSOR = "cursor"
SERVER_SIDE_CURSOR = "server-side cursor"
SESSION_STATE = "session state"
RAW_CONNECTION = "raw connection"
REFERENCE = "reference"
EXPLICIT = "pinned()"
SHARED = "shared between threads"

# An open cursor is part of its statement. It's reported only if it stays open
# for longer, in seconds.
REPORT_CURSORS_AFTER = 0.05

# Modules that are on the way from the code that matters to a pin.
ON_THE_WAY = ("django.", "asgiref.", "contextlib", "threading", "concurrent.")


class Pin:
    """
    name: one of the names above.
    reason: what happened, in words.
    location: file, line and function of the code that did it, None if
        report_pins is off.
    since: when, on the clock of time.monotonic().
    """

    __slots__ = ("name", "reason", "location", "since")

    def __init__(self, name, reason, location=None):
        self.name = name
        self.reason = reason
        self.location = location
        self.since = time.monotonic()

    def __repr__(self):
        at = "" if self.location is None else f" at {self.location}"
        return f"<Pin {self.name}: {self.reason}{at}>"


class Holding:
    """
    Who holds a connection, and what pins it. The owner of a pool's slot: it
    mustn't refer to the borrower, which would never be found to be dead.
    """

    def __init__(self, wrapper):
        self.label = f"thread {threading.current_thread().name!r}"
        self.wrapper = weakref.ref(wrapper)
        # name -> Pin
        self.pins = {}
        # The id of what an open cursor's close() is -> a weak reference to
        # the cursor, see policy.py.
        self.cursors = {}

    def __str__(self):
        if not (pins := self.all_pins()):
            return self.label
        listed = "; ".join(f"{pin.name}, {pin.reason}" for pin in pins)
        return f"{self.label} (pinned: {listed})"

    @property
    def ident(self):
        """
        The identifier of the thread that uses the wrapper, None if there may
        be several.
        """
        wrapper = self.wrapper()
        if wrapper is None or wrapper._thread_sharing_count:
            return None
        return wrapper._thread_ident

    def all_pins(self):
        """Return the pins, open cursors among them, as a list."""
        pins = [*self.pins.copy().values()]
        for cursor in self.open_cursors():
            pins.append(cursor.close.pin or cursor.close.make_pin())
        return pins

    def open_cursors(self):
        """Return the cursors that are neither closed nor dropped."""
        cursors = [reference() for reference in self.cursors.copy().values()]
        return [cursor for cursor in cursors if cursor is not None]

    def clear(self):
        """Forget the pins with the lease."""
        self.pins.clear()
        self.cursors.clear()

    def end(self, pool_name, report):
        """Forget the pins with the lease. Report them if that's wanted."""
        if report:
            for pin in self.all_pins():
                report_pin(pin, pool_name)
        self.clear()


def holding_of(owner):
    """Return the Holding of a slot's owner, None if it has none."""
    # With leak_warning, it's wrapped.
    if isinstance(owner, Holder):
        owner = owner.label
    return owner if isinstance(owner, Holding) else None


def report_pin(pin, pool_name):
    """Log a pin that ends."""
    seconds = time.monotonic() - pin.since
    is_cursor = pin.name in (CURSOR, SERVER_SIDE_CURSOR)
    if is_cursor and seconds < REPORT_CURSORS_AFTER:
        return
    logger.warning(
        "A connection of pool %r was pinned for %.3f s by: %s (%s), which began at %s",
        pool_name,
        seconds,
        pin.name,
        pin.reason,
        pin.location,
    )


def find_location():
    """
    Return file, line and function of the innermost code that isn't Django's.
    """
    frame = innermost = sys._getframe(1)
    while frame is not None and is_on_the_way(frame):
        frame = frame.f_back
    frame = frame or innermost
    code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}"


def is_on_the_way(frame):
    return frame.f_globals.get("__name__", "").startswith(ON_THE_WAY)
