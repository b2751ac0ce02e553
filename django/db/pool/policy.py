"""
When a wrapper gives its connection back: the policies behind POOL["lease"].

A policy keeps nothing itself. What it needs to know of a lease is with the
wrapper's Borrower and the Holding that tells others about it.
"""

import sys
import weakref
from _thread import get_ident
from functools import lru_cache

from django.db.backends.base import base
from django.db.backends.base.pooling import count_references
from django.db.backends.base.statements import ANYTHING, SESSION, TRANSACTION

from .pins import (
    CURSOR,
    EXPLICIT,
    RAW_CONNECTION,
    REFERENCE,
    SERVER_SIDE_CURSOR,
    SESSION_STATE,
    SHARED,
)
from .pins import TRANSACTION as OPEN_TRANSACTION
from .pins import Pin, find_location, logger, report_pin

# They ask whether there's a connection, and do without.
ASKING_MODULES = frozenset(
    [
        "django.db.backends.base.base",
        "django.contrib.postgres.apps",
        "django.db.pool.giving_back",
        "django.test.testcases",
    ]
)
# The next connection is one of a pool with the right time zone.
ASKING_FUNCTIONS = frozenset(["ensure_timezone"])
# What may be between a wrapper and whoever uses it.
MODULES_BETWEEN = frozenset(
    ["django.utils.asyncio", "django.utils.connection", "django.test.testcases"]
)
WRAPPER_GLOBALS = vars(base)


class LentConnection:
    """
    The attribute ``connection`` of a wrapper while its dictionary doesn't
    have it, which a policy sees to.
    """

    def __get__(self, wrapper, owner=None):
        if wrapper is None:
            return self
        if (borrower := wrapper._borrower) is None:
            raise AttributeError("connection")
        return borrower.policy.asked(borrower, wrapper, sys._getframe(1))


class RequestPolicy:
    """A wrapper gives back when it's closed."""

    # Whether a connection may go and come while the wrapper isn't closed.
    per_statement = False

    def prepare(self):
        """A pool with this policy is used."""

    def watch(self, borrower, wrapper, cursor, is_on_server):
        """A cursor was made."""

    def note(self, borrower, sql, traces):
        """A statement is about to be executed that may leave traces."""

    def ensured(self, borrower, wrapper):
        """The wrapper's ensure_connection() was called."""

    def rest(self, borrower, wrapper):
        """The wrapper doesn't need its connection just now."""

    def end(self, borrower, wrapper):
        """The wrapper is about to be closed."""

    def pin(self, borrower, wrapper, name, reason):
        """Keep the connection from now on."""

    def unpin(self, borrower, wrapper, name):
        """Undo pin()."""


