"""A server that doesn't answer holds nobody up for longer than allowed."""

import contextlib
import gc
import os
import socket
import threading
import time
import unittest
from unittest import mock

from django.db import OperationalError, connection
from django.db.backends.signals import connection_created

# The registry sees to forks, also if nothing else has imported it.
from django.db.pool import PoolTimeout, registry, watch  # NOQA: F401
from django.test import SimpleTestCase

from .utils import SOON, PooledTestCase, wait_until

is_postgresql = connection.vendor == "postgresql"


class WatchTests(SimpleTestCase):
    def test_cut_at_the_limit(self):
        cut = threading.Event()
        with watch.time_limit(0.01, cut.set) as limit:
            self.assertIs(cut.wait(SOON), True)
        self.assertIs(limit.exceeded, True)

    def test_not_cut_after_the_block(self):
        with watch.time_limit(6 * SOON, mock.Mock()) as limit:
            self.assertIn(limit, watch._limits)
        self.assertNotIn(limit, watch._limits)
        self.assertIs(limit.exceeded, False)

    def test_locked_in_one_step(self):
        """
        A Condition's __enter__() has several, and an exception between them
        would leave it locked.
        """
        with (
            watch.time_limit(6 * SOON, mock.Mock()),
            mock.patch.object(
                threading.Condition, "__enter__", side_effect=AssertionError
            ),
            watch.time_limit(5 * SOON, mock.Mock()),
        ):
            self.assertEqual(len(watch._limits), 2)

    def test_an_earlier_limit_is_seen(self):
        """The thread may be asleep until a later one."""
        late, early = threading.Event(), threading.Event()
        with watch.time_limit(6 * SOON, late.set):
            wait_until(lambda: watch._looks_at > time.monotonic() + 1)
            with watch.time_limit(0.01, early.set):
                self.assertIs(early.wait(SOON), True)
        self.assertIs(late.is_set(), False)

    def test_error_in_a_cut(self):
        """Others are cut nevertheless."""
        cut = threading.Event()
        with (
            watch.time_limit(0.01, mock.Mock(side_effect=ZeroDivisionError)),
            watch.time_limit(0.02, cut.set),
        ):
            self.assertIs(cut.wait(SOON), True)

    def test_interrupted_block(self):
        with contextlib.suppress(KeyboardInterrupt):
            with watch.time_limit(6 * SOON, mock.Mock()) as limit:
                raise KeyboardInterrupt
        self.assertNotIn(limit, watch._limits)

    def test_no_thread_to_be_had(self):
        """At exit, for one: the block is run without a limit."""
        with (
            mock.patch.object(watch, "_thread", None),
            mock.patch.object(threading.Thread, "start", side_effect=RuntimeError),
        ):
            with watch.time_limit(0, mock.Mock()) as limit:
                self.assertIsNone(watch._thread)
        self.assertIs(limit.exceeded, False)

    @unittest.skipUnless(hasattr(os, "fork"), "Needs os.fork().")
    def test_fork(self):
        """
        There's no thread in the child until it needs one, and none when it
        has nothing left to watch.
        """
        with watch.time_limit(6 * SOON, mock.Mock()):
            wait_until(lambda: watch._thread is not None)
            if (pid := os.fork()) == 0:
                status = 1
                with contextlib.suppress(BaseException):
                    cut = threading.Event()
                    with watch.time_limit(0.01, cut.set):
                        status = 2 if cut.wait(SOON) else 3
                    wait_until(lambda: watch._thread is None)
                    status = 0 if status == 2 else 3
                os._exit(status)
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)


