"""
What a connection pool must ask of a database driver.

The defaults work for any PEP 249 driver. A backend overrides what its driver
can do better or cheaper. There are no locks here, and no pool.
"""

import copy
import logging
import math
import os
import select
import socket
import time
import traceback
from contextlib import contextmanager
from functools import partial

from django.db import connections
from django.db.backends.base.statements import (
    INTERRUPTED,
    SESSION,
    TRANSACTION,
    StatementJudge,
)
from django.db.backends.signals import connection_created
from django.utils.functional import cached_property

logger = logging.getLogger("django.db.pool")

try:
    from sys import getrefcount as count_references
except ImportError:
    # Not CPython. It's neither more nor fewer than any other number.
    def count_references(connection):
        return math.nan


# Seconds that a server has for an answer at least, however near the deadline
# of who waits for it.
SHORTEST_LIMIT = 1.0


class Session:
    """
    What a pool keeps with each connection, from opening to closing.

    attributes: what opening set on the wrapper, for the wrappers that borrow
        the connection later.
    probe: a callable without arguments that returns something true if there's
        reason to doubt that the connection is alive, or None.
    watch: a callable without arguments that returns whether the connection is
        as it was when it was opened, as far as the driver can tell, or None.
    driver_state: what the driver keeps on its side, see read_driver_state().
    references: how many references there are to the connection while nobody
        but the pool and a wrapper has one.
    """

    __slots__ = ("attributes", "probe", "watch", "driver_state", "references")

    def __init__(
        self,
        attributes=None,
        probe=None,
        watch=None,
        driver_state=None,
        references=0,
    ):
        self.attributes = attributes
        self.probe = probe
        self.watch = watch
        self.driver_state = driver_state
        self.references = references


class Aftermath:
    """
    How a wrapper left a connection that can't be made clean without an answer
    of the server. Stands for its Borrower when make_clean() is called again.

    must_reset: whether its session has to be reset afterwards, None if that's
        to be found out then.
    attributes: those of the wrapper that make_clean() reads.
    is_over: whether it was made clean.
    """

    __slots__ = (
        "traces",
        "autocommit",
        "must_reset",
        "attributes",
        "is_over",
    )
    may_wait = True

    def __init__(self, wrapper, borrower, must_reset):
        self.traces = borrower.traces
        self.autocommit = borrower.autocommit
        self.must_reset = must_reset
        self.attributes = {
            "autocommit": wrapper.autocommit,
            "errors_occurred": wrapper.errors_occurred,
        }
        self.is_over = False