class TransactionPolicy(RequestPolicy):
    """
    A wrapper gives back when a statement is over, its cursors closed or
    dropped, unless something pins the connection.

    While a wrapper has a lease, its attribute ``connection`` is kept out of
    its dictionary. So it's seen whether anybody but the backend asks for it,
    see asked(). The same goes on when the connection was given back, until
    the wrapper is closed: it looks connected to all but the backend's own
    methods, which see None and borrow, as they do without a pool.
    """

    per_statement = True

    def prepare(self):
        # Not without need: for attributes of which the class has one, too,
        # Python takes longer.
        if not hasattr(base.BaseDatabaseWrapper, "connection"):
            base.BaseDatabaseWrapper.connection = LentConnection()

    # ##### Cursors #####

    def watch(self, borrower, wrapper, cursor, is_on_server):
        borrower.is_borrowing = False
        borrower.asks_why = True
        if (lease := borrower.lease) is None:
            # The connection is still being initialized.
            return
        cursor.close = OpenCursor(borrower, cursor, is_on_server)
        attributes = wrapper.__dict__
        try:
            connection = lease._slot.connection
        except AttributeError:
            # Somebody else has ended it.
            attributes.pop("connection", None)
            return
        # hide(), without the call.
        if attributes.get("connection") is connection:
            del attributes["connection"]

    # ##### The attribute #####

    def hide(self, borrower, wrapper):
        """Have asked() answer for the wrapper's attribute."""
        # Tests replace it.
        if wrapper.__dict__.get("connection") is borrower.lease.slot.connection:
            del wrapper.__dict__["connection"]

    def asked(self, borrower, wrapper, frame):
        """
        Return what a wrapper's attribute ``connection`` is for the code of a
        frame.
        """
        lease = borrower.lease
        if frame.f_globals is WRAPPER_GLOBALS and lease is None:
            # What happens most often.
            return None
        slot = lease and lease.slot
        connection = slot and slot.connection
        module = frame.f_globals.get("__name__", "")
        if module == "django.utils.connection":
            # django.db.connection stands for the wrapper.
            module = frame.f_back.f_globals.get("__name__", "")
        if not may_use(wrapper):
            return connection
        if is_backend(module, type(wrapper)):
            if (
                connection is not None
                or module in ASKING_MODULES
                or frame.f_code.co_name in ASKING_FUNCTIONS
            ):
                return connection
        if connection is None:
            # Not ensure_connection(): tests replace it by what asks here.
            with wrapper.wrap_database_errors:
                if not borrower.borrow(wrapper, True):
                    wrapper.connect()
            borrower = wrapper._borrower
            connection = borrower.lease.slot.connection
        self.pin(borrower, wrapper, RAW_CONNECTION, "connection.connection was read")
        borrower.is_exposed = True
        self.hide(borrower, wrapper)
        return connection

    def ensured(self, borrower, wrapper):
        # Who called ensure_connection().
        frame = sys._getframe(3)
        if frame.f_globals is not WRAPPER_GLOBALS:
            module = module_of(sys._getframe(2))
            if not is_backend(module, type(wrapper)):
                reason = "ensure_connection() was called"
                self.pin(borrower, wrapper, RAW_CONNECTION, reason)
                self.hide(borrower, wrapper)
                return
        borrower.is_borrowing = True

    # ##### Pins #####

    def pin(self, borrower, wrapper, name, reason):
        pins = borrower.holding.pins
        if name not in pins:
            pins[name] = Pin(
                name, reason, find_location() if borrower.report_pins else None
            )
            borrower.pool.count_pin(name)

    def unpin(self, borrower, wrapper, name):
        pin = borrower.holding.pins.pop(name, None)
        if pin is not None and borrower.report_pins:
            report_pin(pin, borrower.pool.name)

    def note(self, borrower, sql, traces):
        # What initializes a connection is part of it.
        if traces & SESSION and borrower.lease is not None:
            wrapper = borrower.wrapper()
            if SESSION_STATE not in borrower.holding.pins:
                warn_of_pooler(borrower, wrapper, sql)
            self.pin(borrower, wrapper, SESSION_STATE, f"after {shorten(sql)}")

    # ##### Giving back #####

    def rest(self, borrower, wrapper):
        """Give back, unless something pins the connection."""
        lease = borrower.lease
        holding = borrower.holding
        if lease is None:
            return
        try:
            slot = lease._slot
        except AttributeError:
            # Somebody else has ended it.
            return
        if holding.cursors:
            self.is_in_transaction(borrower, wrapper, slot)
            return
        if holding.pins:
            if wrapper.in_atomic_block and OPEN_TRANSACTION in holding.pins:
                self.hide(borrower, wrapper)
                return
        elif (
            # What give_back() asks to find that there's nothing to do.
            not borrower.traces
            and wrapper.autocommit
            and borrower.autocommit
            and not wrapper.in_atomic_block
            and not wrapper.errors_occurred
            and not borrower.pin_depth
            and not wrapper._thread_sharing_count
            and not borrower.reset_always
            # The attribute's own reference is missing here.
            and count_references(slot.connection) < slot.session.references
            and (
                is_unchanged(borrower, wrapper, slot)
                if (watch := slot.session.watch) is None
                else watch()
            )
        ):
            wrapper.__dict__.pop("connection", None)
            borrower.lease = None
            borrower.is_ready = True
            borrower.pool.release(lease)
            return
        attributes = wrapper.__dict__
        if attributes.setdefault("connection", slot.connection) is not slot.connection:
            # Replaced by a test.
            return
        if self.is_pinned(borrower, wrapper, slot):
            self.hide(borrower, wrapper)
        else:
            borrower.give_back(wrapper)
            del attributes["connection"]

    def is_in_transaction(self, borrower, wrapper, slot):
        """Pin the connection if there's a transaction, or unpin it."""
        if (
            wrapper.in_atomic_block
            or wrapper.autocommit is not borrower.autocommit
            or not wrapper.autocommit
        ):
            self.pin(borrower, wrapper, OPEN_TRANSACTION, "autocommit is off")
            return True
        in_transaction = borrower.pool.pooling.in_transaction(slot.connection)
        if in_transaction is None:
            # What may leave anything is known to the pin of session state.
            in_transaction = borrower.traces & ANYTHING == TRANSACTION
        if in_transaction:
            self.pin(borrower, wrapper, OPEN_TRANSACTION, "begun by SQL")
            return True
        if OPEN_TRANSACTION in borrower.holding.pins:
            self.unpin(borrower, wrapper, OPEN_TRANSACTION)
        return False

    def is_pinned(self, borrower, wrapper, slot):
        pins = borrower.holding.pins
        pooling = borrower.pool.pooling
        if self.is_in_transaction(borrower, wrapper, slot):
            return True
        if borrower.pin_depth:
            self.pin(borrower, wrapper, EXPLICIT, "inside of pinned()")
        if wrapper._thread_sharing_count:
            # Another thread may be about to use it.
            self.pin(borrower, wrapper, SHARED, "inc_thread_sharing() was called")
        else:
            self.unpin(borrower, wrapper, SHARED)
        if SESSION_STATE not in pins and pooling.needs_reset(
            wrapper, slot.session, borrower.traces
        ):
            self.pin(borrower, wrapper, SESSION_STATE, "attributes of the driver")
        if pins.keys() - {REFERENCE}:
            return True
        if borrower.is_held(wrapper, slot.session):
            # For one, by the traceback of an exception.
            reason = "somebody refers to the driver's connection or a cursor"
            self.pin(borrower, wrapper, REFERENCE, reason)
            return True
        self.unpin(borrower, wrapper, REFERENCE)
        return False

    def end(self, borrower, wrapper):
        if (lease := borrower.lease) is not None and (slot := lease.slot) is not None:
            wrapper.__dict__.setdefault("connection", slot.connection)
        for cursor in borrower.holding.open_cursors():
            borrower.remember(cursor)
        if borrower.is_exposed:
            # Nobody knows what was done to the driver's connection.
            borrower.traces |= SESSION
            borrower.is_exposed = False
        borrower.holding.end(borrower.pool.name, borrower.report_pins)