@unittest.skipIf(connection.vendor == "sqlite", "SQLite has no server.")
class DeadlineTests(PooledTestCase):
    """The deadline of a borrower covers what's asked of a silent server."""

    sleep = "SELECT pg_sleep(30)" if is_postgresql else "SELECT SLEEP(30)"

    def setUp(self):
        super().setUp()
        self.session_ids = []
        self.addCleanup(self.end_sessions)

    def assertInTime(self):
        """What would sleep was given up long before it woke."""
        self.assertLess(time.monotonic() - self.since, SOON)

    def hang(self, driver_connection):
        """Ask the server for something that takes long."""
        with contextlib.closing(driver_connection.cursor()) as cursor:
            cursor.execute("SELECT " + self.session_id_function)
            self.session_ids.append(cursor.fetchone()[0])
            self.since = time.monotonic()
            cursor.execute(self.sleep)

    session_id_function = "pg_backend_pid()" if is_postgresql else "CONNECTION_ID()"

    def end_sessions(self):
        """The server doesn't notice by itself that nobody is there."""
        wrapper = self.wrapper.copy()
        wrapper.settings_dict["POOL"] = None
        sql = "SELECT pg_terminate_backend(%s)" if is_postgresql else "KILL %s"
        for session_id in self.session_ids:
            with contextlib.suppress(OperationalError):
                self.query(sql, [session_id], wrapper)
        wrapper.close()

    def set_timeout(self, seconds):
        """After a connection was opened, which may take its time."""
        self.enterContext(mock.patch.object(self.wrapper.pool, "timeout", seconds))

    def test_check(self):
        self.use_pool(
            max_size=1, timeout=SOON, check=lambda connection: self.hang(connection)
        )
        self.wrapper.ensure_connection()
        self.wrapper.close()
        self.set_timeout(1)
        with self.assertRaisesMessage(PoolTimeout, "no connection within 1 s"):
            self.wrapper.ensure_connection()
        self.assertInTime()
        stats = self.stats()
        self.assertEqual((stats.size, stats.timeouts), (0, 1))
        # It's not the fault of the next borrower.
        self.set_timeout(SOON)
        self.assertEqual(self.query("SELECT 1"), (1,))

    def test_usability(self):
        """As above, with what CONN_HEALTH_CHECKS does."""
        self.use_pool(max_size=1, timeout=SOON, check=True)
        self.wrapper.ensure_connection()
        self.wrapper.close()

        def is_usable(wrapper):
            try:
                self.hang(wrapper.connection)
            except wrapper.Database.Error:
                return False
            return True

        self.set_timeout(1)
        with mock.patch.object(type(self.wrapper), "is_usable", is_usable):
            with self.assertRaises(PoolTimeout):
                self.wrapper.ensure_connection()
        self.assertInTime()

    def test_a_check_has_some_time(self):
        """Also if a borrower doesn't want to wait."""
        self.use_pool(max_size=1, timeout=SOON, check=True)
        self.wrapper.ensure_connection()
        slot = self.slot()
        self.wrapper.close()
        self.set_timeout(0)
        self.wrapper.ensure_connection()
        self.assertIs(self.slot(), slot)

    def test_initialization(self):
        def receiver(connection, **kwargs):
            if connection.alias == self.wrapper.alias:
                self.hang(connection.connection)

        self.use_pool(max_size=1, timeout=1)
        connection_created.connect(receiver)
        self.addCleanup(connection_created.disconnect, receiver)
        with self.assertRaises(OperationalError):
            self.wrapper.ensure_connection()
        self.assertInTime()
        self.assertEqual(self.stats().size, 0)


@unittest.skipIf(connection.vendor == "sqlite", "SQLite has no server.")
class HalfOpenTests(PooledTestCase):
    """
    When an attempt to connect has failed, its socket is closed at once: the
    next one must not make one too many.
    """

    def setUp(self):
        super().setUp()
        listener = self.enterContext(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(SOON)
        host, port = listener.getsockname()
        self.settings_dict.update(HOST=host, PORT=str(port))
        self.closed = threading.Event()
        thread = threading.Thread(target=self.serve, args=[listener])
        thread.start()
        self.addCleanup(thread.join)
        # As if it didn't happen to run just then.
        gc.disable()
        self.addCleanup(gc.enable)

    def serve(self, listener):
        accepted, _ = listener.accept()
        with accepted:
            if not is_postgresql:
                accepted.shutdown(socket.SHUT_WR)
            # Otherwise the server is silent.
            accepted.settimeout(SOON)
            with contextlib.suppress(OSError):
                while accepted.recv(4096):
                    pass
                self.closed.set()

    def test_socket_is_closed(self):
        self.use_pool(max_size=1, timeout=1)
        # assertRaises() would clear the frames.
        try:
            self.wrapper.ensure_connection()
        except OperationalError:
            # While the exception is held, as by whoever shows it.
            self.assertIs(self.closed.wait(SOON / 2), True)
        else:
            self.fail("Nobody could be connected to.")
