"""
A database wrapper's side of its pool.

A wrapper has one Borrower for as long as its settings stay what they are. It
holds at most one lease, from the wrapper's connect() to its close().
"""

import logging
import threading
from contextlib import contextmanager, suppress
from weakref import ref

# Needed by the first to connect, too late for a process that forks meanwhile.
import django.db.backends.dummy.base  # NOQA: F401
from django.db.async_routing import current_operation, note_reference
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.pooling import (
    SHORTEST_LIMIT,
    Aftermath,
    count_references,
)
from django.db.backends.base.statements import INTERRUPTED, SESSION
from django.db.backends.utils import CursorWrapper

from . import calls
from .exceptions import PoolClosed
from .handles import CloseOnServer, EndedConnection, EndedCursor
from .lease import Holder
from .pins import EXPLICIT, Holding
from .policy import POLICIES
from .registry import close_left_behind, pool_for, snapshot
from .state import DEAD, UNCLEAN
from .thread_ends import end_with_thread

logger = logging.getLogger("django.db.pool")

CONNECT = BaseDatabaseWrapper.connect

# Handles are looked through for dead ones when there are this many, and then
# whenever their number has doubled.
MANY_HANDLES = 64

# Classes of the drivers' cursors, which have no other cursor inside and can be
# referred to weakly.
innermost_cursors = set()


def borrower_for(wrapper):
    """Return a new Borrower for a wrapper, None if it has no pool."""
    borrower = Borrower(wrapper)
    borrower.pool = pool = pool_for(wrapper, borrower)
    if pool is None:
        return None
    borrower.judge = pool.pooling.statement_judge
    borrower.trusting = pool.options.check is False
    if pool.options.reset != "auto":
        borrower.reset_always = pool.options.reset != "never"
    borrower.leak_warning = pool.options.leak_warning
    borrower.policy = POLICIES[pool.options.lease]
    borrower.policy.prepare()
    borrower.per_statement = borrower.asks_why = borrower.policy.per_statement
    borrower.report_pins = pool.options.report_pins
    borrower.is_noted = pool.options.concurrent_async
    borrower.tells = borrower.is_noted or borrower.in_executor
    return borrower


def _may_be_open(handle):
    cursor = handle()
    if not isinstance(cursor, CursorWrapper):
        return False
    # How drivers tell. Where they don't, it's known of those that are dropped.
    inner = cursor.cursor
    return not getattr(inner, "closed", False) and (
        getattr(inner, "connection", inner) is not None
    )