POLICIES = {"request": RequestPolicy(), "transaction": TransactionPolicy()}


class OpenCursor:
    """
    Takes the place of the close() of a cursor. When it's called, or dropped
    together with the cursor, the statement is over.
    """

    __slots__ = ("borrower", "cursor", "is_on_server", "pin")

    def __init__(self, borrower, cursor, is_on_server):
        self.borrower = borrower
        self.is_on_server = is_on_server
        self.cursor = reference = weakref.ref(cursor)
        self.pin = None
        if borrower.report_pins:
            self.pin = self.make_pin(find_location())
        borrower.holding.cursors[id(self)] = reference

    def make_pin(self, location=None):
        name = SERVER_SIDE_CURSOR if self.is_on_server else CURSOR
        return Pin(name, "not closed yet", location)

    def __call__(self):
        if (cursor := self.cursor()) is None:
            # The garbage collector clears references before it closes the
            # generators that iterate. What's left to do, __del__() does.
            return None
        if (borrower := self.borrower) is None:
            # Called again.
            return cursor.cursor.close()
        self.borrower = None
        cursors = borrower.holding.cursors
        if id(self) not in cursors:
            # The lease has ended before.
            return cursor.cursor.close()
        wrapper = borrower.wrapper()
        try:
            return cursor.cursor.close()
        finally:
            del cursors[id(self)]
            if self.pin is not None:
                report_pin(self.pin, borrower.pool.name)
            # may_use(), without the call.
            if wrapper._thread_ident == get_ident() or wrapper.allow_thread_sharing:
                closed = ClosedCursor()
                closed._features = wrapper.features
                borrower.pool.pooling.copy_closed_cursor(cursor.cursor, closed)
                cursor.cursor = closed
                borrower.policy.rest(borrower, wrapper)

    def __del__(self):
        if (borrower := self.borrower) is None:
            # It was called.
            return
        try:
            cursors = borrower.holding.cursors
            if id(self) not in cursors:
                return
            del cursors[id(self)]
            if self.is_on_server:
                # There it's still open.
                borrower.traces |= SESSION
            # The garbage collector may run anywhere: nothing that's under way
            # may lose its connection. Then the next statement gives back.
            wrapper = borrower.wrapper()
            if wrapper is not None and may_use(wrapper) and not borrower.is_borrowing:
                if self.pin is not None:
                    report_pin(self.pin, borrower.pool.name)
                borrower.policy.rest(borrower, wrapper)
        except Exception:
            # The interpreter is shutting down, its modules are gone.
            pass


