"""What becomes of the connections when a process ends."""

import time
import unittest

from django.db import connection

from .utils import PooledTestCase, wait_until

is_sqlite = connection.vendor == "sqlite"

# Seconds that ending may take, on a machine that has other things to do too.
QUICK = 10


class ExitTests(PooledTestCase):
    """
    Connections are closed properly, nothing keeps the process alive, nothing
    is printed, and the exit code is the program's.
    """

    def setUp(self):
        super().setUp()
        if is_sqlite:
            # Makes the file.
            self.create_table()

    def abandoned_sessions(self):
        """Return how many sessions' clients went without a word, so far."""
        wrapper = self.unpooled()
        try:
            return self.query(
                "SELECT sessions_abandoned FROM pg_stat_database "
                "WHERE datname = current_database()",
                wrapper=wrapper,
            )[0]
        finally:
            wrapper.close()

    def assertEnds(self, body, *options, returncode=0, stderr="", politely=True):
        """
        A program ends well that opens connections and says when it's done.
        """
        is_postgresql = politely and connection.vendor == "postgresql"
        if is_postgresql:
            before = self.abandoned_sessions()
        lines = self.run_script(body, *options, returncode=returncode, stderr=stderr)
        ended = time.monotonic()
        session_ids, done = eval(lines[0]), float(lines[1])
        self.assertLess(ended - done, QUICK)
        self.assertEqual(lines[2:], [])
        if not is_sqlite:
            wait_until(lambda: not self.live_sessions(session_ids))
        if is_postgresql:
            self.assertEqual(self.abandoned_sessions(), before)

    # Prints the sessions' ids.
    IDLE = """
        import time
        ids = [session_id()]
        connection.close()
        assert connection.pool.stats().idle == 1
        print(ids)
        print(time.monotonic())
    """
    IN_USE = """
        import time
        other = connection.copy()
        ids = [session_id(), session_id(other)]
        assert connection.pool.stats().in_use == 2
        print(ids)
        print(time.monotonic())
    """

    def test_idle(self):
        self.assertEnds(self.IDLE)

    def test_in_use(self):
        self.assertEnds(self.IN_USE)

    def test_in_use_with_warnings(self):
        """No connection is left to the garbage collector."""
        self.assertEnds(self.IN_USE, "-W", "default::ResourceWarning")

    def test_in_a_transaction(self):
        self.assertEnds("""
            import time
            connection.set_autocommit(False)
            print([session_id()])
            print(time.monotonic())
            """)

    def test_system_exit(self):
        for body in (self.IDLE, self.IN_USE):
            with self.subTest(body=body):
                self.assertEnds(body + "    sys.exit(3)", returncode=3)

    def test_exception(self):
        for body in (self.IDLE, self.IN_USE):
            with self.subTest(body=body):
                self.assertEnds(
                    body + "    raise ZeroDivisionError",
                    returncode=1,
                    stderr=None,
                )
                lines = self.stderr.splitlines()
                self.assertEqual(lines[0], "Traceback (most recent call last):")
                self.assertEqual(lines[-1], "ZeroDivisionError")
                self.assertEqual(self.stderr.count("Traceback"), 1)

    def test_exception_in_atomic(self):
        self.assertEnds(
            """
            import time
            with transaction.atomic():
                print([session_id()])
                print(time.monotonic())
                raise ZeroDivisionError
            """,
            returncode=1,
            stderr=None,
        )
        self.assertEqual(self.stderr.count("Traceback"), 1)

    def test_min_size(self):
        self.use_pool(min_size=2, max_size=4)
        self.assertEnds("""
            import time
            ids = [session_id()]
            connection.close()
            while connection.pool.stats().idle < 2:
                time.sleep(0)
            print(ids)
            print(time.monotonic())
            """)

    def test_min_size_at_once(self):
        """Connections are being opened when the process ends."""
        self.use_pool(min_size=4, max_size=4)
        self.run_script("connection.pool")

    def test_server_down(self):
        """The maintenance thread tries to connect, in vain."""
        self.use_pool(min_size=2, max_size=4)
        if is_sqlite:
            self.settings_dict["OPTIONS"]["init_command"] = "no such command"
        else:
            self.settings_dict.update(HOST="127.0.0.1", PORT="1")
        self.run_script("connection.pool")
        self.settings_dict["OPTIONS"].pop("init_command", None)

    def test_other_threads(self):
        """Of threads that ended, and of one that goes on until the end."""
        self.assertEnds(
            """
            import threading, time
            ids = [session_id()]
            def use():
                ids.append(session_id())
            thread = threading.Thread(target=use)
            thread.start()
            thread.join()
            ready = threading.Event()
            def go_on():
                use()
                ready.set()
                threading.Event().wait()
            threading.Thread(target=go_on, daemon=True).start()
            ready.wait()
            print(ids)
            print(time.monotonic())
            """,
            # Nobody may interfere with a thread that is running.
            politely=False,
        )

    def test_driver_that_waits(self):
        """Closing takes an answer, and there's none. Exit isn't held up."""
        for body in (self.IDLE, self.IN_USE):
            with self.subTest(body=body):
                lines = self.run_script(
                    body + "    import threading; connection.pool.pooling.close = "
                    "lambda connection: threading.Event().wait()"
                )
                self.assertLess(time.monotonic() - float(lines[1]), QUICK)

    def test_thread_at_rest(self):
        """What a thread of an executor leaves is ready for the next one."""
        self.assertEqual(self.in_executor("session_id()"), ["1 {} []"])

    def test_thread_in_a_transaction(self):
        """An executor waits for its threads, but none for the server."""
        self.assertEqual(
            self.in_executor("connection.set_autocommit(False), session_id()"),
            ["0 {'unclean': 1} []"],
        )

    def in_executor(self, code):
        return self.run_script(f"""
            from concurrent.futures import ThreadPoolExecutor
            pool, called = connection.pool, []
            with ThreadPoolExecutor(1) as executor:
                executor.submit(lambda: ({code})).result()
                # Whatever would wait for an answer.
                pool.pooling.rollback = pool.pooling.reset = called.append
            print(pool.stats().idle, pool.stats().closed, called)
            """)

    def test_daemon_that_holds_a_connection(self):
        """Nobody waits for it, for it won't give the connection back."""
        self.run_script("""
            import threading, time
            from django.db.pool import registry
            ready = threading.Event()
            def hold():
                session_id()
                ready.set()
                threading.Event().wait()
            threading.Thread(target=hold, daemon=True).start()
            ready.wait()
            begun = time.monotonic()
            registry._close_at_exit()
            assert time.monotonic() - begun < registry.EXIT_TIMEOUT
            """)

    def test_daemons_that_wait_in_line(self):
        """They are served, instead of printing that there's no pool."""
        self.use_pool(max_size=1, timeout=10)
        lines = self.run_script("""
            import atexit, threading, time
            def use():
                print(query("SELECT 1"))
            threads = [threading.Thread(target=use, daemon=True) for _ in range(3)]
            # Called after the pool was closed.
            atexit.register(lambda: [thread.join() for thread in threads])
            query("SELECT 1")
            for thread in threads:
                thread.start()
            while connection.pool.stats().waiting < 3:
                time.sleep(0)
            """)
        self.assertEqual(lines, ["(1,)"] * 3)

    def test_called_more_than_once(self):
        """By atexit and multiprocessing. One limit is for both."""
        lines = self.run_script("""
            from types import SimpleNamespace
            from django.db.pool import maintenance, registry
            now = 0.0
            registry.time = SimpleNamespace(monotonic=lambda: now)
            maintenance.join = print
            registry._close_at_exit()
            now = 1.5
            registry._close_at_exit()
            now = 7.0
            """)
        self.assertEqual(lines, ["2.0", "0.5", "0"])

    def test_borrowers_come_meanwhile(self):
        """In threads that go on until the end."""
        lines = self.run_script("""
            from django.db.pool import registry
            def reference():
                registry._borrowers.discard(reference)
                registry._borrowers.add(lambda: None)
                print("looked at")
            registry._borrowers.add(reference)
            """)
        self.assertEqual(lines, ["looked at"])

    def test_receiver_at_exit(self):
        """Those who come after the pool was closed are served too."""
        lines = self.run_script("""
            import atexit
            atexit.register(lambda: print(query("SELECT 1")))
            connection.pool
            atexit.register(lambda: print(query("SELECT 1")))
            """)
        self.assertEqual(lines, ["(1,)", "(1,)"])

    @unittest.skipIf(is_sqlite, "SQLite has no server.")
    def test_killed_before(self):
        self.run_script("""
            other = connection.copy()
            for wrapper in (connection, other):
                session_id(wrapper)
            pid = session_id(other)
            sql = {
                "postgresql": "SELECT pg_terminate_backend(%s, 10000)",
                "mysql": "KILL %s",
            }[connection.vendor]
            with connection.cursor() as cursor:
                cursor.execute(sql, [pid])
            """)