class Borrower:
    """What a wrapper knows of its pool, and the lease that it holds."""

    # Whether make_clean() may wait for the server: not on the way of whoever
    # gives back.
    may_wait = False

    # A weak reference to the future of the call that borrowed, in a thread of
    # an executor.
    call = None

    # CPython has a quick way to no more than 30 attributes of an instance.
    def __init__(self, wrapper):
        self.pool = None
        self.lease = None
        # Tells what a statement may leave behind.
        self.judge = None
        # Whether an idle connection is fine if its probe has no doubts.
        self.trusting = False
        # Whether the wrapper is as its connect() leaves it, but for the
        # connection: see borrow().
        self.is_ready = False
        # Whether the session is reset whatever was done, None if what was
        # done decides.
        self.reset_always = None
        self.leak_warning = None
        # Whether asynchronous code asks which wrappers its callers use.
        self.is_noted = False
        # Whether the thread goes on to live after a call that borrows.
        self.in_executor = calls.is_in_executor()
        # Whether either is so.
        self.tells = False
        # The settings that the pool was chosen by: see is_current().
        self.settings = snapshot(wrapper.settings_dict)
        if "TEST" in self.settings:
            # It doesn't matter. What's identical is compared faster.
            self.settings["TEST"] = wrapper.settings_dict["TEST"]
        self.timezone_name = wrapper.timezone_name
        self.autocommit = wrapper.settings_dict["AUTOCOMMIT"]
        # What the wrapper got with the last connection, see Session.
        self.attributes = None
        self.thread = threading.current_thread()
        # For messages. The pool must not hold the borrower itself: it would
        # never be found to be dead.
        self.holding = Holding(wrapper)
        # When to give back, and what keeps it from that.
        self.policy = POLICIES["request"]
        self.per_statement = False
        # Whether it matters who calls ensure_connection().
        self.asks_why = False
        self.report_pins = False
        self.pin_depth = 0
        # Whether somebody has got hold of the driver's connection.
        self.is_exposed = False
        # Whether it's borrowing for somebody who hasn't used it yet.
        self.is_borrowing = False
        # Whether it has a permit and is opening a connection.
        self.is_opening = False
        self.wrapper = ref(wrapper)
        # Bits of what the statements under the present lease may leave
        # behind, see django.db.backends.base.statements.
        self.traces = 0
        # Weak references to the cursors made under the present lease.
        self.handles = []
        self.many_handles = MANY_HANDLES
        end_with_thread(self)

    def is_current(self, wrapper):
        """Return whether the pool is still the one for a wrapper."""
        return (
            self.settings == wrapper.settings_dict
            and self.timezone_name == wrapper.timezone_name
            and not self.pool.closed
        )

    # ##### Borrowing #####

    def borrow(self, wrapper, again=False):
        """
        Give a wrapper without a connection one of the pool's. Return True.

        again: whether to do that only if it's all that's left of what the
            wrapper's connect() would do. Return False if it isn't.
        """
        pool = self.pool
        if again:
            if (
                not self.is_ready
                # is_current(), without the call.
                or self.settings != wrapper.settings_dict
                or self.timezone_name != wrapper.timezone_name
                or pool.closed
                # It may be overridden, also by a test.
                or type(wrapper).connect is not CONNECT
                or "connect" in wrapper.__dict__
            ):
                return False
        elif self.lease is not None:
            self.drop(wrapper)
        self.is_ready = False
        deadline = self._tell() if self.tells else None
        owner = self.holding if self.leak_warning is None else Holder(self.holding)
        try:
            lease = pool.acquire(None, owner, deadline)
        except PoolClosed:
            if not pool.is_left_behind:
                raise
            # The settings were changed while this waited.
            wrapper.connect()
            return True
        while (connection := (slot := lease._slot).connection) is not None:
            self.lease = lease
            self.is_borrowing = True
            wrapper.connection = connection
            wrapper.autocommit = self.autocommit
            session = slot.session
            if (attributes := session.attributes) is not self.attributes:
                self.attributes = attributes
                if attributes:
                    wrapper.__dict__.update(attributes)
            self.traces = 0
            if self.trusting and ((probe := session.probe) is None or not probe()):
                return True
            deadline = lease.deadline or slot.leased_at + pool.timeout
            # Nobody has less time than this for asking the server.
            end = max(deadline, slot.leased_at + SHORTEST_LIMIT)
            if self._is_fit(wrapper, slot, end - pool.now()):
                return True
            pool.discard_dead()
            pool.check_deadline(end)
            lease = pool.acquire(owner=owner, deadline=deadline)
        self._open(wrapper, lease)
        return True

    def _tell(self):
        """
        Tell those who want to know that a connection is borrowed. Return the
        deadline for that if it isn't the pool's timeout.
        """
        if self.in_executor:
            calls.end_with_call(self)
        if self.is_noted:
            note_reference(self.wrapper)
            operation = current_operation.get()
            if operation is not None and operation.waited:
                waited, operation.waited = operation.waited, 0.0
                return self.pool.now() + self.pool.timeout - waited
        return None

    def _is_fit(self, wrapper, slot, timeout):
        pool = self.pool
        fit = False
        try:
            fit = pool.pooling.is_fit(wrapper, slot, pool.options.check, timeout)
        finally:
            # Also if the test was interrupted: its answer is still to come.
            if not fit:
                self._give_up(wrapper, DEAD)
        return fit

    def _open(self, wrapper, lease):
        # So that nobody borrows who asks for it meanwhile, see LentConnection.
        wrapper.connection = None
        self.is_opening = True
        try:
            session = self.pool.pooling.open_with(
                wrapper, lease.deadline - self.pool.now()
            )
            self.pool.opened(lease, wrapper.connection, session)
            self.lease = lease
        except BaseException as e:
            connection, wrapper.connection = wrapper.connection, None
            self.lease = None
            # First, so that there's no more than max_size at any time.
            if connection is not None:
                self.pool.pooling.close_quietly(connection)
            self.pool.pooling.let_go(e)
            self.pool.failed(
                lease, e if self.pool.pooling.is_connect_error(e) else None
            )
            raise
        finally:
            self.is_opening = False
        self.is_borrowing = True
        self.attributes = session.attributes
        self.traces = 0
        if not self.is_current(wrapper):
            # The settings were changed meanwhile. Nobody knows which ones
            # the connection was made for.
            lease.slot.generation = None

    # ##### Giving back #####

    def drop(self, wrapper):
        """
        End a lease, if there is one, though the wrapper wasn't closed: its
        connection was set to None behind its back.
        """
        if self.lease is not None:
            self._give_up(wrapper)

    def leave(self, wrapper):
        """
        End what there is between a wrapper and a pool that isn't its any more.
        """
        self.drop(wrapper)
        close_left_behind(wrapper)

    def give_back(self, wrapper):
        """Give a wrapper's connection back, fit for the next borrower."""
        pool = self.pool
        lease = self.lease
        if self.per_statement:
            self.policy.end(self, wrapper)
        clean = dirty = False
        left = None
        try:
            # Fails if somebody else has ended the lease.
            slot = lease._slot
            if slot.connection is not wrapper.connection:
                self._end_handles()
            elif (
                not self.traces
                and (watch := slot.session.watch) is not None
                and wrapper.autocommit is self.autocommit
                and not wrapper.errors_occurred
                # is_held(), without the call.
                and count_references(wrapper.connection) <= slot.session.references
                and watch()
            ):
                if self.handles:
                    # No cursor is left that could reach the connection.
                    self.handles = []
                clean, dirty = True, self.reset_always
            else:
                if self.handles:
                    self._end_handles()
                clean, dirty, left = self._make_clean(wrapper, slot.session)
        except Exception as e:
            # The borrower has done its work. That its connection can't be
            # used any more is no trouble of its.
            logger.debug("Cleaning a connection of pool %r: %s", pool.name, e)
            clean = False
            with suppress(Exception):
                self._end_handles()
        finally:
            # Whatever was raised, also by a signal handler.
            self.lease = wrapper.connection = None
            if wrapper.in_atomic_block:
                # The wrapper counts as connected until the block ends.
                wrapper.connection = EndedConnection(wrapper.Database, pool.name)
            elif not wrapper.savepoint_ids and not wrapper.atomic_blocks:
                # The rest of what connect() sets. It set close_at to a time
                # that has passed since, for CONN_MAX_AGE is 0.
                wrapper.needs_rollback = wrapper.errors_occurred = False
                wrapper.health_check_done = True
                self.is_ready = True
            if not clean:
                # None if another thread was quicker.
                if lease is not None:
                    pool.discard(lease, UNCLEAN)
            elif dirty:
                pool.release_dirty(lease, left)
            else:
                pool.release(lease)

    def _make_clean(self, wrapper, session):
        """
        Return whether a connection is fit for its next borrower, whether it
        needs something done before, and its Aftermath if that's more than a
        reset of its session.
        """
        pooling = self.pool.pooling
        clean = pooling.make_clean(wrapper, self)
        if clean is None:
            left = Aftermath(wrapper, self, self.reset_always)
            return not self.is_held(wrapper, session), True, left
        clean = clean and not self.is_held(wrapper, session)
        if self.reset_always is None:
            dirty = clean and pooling.needs_reset(wrapper, session, self.traces)
        else:
            dirty = self.reset_always
        return clean, dirty, None

    def is_held(self, wrapper, session):
        """
        Return whether somebody besides the wrapper holds on to its connection.
        """
        if not wrapper.needs_rollback:
            # The error that a transaction was rolled back for, with frames
            # that refer to the cursor. Nobody asks for it any more.
            wrapper.rollback_exc = None
        return self.pool.pooling.is_held(wrapper, session)

    def _give_up(self, wrapper, reason=UNCLEAN):
        """End a lease of a connection that nobody may use again."""
        lease, self.lease = self.lease, None
        self.is_exposed = False
        self.holding.clear()
        wrapper.connection = None
        self.pool.discard(lease, reason)

    # ##### What happens meanwhile #####

    def observe(self, sql):
        """Take note of a statement before it's executed."""
        try:
            # judge(), without the call.
            if sql in self.judge.remembered:
                return
        except TypeError:
            # Composed by the driver's own means, and not hashable.
            pass
        if traces := self.judge.judge(sql):
            self.traces |= traces
            self.policy.note(self, sql, traces)

    def note_interrupt(self):
        """Take note that the driver was left by an exception not its own."""
        self.traces |= INTERRUPTED

    # ##### Handles that outlive the lease #####

    def track(self, wrapper, cursor, name=None):
        """
        Remember a wrapper's cursor, Django's wrapper of it, until the lease
        ends.

        name: that of a cursor on the server.
        """
        if self.per_statement:
            self.policy.watch(self, wrapper, cursor, name is not None)
        else:
            if name is not None:
                cursor.close = CloseOnServer(self, cursor)
            self.remember(cursor)

    def remember(self, cursor):
        """
        Note Django's wrapper of a cursor, perhaps the backend's, and the
        driver's own: any of them may be held by itself.
        """
        handles = self.handles
        outermost = cursor
        try:
            while type(cursor) not in innermost_cursors:
                handles.append(ref(cursor))
                cursor = cursor.cursor
            handles.append(ref(cursor))
        except (AttributeError, TypeError):
            self._remember_unknown(outermost)
        if len(handles) > self.many_handles:
            handles[:] = [handle for handle in handles if handle() is not None]
            self.many_handles = max(MANY_HANDLES, 2 * len(handles))

    def _remember_unknown(self, cursor):
        """The same for a class of cursors that wasn't seen before."""
        while cursor is not None:
            inner = getattr(cursor, "cursor", None)
            try:
                self.handles.append(ref(cursor))
            except TypeError:
                # Nobody can refer to it weakly.
                pass
            else:
                if inner is None:
                    innermost_cursors.add(type(cursor))
            cursor = inner

    def is_relied_on(self):
        """
        Return whether code may go on to use what it has in this connection: a
        cursor, the state of the session, or what else it's pinned for.
        """
        return self.lease is not None and bool(
            self.pin_depth
            or self.traces & SESSION
            or self.holding.pins
            or self.holding.cursors
            or any(map(_may_be_open, self.handles))
        )

    def _end_handles(self):
        """
        Close the cursors that are still held somewhere. They must not reach
        the connection under its next borrower.
        """
        cursors = [
            cursor for handle in self.handles if (cursor := handle()) is not None
        ]
        self.handles = []
        self.many_handles = MANY_HANDLES
        for cursor in cursors:
            if isinstance(cursor, CursorWrapper):
                cursor.cursor = EndedCursor(self.pool.name)
            else:
                self.pool.pooling.end_cursor(cursor)

    # ##### How long it lasts #####

    def begin(self, wrapper):
        """Have the wrapper's attribute set for a cursor that's to be made."""
        attributes = wrapper.__dict__
        if "connection" in attributes:
            # Or it's about to connect.
            pass
        elif (lease := self.lease) is not None and (slot := lease.slot) is not None:
            attributes["connection"] = slot.connection
        else:
            try:
                self.borrow(wrapper, True)
            except Exception:
                with wrapper.wrap_database_errors:
                    raise
        self.is_borrowing = True
        self.asks_why = False

    def rest(self, wrapper):
        """Give back if the policy says so: nothing is under way just now."""
        self.is_borrowing = False
        self.asks_why = self.per_statement
        self.policy.rest(self, wrapper)

    @contextmanager
    def pinned(self, wrapper):
        """Keep the connection that's borrowed in the block, or before it."""
        self.pin_depth += 1
        try:
            yield
        finally:
            self.pin_depth -= 1
            if not self.pin_depth:
                self.policy.unpin(self, wrapper, EXPLICIT)
            self.rest(wrapper)

    # ##### When the borrower ends #####

    def __del__(self):
        # The pool would find the lease itself, but later.
        try:
            if (lease := self.lease) is not None and (slot := lease.end()) is not None:
                lease.pool.abandon(slot)
        except Exception:
            # The interpreter is shutting down, its modules are gone.
            pass

    def end_with_thread(self):
        """Give back what a thread holds that ends."""
        wrapper = self.wrapper()
        if self.lease is None or wrapper is None or wrapper.allow_thread_sharing:
            return
        try:
            if self._is_at_rest(wrapper):
                wrapper.close()
            else:
                # The server rolls back. Whoever waits for the thread to end,
                # at exit for one, mustn't wait for a server.
                self._give_up(wrapper)
        except Exception as e:
            logger.debug("Closing a connection at its thread's end: %s", e)

    def _is_at_rest(self, wrapper):
        """
        Return whether giving the connection back takes no answer of the
        server.
        """
        return (
            wrapper.autocommit is self.autocommit is True
            and not wrapper.errors_occurred
            and not self.traces
            and not self.pool.pooling.in_transaction(wrapper.connection)
            and all(handle() is None for handle in self.handles)
        )

    def let_go_at_exit(self):
        """
        Take the connection from a wrapper of this thread, or of one that
        ended. Return the lease, None if there was none to take.
        """
        if (wrapper := self.wrapper()) is None or self._is_of_another_thread():
            return None
        if (lease := self.lease) is not None:
            self.lease = wrapper.connection = None
        return lease

    def _is_of_another_thread(self):
        try:
            return (
                self.thread is not threading.current_thread() and self.thread.is_alive()
            )
        except RuntimeError:
            # What stands for a thread that threading didn't start: a greenlet.
            return False

    def forget(self):
        """After a fork, in the child: the lease isn't ours."""
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.end()
        for cursor in self.holding.open_cursors():
            self.remember(cursor)
        self.holding.clear()
        for handle in self.handles:
            if isinstance(cursor := handle(), CursorWrapper):
                # Not closed: that could reach the parent's session.
                self.pool.pooling.keep_forever(cursor.cursor)
                cursor.cursor = EndedCursor(self.pool.name)
        self.handles = []
        wrapper = self.wrapper()
        if lease is None or wrapper is None:
            return
        if wrapper.in_atomic_block:
            wrapper.closed_in_transaction = True
            wrapper.needs_rollback = True
        wrapper.connection = None