class ClosedCursor:
    """
    What's left of a driver's cursor that was closed, and whose connection may
    be another borrower's by now.
    """

    closed = True
    description = None
    rowcount = -1

    def close(self):
        pass

    def _refuse(self):
        raise self._features.closed_cursor_error_class("The cursor is closed.")

    def __getattr__(self, name):
        self._refuse()

    def __iter__(self):
        self._refuse()


def may_use(wrapper):
    """Return whether this thread may use a wrapper's connection."""
    return wrapper._thread_ident == get_ident() or wrapper.allow_thread_sharing


def is_unchanged(borrower, wrapper, slot):
    """Do what Session.watch does, where there's none."""
    session = slot.session
    pooling = borrower.pool.pooling
    wrapper.connection = slot.connection
    return not (
        pooling.in_transaction(slot.connection)
        or pooling.needs_reset(wrapper, session, borrower.traces)
    )


@lru_cache(maxsize=None)
def backend_modules(wrapper_class):
    """Return the names of the modules that make up a backend."""
    classes = {*wrapper_class.__mro__}
    for name in (
        "client_class",
        "creation_class",
        "features_class",
        "introspection_class",
        "ops_class",
        "pooling_class",
        "validation_class",
        "SchemaEditorClass",
    ):
        classes.update(getattr(getattr(wrapper_class, name, None), "__mro__", ()))
    return frozenset(klass.__module__ for klass in classes)


def is_backend(module, wrapper_class):
    """Return whether a module is part of Django or of a wrapper's backend."""
    return module.startswith("django.") or module in backend_modules(wrapper_class)


def module_of(frame):
    """Return the name of the module that a call comes from."""
    while (module := frame.f_globals.get("__name__", "")) in MODULES_BETWEEN:
        frame = frame.f_back
    return module


def shorten(sql):
    """Return the beginning of a statement, which holds no data as a rule."""
    words = str(sql).split(None, 4)[:3]
    return repr(" ".join(words)[:60])


_warned = set()


def warn_of_pooler(borrower, wrapper, sql):
    """
    Warn, once for each kind of statement, of session state that PgBouncer
    loses in transaction mode. DISABLE_SERVER_SIDE_CURSORS says that it may
    be there: that's what Django's documentation asks for behind it.
    """
    if (
        wrapper is None
        or wrapper.vendor != "postgresql"
        or not wrapper.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS")
    ):
        return
    what = shorten(sql)
    if (key := (borrower.pool.name, what)) in _warned:
        return
    _warned.add(key)
    logger.warning(
        "Pool %r: %s changes the state of the session. A pooler in transaction mode "
        "between Django and the server, such as PgBouncer, runs the next statement "
        "in another session, where that state is missing. It's kept for a "
        "transaction with SET LOCAL, or for a user with ALTER ROLE ... SET. %s",
        borrower.pool.name,
        what,
        find_location(),
    )
