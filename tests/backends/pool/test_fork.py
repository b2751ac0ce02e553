"""Processes that are forked while the parent has connections of a pool."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import socket
import threading
import traceback
import unittest
import warnings
from unittest import mock

from django.db import (
    Error,
    ProgrammingError,
    connection,
    connections,
    transaction,
)
from django.db.backends.base.pooling import BaseDatabasePooling
from django.db.pool import deadlock, maintenance, registry, watch

from .utils import (
    ALIAS,
    SOON,
    PooledTestCase,
    busy_maintenance,
    run_in_thread,
    wait_until,
)

is_sqlite = connection.vendor == "sqlite"


def fork():
    with warnings.catch_warnings():
        # Python warns that the child of a process with threads may hang.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def run_in_child(function):
    """Fork, and return what a function returns in the child."""
    reading, writing = os.pipe()
    pid = fork()
    if pid == 0:
        status = 1
        # Rather than to let the parent wait for ever.
        signal.alarm(3 * SOON)
        try:
            os.close(reading)
            try:
                outcome = True, function()
            except BaseException:
                outcome = False, traceback.format_exc()
            with open(writing, "wb") as file:
                pickle.dump(outcome, file)
            status = 0
        finally:
            # Not a second test runner.
            os._exit(status)
    os.close(writing)
    with open(reading, "rb") as file:
        answer = file.read()
    _, status = os.waitpid(pid, 0)
    if not answer or status:
        raise AssertionError(f"The child ended with {status}.")
    succeeded, result = pickle.loads(answer)
    if not succeeded:
        raise AssertionError(f"In the child:\n{result}")
    return result


@unittest.skipUnless(hasattr(os, "fork"), "It takes os.fork().")
class ForkTests(PooledTestCase):
    """
    The child never touches the parent's sockets, the parent's sessions stay
    alive, and the child's pool works.
    """

    def setUp(self):
        super().setUp()
        self.use_pool(max_size=3, timeout=10)
        self.create_table()

    def name_session(self, wrapper=None):
        """Return what tells a session from others, wherever it's asked."""
        if is_sqlite:
            self.query("SELECT 1", wrapper=wrapper)
            return os.getpid(), id(self.slot(wrapper))
        return self.session_id(wrapper)

    def use_all(self):
        """Fill the pool of this process. Return the names of the sessions."""
        wrappers = [self.wrapper.copy() for _ in range(3)]
        names = [self.name_session(wrapper) for wrapper in wrappers]
        for wrapper in wrappers:
            self.query(
                f"SELECT COUNT(*) FROM {self.table} WHERE number >= %s", [0], wrapper
            )
        stats = self.stats()
        self.assertEqual((stats.opened, stats.in_use), (3, 3))
        for wrapper in wrappers:
            wrapper.close()
        return names

    def test_idle_connections(self):
        before = self.use_all()
        self.assertEqual(self.stats().idle, 3)
        childs = run_in_child(self.use_all)
        self.assertEqual(len(set(before) | set(childs)), 6)
        # The parent's are as good as ever.
        self.assertCountEqual(self.use_all(), before)

    def test_borrowed_connection(self):
        before = self.name_session()
        child = run_in_child(self.name_session)
        self.assertNotEqual(child, before)
        self.assertEqual(self.name_session(), before)
        self.assertEqual(self.stats().opened, 1)

    def test_child_starts_empty(self):
        self.use_all()
        self.name_session()
        stats = run_in_child(lambda: self.stats())
        self.assertEqual((stats.size, stats.opened, stats.acquired), (0, 0, 0))

    def test_child_closes_everything(self):
        before = self.name_session()

        def child():
            self.name_session()
            connections.close_all()
            self.wrapper.close_pool()

        run_in_child(child)
        self.assertEqual(self.name_session(), before)

    def test_child_closes_before_use(self):
        """As fork hooks do that were written without a pool in mind."""
        before = self.name_session()

        def child():
            connections.close_all()
            self.wrapper.close()
            self.wrapper.close_pool()
            self.name_session()

        run_in_child(child)
        self.assertEqual(self.name_session(), before)

    def test_many_children_at_once(self):
        before = self.name_session()
        names = set()
        for _ in range(5):
            names.add(run_in_child(lambda: run_in_child(self.name_session)))
        self.assertEqual(len(names), 5)
        self.assertNotIn(before, names)
        self.assertEqual(self.name_session(), before)

    def test_in_atomic(self):
        def child():
            # It isn't the child's transaction.
            with self.assertRaises(ProgrammingError):
                self.insert()
            self.assertIs(self.wrapper.needs_rollback, True)
            # A thread of its own has nothing to do with it.
            run_in_thread(lambda: self.query("SELECT 1", wrapper=connections[ALIAS]))

        with transaction.atomic(ALIAS):
            self.insert()
            run_in_child(child)
            self.insert()
        self.assertEqual(self.count(), 2)

    def test_child_leaves_the_atomic_block(self):
        def child(stack):
            stack.close()
            self.assertIs(self.wrapper.in_atomic_block, False)
            return self.name_session()

        with contextlib.ExitStack() as stack:
            stack.enter_context(transaction.atomic(ALIAS))
            self.insert()
            before = self.name_session()
            self.assertNotEqual(run_in_child(lambda: child(stack)), before)
            self.assertEqual(self.name_session(), before)
        self.assertEqual(self.count(), 1)

    def test_cursor_of_the_parent_under_each_lease(self):
        for lease in ("request", "transaction"):
            with self.subTest(lease):
                self.use_pool(lease=lease)
                self.check_cursor_of_the_parent()
                self.wrapper.close()

    def check_cursor_of_the_parent(self):
        with self.wrapper.cursor() as cursor:
            cursor.execute("SELECT 1")

            def child():
                self.query("SELECT 1")
                with self.assertRaises((Error, self.wrapper.Database.Error)):
                    cursor.execute("SELECT 2")

            run_in_child(child)
            self.assertEqual(cursor.fetchone(), (1,))

    def test_fork_in_a_thread(self):
        """Other threads, and what they borrowed, don't exist in the child."""
        before = self.name_session()

        def fork_in_thread():
            mine = self.name_session(connections[ALIAS])
            child = run_in_child(lambda: self.name_session(connections[ALIAS]))
            self.assertEqual(self.name_session(connections[ALIAS]), mine)
            return child

        self.assertNotEqual(run_in_thread(fork_in_thread), before)
        self.assertEqual(self.name_session(), before)

    def test_locks_held_by_other_threads(self):
        """The child can't wait for a thread that it doesn't have."""
        pool = self.wrapper.pool
        self.name_session()

        def child():
            deadlock.enter(pool)
            deadlock.leave()
            with watch.time_limit(SOON, lambda: None):
                self.use_all()

        modules = registry, maintenance, watch, deadlock
        for lock in (pool._lock, *(module._lock for module in modules)):
            held, go = threading.Event(), threading.Event()

            def hold():
                with lock:
                    held.set()
                    go.wait(SOON)

            thread = threading.Thread(target=hold)
            thread.start()
            self.assertTrue(held.wait(SOON))
            try:
                with self.subTest(lock=lock):
                    run_in_child(child)
            finally:
                go.set()
                thread.join()

    def test_no_null_device(self):
        """As in a jail. The connection is let go of all the same."""
        pooling = self.wrapper.pool.pooling
        ours, theirs = socket.socketpair()
        with (
            ours,
            theirs,
            mock.patch("os.open", side_effect=FileNotFoundError),
            mock.patch.object(pooling, "keep_forever") as keep_forever,
        ):
            BaseDatabasePooling.forget(pooling, ours)
            keep_forever.assert_called_once_with(ours)
            # Nothing was said.
            theirs.setblocking(False)
            with self.assertRaises(BlockingIOError):
                theirs.recv(1)

    def hold_up(self, owner, name):
        """
        Have whoever calls a method wait. Return an event that says that
        there's one, and another one that lets it go on.
        """
        method = getattr(owner, name)
        came, go = threading.Event(), threading.Event()
        parent = os.getpid()

        def wait(*args):
            if os.getpid() == parent:
                came.set()
                go.wait(SOON)
            return method(*args)

        self.enterContext(mock.patch.object(owner, name, wait))
        return came, go

    def test_connection_being_opened(self):
        before = self.name_session()
        other = self.copy()
        came, go = self.hold_up(other, "get_new_connection")
        names = []
        thread = threading.Thread(target=lambda: names.append(self.name_session(other)))
        other.inc_thread_sharing()
        thread.start()
        self.assertTrue(came.wait(SOON))
        self.assertEqual(self.stats().connecting, 1)
        self.assertEqual(len(set(run_in_child(self.use_all))), 3)
        go.set()
        thread.join(SOON)
        stats = self.stats()
        self.assertEqual((stats.opened, stats.in_use, stats.connecting), (2, 2, 0))
        self.assertNotIn(before, names)
        self.assertEqual(self.name_session(), before)
        self.assertEqual([self.name_session(other)], names)

    def test_maintenance_thread_opens_a_connection(self):
        self.use_pool(min_size=2, max_size=3, timeout=10)
        # Of the class: as soon as there's a pool, it opens connections.
        came, go = self.hold_up(self.wrapper.pooling_class, "open")
        before = self.name_session()
        self.assertTrue(came.wait(SOON))

        def child():
            name = self.name_session()
            self.wrapper.close()
            # Its own thread does what the parent's was about to do.
            wait_until(lambda: self.stats().idle == 2)
            return name

        self.assertNotEqual(run_in_child(child), before)
        go.set()
        wait_until(lambda: self.stats().idle == 1)
        self.assertEqual(self.stats().opened, 2)
        self.assertEqual(self.name_session(), before)

    def test_waiter_in_line(self):
        """The child's pool doesn't serve the parent's waiters, nor wait."""
        self.use_pool(max_size=1, timeout=10)
        before = self.name_session()
        names = []

        def wait_for_it():
            names.append(self.name_session(connections[ALIAS]))
            connections[ALIAS].close()

        thread = threading.Thread(target=wait_for_it)
        thread.start()
        wait_until(lambda: self.stats().waiting == 1)
        self.assertEqual(run_in_child(lambda: self.stats().waiting), 0)
        self.assertNotEqual(run_in_child(self.name_session), before)
        self.wrapper.close()
        thread.join(SOON)
        self.assertEqual(names, [before])

    def test_full_pool(self):
        self.use_pool(max_size=1, timeout=5)
        before = self.name_session()
        self.assertNotEqual(run_in_child(self.name_session), before)

    def test_min_size(self):
        """The child has a maintenance thread of its own."""
        self.use_pool(min_size=2, max_size=3, timeout=10)
        before = self.name_session()

        def child():
            name = self.name_session()
            self.wrapper.close()
            return name

        self.assertNotEqual(run_in_child(child), before)
        self.assertEqual(self.name_session(), before)

    def test_parent_opens_connections(self):
        """
        The child doesn't find the locks of a driver's library held by the
        parent's maintenance thread, as SQLite's are in the middle of an
        open().
        """
        pooling = self.wrapper.pool.pooling
        opened, ended = [], threading.Event()
        goes_on = True

        def open_some():
            for _ in range(20):
                connection, _ = pooling.open(SOON)
                pooling.close(connection)
            opened.append(1)
            if goes_on:
                maintenance.put_and_wake(open_some)
            else:
                ended.set()

        maintenance.put_and_wake(open_some)
        try:
            for _ in range(20):
                count = len(opened)
                run_in_child(self.name_session)
                wait_until(lambda: len(opened) > count)
        finally:
            goes_on = False
        self.assertIs(ended.wait(SOON), True)

    def test_parent_is_maintaining(self):
        """A fork waits for the end of the maintenance thread's step."""
        begun, forking, ended = threading.Event(), threading.Event(), []

        class Turn:
            lock = threading.RLock()

            def __enter__(self):
                if begun.is_set():
                    forking.set()
                self.lock.acquire()

            def __exit__(self, *exc_info):
                self.lock.release()

        def step():
            begun.set()
            if forking.wait(SOON):
                ended.append("in time")

        with (
            mock.patch.object(maintenance, "_turn", Turn()),
            mock.patch.object(maintenance, "FORK_TIMEOUT", SOON),
        ):
            maintenance.put_and_wake(step)
            self.assertIs(begun.wait(SOON), True)
            self.assertEqual(run_in_child(lambda: ended), ["in time"])

    def test_parent_is_maintaining_for_long(self):
        """A fork doesn't wait for a server that doesn't answer."""
        with (
            busy_maintenance() as ended,
            mock.patch.object(maintenance, "FORK_TIMEOUT", 0),
            mock.patch("sys.unraisablehook") as ignored,
        ):
            self.assertEqual(run_in_child(lambda: ended), [])
        ignored.assert_not_called()
        wait_until(lambda: ended)
        self.assertEqual(run_in_child(lambda: ended), [True])

    def test_fork_in_maintenance(self):
        """A receiver of connection_created, for instance, starts a process."""
        names = []

        def child():
            return self.name_session(self.wrapper.copy())

        with mock.patch.object(maintenance, "FORK_TIMEOUT", 2 * SOON):
            maintenance.put_and_wake(lambda: names.append(run_in_child(child)))
            wait_until(lambda: names)
        # And the thread goes on.
        maintenance.put_and_wake(names.clear)
        wait_until(lambda: not names)

    def test_pool_closed_while_in_use(self):
        before = self.name_session()
        self.wrapper.close_pool()
        self.assertNotEqual(run_in_child(self.name_session), before)
        self.assertEqual(self.name_session(), before)

    def test_connection_of_the_child_is_not_shared_with_its_child(self):
        def child():
            mine = self.name_session()
            grandchild = run_in_child(self.name_session)
            self.assertNotEqual(grandchild, mine)
            self.assertEqual(self.name_session(), mine)

        run_in_child(child)