class BaseDatabasePooling:
    """
    Encapsulate backend-specific differences pertaining to pooled connections.

    There is one instance per pool, used by all threads. It keeps no wrapper:
    a wrapper is passed in where one is at hand, else the driver's connection.
    """

    # The connection parameter that limits the time to connect, in seconds, if
    # the driver has one, and the least that it understands.
    connect_timeout_param = None
    min_connect_timeout = 1

    # Attributes of the wrapper that opening a connection sets, as far as they
    # are known in advance. Those of third-party backends are found out.
    wrapper_attributes = ()

    # Tells what a statement may leave behind.
    statement_judge = StatementJudge(["SELECT", "INSERT", "UPDATE", "DELETE"])

    # Methods of the backend's wrappers whose work is part of reset(), and the
    # module that they are in.
    initializing_methods = ()
    backend_module = None

    # Whether a rollback waits for a server.
    has_server = True

    # Seconds that a reset may take before the connection is given up.
    reset_timeout = 5.0

    # Class of wrappers -> what's known of their attributes. One that was set
    # before, to the same value, isn't seen to be set again.
    known_attributes = {}

    def __init__(self, wrapper):
        # Not imported without a pool.
        from django.db.pool.registry import snapshot

        self.wrapper_class = type(wrapper)
        self.alias = wrapper.alias
        # Not the dictionary itself, which may come to describe another pool.
        # What the options hold can't always be copied, an SSLContext for one.
        self.settings_dict = snapshot(wrapper.settings_dict)
        self.attribute_names = self.known_attributes.setdefault(
            self.wrapper_class, set(self.wrapper_attributes)
        )
        # What attributes_set() returned last.
        self.last_attributes = None

    @classmethod
    def can_pool(cls, wrapper):
        """Return whether connections of a wrapper can be shared at all."""
        return True

    @classmethod
    def is_of_one_thread(cls, wrapper):
        """
        Return whether a wrapper of another thread would find another database.
        """
        return False

    def make_wrapper(self):
        """Return a wrapper for a task that no borrower has a part in."""
        return self.wrapper_class(self.settings_dict, self.alias)

    # ##### Opening #####

    def open_with(self, wrapper, timeout):
        """
        Have a wrapper open a connection and initialize it. Return a Session.

        timeout: seconds that this should take at most.
        """
        end = time.monotonic() + timeout
        before = wrapper.__dict__.copy()
        conn_params = wrapper.get_connection_params()
        self.adapt_params(conn_params, timeout)
        wrapper.connection = wrapper.get_new_connection(conn_params)
        left = max(end - time.monotonic(), SHORTEST_LIMIT)
        with self.time_limit(wrapper.connection, left):
            wrapper._initialize_connection()
        return Session(
            self.attributes_set(wrapper, before),
            self.make_probe(wrapper.connection),
            self.make_watch(wrapper.connection),
            self.copy_driver_state(wrapper.connection),
            # The pool will have one more.
            count_references(wrapper.connection) + 1,
        )

    def open(self, timeout):
        """
        Open a connection for whoever comes next. Return it with its Session.
        """
        wrapper = self.make_wrapper()
        try:
            with self.as_the_alias(wrapper):
                session = self.open_with(wrapper, timeout)
            with self.time_limit(wrapper.connection, SHORTEST_LIMIT):
                self.commit_initialization(wrapper)
        except BaseException as e:
            if wrapper.connection is not None:
                self.close_quietly(wrapper.connection)
            self.let_go(e)
            raise
        finally:
            connection, wrapper.connection = wrapper.connection, None
        return connection, session

    def let_go(self, error):
        """
        See to it that an exception met on opening a connection doesn't keep a
        half-open one alive: its slot is about to serve another. The frames of
        the driver's connect() refer to that, and they are often part of a
        reference cycle. Others keep their variables, to be looked at.
        """
        driver = self.wrapper_class.Database.__name__.partition(".")[0]
        seen = set()
        while error is not None and error not in seen:
            seen.add(error)
            for frame, _ in traceback.walk_tb(error.__traceback__):
                module = frame.f_globals.get("__name__", "")
                if module.partition(".")[0] in (driver, "socket"):
                    try:
                        frame.clear()
                    except RuntimeError:
                        # It's still running.
                        pass
            error = error.__cause__ or error.__context__

    def cancel_query(self, connection):
        """
        Ask the server to cancel what runs on a connection, which another
        thread is using. Nothing of it may come later than the return of this.
        """

    def is_connect_error(self, error):
        """
        Return whether an exception met on opening a connection is the
        server's or the driver's, and not one that came by chance, such as
        KeyboardInterrupt.
        """
        return isinstance(error, self.wrapper_class.Database.Error)

    def adapt_params(self, conn_params, timeout):
        """Change the parameters for connecting to what the pool needs."""
        self.limit_connect_time(conn_params, timeout)

    def limit_connect_time(self, conn_params, timeout):
        """Have the driver give up connecting after a timeout in seconds."""
        if (name := self.connect_timeout_param) is None:
            return
        # Drivers take whole seconds.
        limit = max(self.min_connect_timeout, math.ceil(min(timeout, 86400)))
        own = int(conn_params.get(name) or 0)
        # Drivers take 0 and less for no limit.
        conn_params[name] = min(own, limit) if own > 0 else limit

    def attributes_set(self, wrapper, before):
        """
        Return the attributes of a wrapper that opening a connection sets, the
        isolation level for one. A wrapper that borrows the connection needs
        them too. What all wrappers have isn't among them, nor is what's
        computed when it's first asked for. It's the same dictionary as the
        last time if nothing else is in it.
        """
        missing = object()
        for name, value in wrapper.__dict__.items():
            if (
                before.get(name, missing) is not value
                and name not in self._common_attributes
                and not isinstance(
                    getattr(self.wrapper_class, name, None), cached_property
                )
            ):
                self.attribute_names.add(name)
        found = {
            name: wrapper.__dict__[name]
            for name in self.attribute_names
            if name in wrapper.__dict__
        }
        if found != self.last_attributes:
            self.last_attributes = found
        return self.last_attributes

    @cached_property
    def _common_attributes(self):
        from django.db.backends.dummy.base import DatabaseWrapper

        return {*vars(DatabaseWrapper({})), "_borrower"}

    # ##### Testing #####

    def make_probe(self, connection):
        """
        Return a callable that tells, without a round trip, whether there's
        reason to doubt that an idle connection is alive. None if the driver
        offers nothing to look at.

        By default, the socket is looked at. While a connection is idle, the
        server has nothing to say: if there is something to read, it's most
        likely the end of the connection.
        """
        fileno = self.get_fileno(connection)
        if fileno is None:
            return None
        if not hasattr(select, "poll"):
            return lambda: select.select([fileno], [], [], 0)[0]
        poll = select.poll()
        poll.register(fileno, select.POLLIN)
        return partial(poll.poll, 0)

    def get_fileno(self, connection):
        """
        Return the descriptor of a connection's socket, None if unknown.
        """
        try:
            fileno = connection.fileno()
        except Exception:
            return None
        return fileno if isinstance(fileno, int) and fileno >= 0 else None

    def is_fit(self, wrapper, slot, check, timeout):
        """
        Return whether the idle connection that a wrapper was just given can
        be used. Ask the server if there's reason to doubt, or if the pool's
        ``check`` option says so.

        timeout: seconds that the server has for an answer.
        """
        if (probe := slot.session.probe) is not None and probe():
            ask = partial(self.check_in_doubt, wrapper)
        elif callable(check):
            ask = partial(self.check_by, check, wrapper)
        elif check is True or (
            check is not False and slot.leased_at - slot.idle_since >= check
        ):
            ask = wrapper.is_usable
        else:
            return True
        with self.time_limit(wrapper.connection, timeout) as limit:
            fit = ask()
        return fit and not limit.exceeded

    def check_by(self, check, wrapper):
        """Return whether a callable has no objection to a connection."""
        try:
            check(wrapper.connection)
        except Exception:
            return False
        return True

    def check_in_doubt(self, wrapper):
        """Return whether a connection works that its probe doubts."""
        return wrapper.is_usable()

    # ##### Giving back #####

    def make_watch(self, connection):
        """
        Return a callable that tells whether a connection that comes back is
        as it was when it was opened: not in a transaction, no answer still to
        be read, the driver's state unchanged. It's a short cut past
        make_clean() and needs_reset(), for the borrowers who leave nothing to
        do. It must not refer to the connection itself: see is_held(). None if
        the driver offers no cheap way, or if there may be an open cursor that
        doesn't refer to its connection.
        """
        return None

    def in_transaction(self, connection):
        """
        Return whether a transaction is open, or an answer still to be read,
        without asking the server. None if the driver doesn't know.
        """
        return None

    def rollback(self, connection):
        """Roll back an open transaction, whoever began it."""
        connection.rollback()

    def is_held(self, wrapper, session):
        """
        Return whether somebody else holds on to a wrapper's connection: the
        driver's connection itself, or a cursor of it. Nothing could keep them
        from using it while it's another borrower's.
        """
        return count_references(wrapper.connection) > session.references

    def make_clean(self, wrapper, borrower):
        """
        Bring a wrapper's connection back to the state in which it was
        borrowed. Return False if that can't be done, None if it takes an
        answer of the server and isn't to wait.

        borrower: says what happened to the connection meanwhile, and whether
            this may_wait.
        """
        connection = wrapper.connection
        in_transaction = self.in_transaction(connection)
        if in_transaction is None:
            if borrower.traces & INTERRUPTED:
                # Nobody knows whether an answer is still to be read.
                return False
            in_transaction = borrower.traces & TRANSACTION or not wrapper.autocommit
        if in_transaction or wrapper.errors_occurred:
            if self.has_server and not borrower.may_wait:
                return None
            if in_transaction:
                self.rollback(connection)
            if wrapper.errors_occurred and not wrapper.is_usable():
                return False
        if wrapper.autocommit is not borrower.autocommit:
            wrapper._set_autocommit(borrower.autocommit)
        return True

    def end_cursor(self, cursor):
        """
        Close a cursor, the driver's or the backend's own, that somebody still
        holds.
        """
        cursor.close()

    def copy_closed_cursor(self, cursor, copy):
        """
        Set attributes of a copy to what's still read of a driver's cursor
        after it was closed. They must not lead to the connection.
        """
        copy.description = cursor.description
        copy.rowcount = cursor.rowcount
        copy.lastrowid = getattr(cursor, "lastrowid", None)

    # ##### Resetting the session #####

    def read_driver_state(self, connection):
        """
        Return what borrowers can change on the driver's side of a connection,
        row factories for one, as a tuple to be compared. It's read whenever a
        connection is given back, so it must be cheap. None for nothing.
        """
        return None

    def copy_driver_state(self, connection):
        """
        Return what read_driver_state() does, safe from changes in place. What
        its lists and dictionaries hold isn't copied: it's compared faster if
        it's identical.
        """
        state = self.read_driver_state(connection)
        if isinstance(state, tuple):
            state = tuple(map(copy.copy, state))
        return state

    def needs_reset(self, wrapper, session, traces):
        """
        Return whether a borrower may have changed the session's state.

        traces: bits of what its statements may have left behind.
        """
        return (
            traces & SESSION
            or self.read_driver_state(wrapper.connection) != session.driver_state
        )

    def reset(self, wrapper, session):
        """
        Bring back the state of a wrapper's connection after it was opened and
        initialized. Return False if that can't be done; the connection is
        closed then.
        """
        return False

    def reset_in_time(self, connection, session, how=None, left=None):
        """
        Reset a connection that nobody uses within a time limit. Return
        whether that worked.

        how: a callable that takes the driver's connection, in place of
            reset().
        left: an Aftermath if it has to be made clean first. Its session is
            only reset if need be then.
        """
        wrapper = self.make_wrapper()
        wrapper.connection = connection
        wrapper.autocommit = self.settings_dict["AUTOCOMMIT"]
        if session.attributes:
            wrapper.__dict__.update(session.attributes)
        try:
            with self.time_limit(connection, self.reset_timeout) as limit:
                succeeded = self._reset(wrapper, session, how, left)
        finally:
            wrapper.connection = None
        return succeeded and not limit.exceeded

    def _reset(self, wrapper, session, how, left):
        if left is not None:
            wrapper.__dict__.update(left.attributes)
            left.is_over = self.make_clean(wrapper, left)
            if not left.is_over:
                return False
            must_reset = left.must_reset
            if must_reset is None:
                must_reset = self.needs_reset(wrapper, session, left.traces)
            if not must_reset:
                return True
        if how is None:
            with self.as_the_alias(wrapper):
                return self.reset(wrapper, session)
        how(wrapper.connection)
        if self.in_transaction(wrapper.connection) is not False:
            self.rollback(wrapper.connection)
        return True

    @contextmanager
    def as_the_alias(self, wrapper):
        """
        Have a wrapper stand for its alias in this thread: receivers of
        connection_created may use the alias instead of the wrapper.
        """
        previous = getattr(connections._connections, self.alias, None)
        connections[self.alias] = wrapper
        try:
            yield
        finally:
            if previous is None:
                del connections[self.alias]
            else:
                connections[self.alias] = previous

    def initialize_again(self, wrapper):
        """Set again what a full reset has undone."""
        if not self.has_own_initialization:
            wrapper.init_connection_state()
        if connection_created.has_listeners(self.wrapper_class):
            connection_created.send(sender=self.wrapper_class, connection=wrapper)
        self.commit_initialization(wrapper)

    def commit_initialization(self, wrapper):
        """See to it that a connection isn't idle in a transaction."""
        if not wrapper.settings_dict["AUTOCOMMIT"]:
            wrapper.connection.commit()

    @cached_property
    def has_own_initialization(self):
        """
        Return whether wrappers initialize their connections as the backend
        does, none of whose initializing_methods is overridden: reset() has
        done all of it then.
        """
        return bool(self.initializing_methods) and all(
            getattr(self.wrapper_class, name).__module__ == self.backend_module
            for name in self.initializing_methods
        )

    def time_limit(self, connection, seconds):
        """
        Return a context manager that cuts a connection if the block, which
        waits for its server, takes longer than some seconds.
        """
        # Not imported without a pool.
        from django.db.pool.watch import time_limit

        # The descriptor is asked for now: drivers don't tell while the
        # connection is in use.
        fileno = self.get_fileno(connection)
        abort = None if fileno is None else partial(self.abort, fileno)
        return time_limit(seconds, abort)

    def abort(self, fileno):
        """
        Let go of a server that doesn't answer, while another thread waits for
        it: cut the connection, so that the driver gives up.
        """
        try:
            with socket.socket(fileno=os.dup(fileno)) as sock:
                sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            # It's cut already.
            pass

    # ##### Closing #####

    def close(self, connection):
        """Close a connection that nobody uses."""
        from .base import BaseDatabaseWrapper

        if self.wrapper_class._close is BaseDatabaseWrapper._close:
            connection.close()
        else:
            wrapper = self.make_wrapper()
            wrapper.connection = connection
            wrapper._close()

    def close_quietly(self, connection):
        try:
            self.close(connection)
        except Exception as e:
            logger.debug("Closing a connection of %r: %s", self.alias, e)

    # ##### After a fork, in the child #####

    def forget(self, connection):
        """
        Let go of a connection of the parent process without a word to the
        server, for which the session goes on.

        By default, the child's descriptor is pointed to the null device, then
        the connection is closed: whatever the driver has to say ends there.
        """
        fileno = self.get_fileno(connection)
        if fileno is None:
            self.keep_forever(connection)
            return
        try:
            null = os.open(os.devnull, os.O_RDWR)
        except OSError:
            # There's none where the process was jailed, or no descriptor.
            self.keep_forever(connection)
            return
        try:
            os.dup2(null, fileno)
        finally:
            os.close(null)
        self.close_quietly(connection)

    def keep_forever(self, connection):
        """
        See to it that a connection of the parent process isn't destructed in
        this one, not even when the process ends: destructors close.
        """
        self.kept.append(connection)
        try:
            from ctypes import py_object, pythonapi
        except ImportError:
            return
        # A reference that's never given back, unlike the list's.
        pythonapi.Py_IncRef(py_object(connection))

    kept = []