class ProcessTests(PooledTestCase):
    """Whole processes, that exit as processes do."""

    def setUp(self):
        super().setUp()
        if is_sqlite:
            self.create_table()

    FORK = """
        import os
        {before}
        mine = session_id()
        {idle}
        pid = os.fork()
        if pid == 0:
            assert session_id() != mine or not mine
            {child}
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == {status}
        assert session_id() == mine
        query("SELECT 1")
        print("good")
    """

    def fork(self, *options, before="", idle="", child="sys.exit()", status=0):
        body = self.FORK.format(before=before, idle=idle, child=child, status=status)
        options = ("-W", "ignore::DeprecationWarning", *options)
        self.assertEqual(self.run_script(body, *options), ["good"])

    @unittest.skipUnless(hasattr(os, "fork"), "It takes os.fork().")
    def test_exit_of_a_child(self):
        for idle in ("", "connection.close()"):
            for child, status in [("sys.exit()", 0), ("sys.exit(3)", 3)]:
                with self.subTest(idle=idle, child=child):
                    self.fork(idle=idle, child=child, status=status)

    @unittest.skipUnless(hasattr(os, "fork"), "It takes os.fork().")
    def test_exit_of_a_child_with_warnings(self):
        self.fork("-W", "always::ResourceWarning")

    @unittest.skipUnless(hasattr(os, "fork"), "It takes os.fork().")
    def test_hard_exit_of_a_child(self):
        self.fork(child="os._exit(0)")

    @unittest.skipUnless(hasattr(os, "fork"), "It takes os.fork().")
    def test_child_that_uses_nothing(self):
        self.assertEqual(
            self.run_script(
                """
                import os
                mine = session_id()
                pid = os.fork()
                if pid == 0:
                    sys.exit()
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
                assert session_id() == mine
                print("good")
                """,
                "-W",
                "ignore::DeprecationWarning",
            ),
            ["good"],
        )

    def multiprocess(self, method):
        lines = self.run_script(
            f"""
            import multiprocessing
            context = multiprocessing.get_context({method!r})
            mine = session_id()
            with context.Pool(2) as pool:
                ids = set(pool.starmap(session_id, [()] * 8))
                pool.close()
                pool.join()
            assert 1 <= len(ids) <= 2, ids
            assert mine not in ids or not mine
            assert session_id() == mine
            print("good")
            """,
            "-W",
            "ignore::DeprecationWarning",
        )
        self.assertEqual(lines, ["good"])

    def test_multiprocessing(self):
        for method in multiprocessing.get_all_start_methods():
            with self.subTest(method=method):
                self.multiprocess(method)
