"""Which wrapper gets which pool, and what its connections are made with."""

import gc
import ssl
import threading
import unittest
from concurrent import futures
from unittest import mock

from django.core.exceptions import ImproperlyConfigured
from django.db import connection, connections
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.pool import ConnectionPool, registry
from django.test import override_settings

from .utils import ALIAS, SOON, PooledTestCase, run_in_thread, wait_until


class IdentityTests(PooledTestCase):
    """A pool belongs to an alias and to all that makes a connection."""

    def borrow_and_return(self):
        """Leave one idle connection in the pool. Return it and the pool."""
        self.wrapper.ensure_connection()
        slot = self.slot()
        self.wrapper.close()
        return slot, self.wrapper.pool

    def assertReplaced(self, slot, pool):
        """The pool was left behind, and nothing of it is used any more."""
        self.assertIsNot(self.wrapper.pool, pool)
        self.assertIs(pool.closed, True)
        self.assertEqual(pool.stats().size, 0)
        self.wrapper.ensure_connection()
        self.assertIsNot(self.slot(), slot)

    def test_same_settings_share_a_pool(self):
        slot, pool = self.borrow_and_return()
        other = self.copy()
        self.assertIs(other.pool, pool)
        other.ensure_connection()
        self.assertIs(self.slot(other), slot)

    def test_threads_share_a_pool(self):
        _, pool = self.borrow_and_return()
        self.assertIs(run_in_thread(lambda: connections[ALIAS].pool), pool)

    def test_aliases_do_not_share_a_pool(self):
        _, pool = self.borrow_and_return()
        other = self.wrapper.copy("another")
        self.addCleanup(self.close, other)
        self.assertIsNot(other.pool, pool)

    def test_a_changed_copy_leaves_the_pool_alone(self):
        slot, pool = self.borrow_and_return()
        other = self.copy(OPTIONS={})
        other.settings_dict["POOL"] = {"max_size": 2}
        self.assertIsNot(other.pool, pool)
        self.assertIs(pool.closed, False)
        other.ensure_connection()
        self.assertIsNot(self.slot(other), slot)
        self.wrapper.ensure_connection()
        self.assertIs(self.slot(), slot)

    @unittest.skipUnless(connection.vendor == "sqlite", "It needs another database.")
    def test_name_changed_in_place(self):
        before = self.borrow_and_return()
        name = str(self.directory / "another.sqlite3")
        self.settings_dict["NAME"] = name
        self.assertReplaced(*before)
        self.assertEqual(self.query("PRAGMA database_list")[2], name)

    @unittest.skipIf(connection.vendor == "sqlite", "SQLite has no users.")
    def test_name_changed_in_place_after_use(self):
        before = self.borrow_and_return()
        # What create_test_db() does.
        self.settings_dict["NAME"] = "no_such_database"
        with self.assertRaises(self.wrapper.Database.Error) as caught:
            try:
                self.wrapper.connect()
            except Exception as e:
                raise (e.__cause__ or e)
        self.assertIn("no_such_database", str(caught.exception))
        self.assertIs(before[1].closed, True)

    @unittest.skipIf(connection.vendor == "sqlite", "SQLite has no users.")
    def test_user_changed_in_place(self):
        before = self.borrow_and_return()
        self.settings_dict["USER"] = "no_such_user"
        with self.assertRaises(Exception):
            self.wrapper.connect()
        self.assertIs(before[1].closed, True)

    def test_password_changed_in_place(self):
        before = self.borrow_and_return()
        pool = self.wrapper.pool
        self.settings_dict["PASSWORD"] += "x"
        self.assertIsNot(self.wrapper.pool, pool)
        self.settings_dict["PASSWORD"] = self.settings_dict["PASSWORD"][:-1]
        self.assertReplaced(*before)

    def test_options_changed_in_place(self):
        before = self.borrow_and_return()
        name, value = {
            "postgresql": ("application_name", "pool_test"),
            "mysql": ("init_command", "SET @pool_test = 1"),
            "sqlite": ("init_command", "PRAGMA cache_size = 77"),
        }[connection.vendor]
        # The same dictionary, as the wrappers of all threads see it.
        self.settings_dict["OPTIONS"][name] = value
        self.assertReplaced(*before)

    @override_settings(USE_TZ=True)
    def test_time_zone_changed_in_place(self):
        before = self.borrow_and_return()
        self.wrapper.timezone, self.wrapper.timezone_name
        self.settings_dict["TIME_ZONE"] = "Africa/Nairobi"
        # As django.test.signals does it.
        del self.wrapper.timezone
        del self.wrapper.timezone_name
        self.assertReplaced(*before)
        if connection.vendor == "postgresql":
            self.assertEqual(self.query("SHOW TIMEZONE")[0], "Africa/Nairobi")

    def test_pool_options_changed_in_place(self):
        before = self.borrow_and_return()
        self.settings_dict["POOL"] = {"max_size": 1}
        self.assertReplaced(*before)
        self.assertEqual(self.stats().max_size, 1)

    def test_pool_switched_off_in_place(self):
        slot, pool = self.borrow_and_return()
        self.settings_dict["POOL"] = False
        self.assertIsNone(self.wrapper.pool)
        self.wrapper.ensure_connection()
        self.assertIs(pool.closed, True)
        self.assertEqual(pool.stats().size, 0)
        self.wrapper.close()

    def test_pool_switched_off_under_leases_by_transaction(self):
        """Nothing of the policy is left."""
        self.use_pool(lease="transaction")
        self.assertEqual(self.query("SELECT 1"), (1,))
        pool = self.wrapper.pool
        self.settings_dict["POOL"] = False
        for _ in range(2):
            self.wrapper.ensure_connection()
            self.assertEqual(self.query("SELECT 1"), (1,))
        self.assertIs(pool.closed, True)
        self.wrapper.close()
        self.assertIsNone(self.wrapper.connection)

    @unittest.skipUnless(connection.vendor == "sqlite", "SQLite tests")
    def test_changed_to_a_database_in_memory_in_place(self):
        """What create_test_db() does."""
        _, pool = self.borrow_and_return()
        self.settings_dict["NAME"] = "file:pool_test_in_place?mode=memory&cache=shared"
        self.wrapper.ensure_connection()
        self.assertIs(pool.closed, True)
        # close() doesn't: the last connection keeps the data.
        self.wrapper.connection.close()

    def test_changed_in_another_thread(self):
        slot, pool = self.borrow_and_return()
        self.settings_dict["OPTIONS"]["timeout"] = 7

        def use():
            self.assertIs(connections[ALIAS].pool is pool, False)
            connections[ALIAS].close_pool()

        run_in_thread(use)
        self.assertIs(pool.closed, True)

    def test_changed_while_a_connection_is_opened(self):
        """Nobody knows which settings it was made for: it isn't kept."""
        wrapper_class = type(self.wrapper)
        get_new_connection = wrapper_class.get_new_connection

        def change(wrapper, conn_params):
            self.settings_dict["PASSWORD"] += "x"
            return get_new_connection(wrapper, conn_params)

        with mock.patch.object(wrapper_class, "get_new_connection", change):
            self.wrapper.ensure_connection()
        pool = self.wrapper._borrower.pool
        self.settings_dict["PASSWORD"] = self.settings_dict["PASSWORD"][:-1]
        self.wrapper.close()
        self.assertEqual((pool.stats().size, pool.closed), (0, False))

    def test_changed_while_somebody_waits(self):
        """Who waits goes on to wait for the new pool."""
        for lease in ("request", "transaction"):
            with self.subTest(lease=lease):
                self.use_pool(max_size=1, timeout=SOON, lease=lease)
                holder = self.copy()
                holder.ensure_connection()
                old = self.wrapper.pool

                def work():
                    # For threads' wrappers, too, the settings are those of
                    # the alias.
                    wrapper = connections[ALIAS]
                    try:
                        self.query("SELECT 1", wrapper=wrapper)
                        return wrapper.pool
                    finally:
                        wrapper.close()

                with futures.ThreadPoolExecutor(1) as executor:
                    future = executor.submit(work)
                    wait_until(lambda: old.stats().waiting == 1)
                    self.settings_dict["POOL"] = {"max_size": 2, "lease": lease}
                    new = self.wrapper.pool
                    self.assertIs(future.result(SOON), new)
                self.assertIsNot(new, old)
                self.close(holder)

    def test_a_borrowed_connection_does_not_outlive_its_settings(self):
        self.wrapper.ensure_connection()
        slot, pool = self.slot(), self.wrapper.pool
        self.settings_dict["POOL"] = {"max_size": 1}
        # Asking for the pool doesn't take away what is in use.
        self.wrapper.pool
        self.assertIs(self.slot(), slot)
        self.assertEqual(self.query("SELECT 1"), (1,))
        self.wrapper.close()
        self.assertReplaced(slot, pool)

    def test_settings_that_make_no_difference(self):
        slot, pool = self.borrow_and_return()
        self.settings_dict["ATOMIC_REQUESTS"] = True
        self.settings_dict["TEST"]["CHARSET"] = "anything"
        self.assertIs(self.wrapper.pool, pool)
        self.wrapper.ensure_connection()
        self.assertIs(self.slot(), slot)

    def test_pool_made_by_a_copy_is_left_behind_too(self):
        other = self.copy()
        other.ensure_connection()
        other.close()
        slot, pool = self.borrow_and_return()
        self.assertIs(other.pool, pool)
        self.settings_dict["POOL"] = {"max_size": 1}
        self.assertReplaced(slot, pool)

    def test_pool_of_a_dropped_copy_is_closed(self):
        other = self.wrapper.copy()
        other.settings_dict["POOL"] = {"max_size": 2}
        pool = other.pool
        del other
        gc.collect()
        # Maintenance looks for such pools whenever it has something to do.
        self.borrow_and_return()
        wait_until(lambda: pool.closed)

    def test_pool_of_a_dropped_copy_is_needed_again(self):
        """Just before it's closed: then there's another."""

        def copy():
            wrapper = self.wrapper.copy()
            wrapper.settings_dict["POOL"] = {"max_size": 2}
            return wrapper

        pool = copy().pool
        gc.collect()
        lock, me, found = registry._lock, threading.current_thread(), []

        class Lock:
            def __enter__(self):
                lock.acquire()

            def __exit__(self, *exc_info):
                lock.release()
                if threading.current_thread() is me and not found:
                    found.append(None)
                    found[0] = copy().pool

        with mock.patch.object(registry, "_lock", Lock()):
            registry.close_orphans()
        self.assertIs(pool.closed, True)
        self.assertIsNot(found[0], pool)
        gc.collect()
        registry.close_orphans()

    def test_pools_that_were_closed_are_forgotten(self):
        for _ in range(3):
            self.borrow_and_return()[1].close()
        pool = self.wrapper.pool
        self.assertEqual(
            [entry.pool for entry in registry._registrations if entry.alias == ALIAS],
            [pool],
        )

    def test_options_that_cannot_be_copied(self):
        wrapper = self.copy()
        options = wrapper.settings_dict["OPTIONS"]
        options["context"] = {"ssl": [ssl.create_default_context()]}
        found = wrapper.pool.pooling.settings_dict["OPTIONS"]
        self.assertEqual(found, options)
        # It stays what it is when the wrapper's are changed.
        options["context"]["ssl"].clear()
        self.assertNotEqual(found, options)
        options["context"] = None


class UnpooledTests(PooledTestCase):
    """What is never pooled, though the settings ask for it."""

    @unittest.skipUnless(connection.vendor == "sqlite", "SQLite tests")
    def test_in_memory_database(self):
        for name in [
            ":memory:",
            "file::memory:?cache=shared",
            "file:pool_test?mode=memory&cache=shared",
        ]:
            with self.subTest(name=name):
                wrapper = self.copy(NAME=name)
                self.assertIsNone(wrapper.pool)
                wrapper.ensure_connection()
                # close() doesn't: the last connection keeps the data.
                wrapper.connection.close()

    def test_no_database_alias(self):
        wrapper = self.wrapper.copy(NO_DB_ALIAS)
        self.assertIsNone(wrapper.pool)

    def test_no_database_cursor(self):
        if connection.vendor == "sqlite":
            self.skipTest("SQLite has no other database to connect to.")
        with self.wrapper._nodb_cursor() as cursor:
            self.assertIsNone(cursor.db.pool)
            cursor.execute("SELECT 1")


class ParametersTests(PooledTestCase):
    def test_read_afresh_for_every_new_connection(self):
        """Rotating credentials arrive."""
        backend = type(self.wrapper)
        passwords = iter(["first", "second"])
        seen = []

        def get_connection_params(wrapper):
            return {**original(wrapper), "password_of_the_hour": next(passwords)}

        def get_new_connection(wrapper, conn_params):
            seen.append(conn_params.pop("password_of_the_hour"))
            return connect(wrapper, conn_params)

        original = backend.get_connection_params
        connect = backend.get_new_connection
        with mock.patch.multiple(
            backend,
            get_connection_params=get_connection_params,
            get_new_connection=get_new_connection,
        ):
            self.wrapper.ensure_connection()
            self.wrapper.close()
            # Not for a connection that exists.
            self.wrapper.ensure_connection()
            self.assertEqual(seen, ["first"])
            other = self.copy()
            other.ensure_connection()
        self.assertEqual(seen, ["first", "second"])

    def test_read_afresh_for_connections_opened_in_advance(self):
        calls = []
        original = type(self.wrapper).get_connection_params

        def get_connection_params(wrapper):
            calls.append(wrapper)
            return original(wrapper)

        self.use_pool(min_size=2, max_size=2, timeout=10)
        with mock.patch.object(
            type(self.wrapper), "get_connection_params", get_connection_params
        ):
            self.wrapper.ensure_connection()
            other = self.copy()
            other.ensure_connection()
        self.assertEqual(len(calls), 2)

    def connect_timeout(self):
        """Return the time that the driver is given, without connecting."""
        with mock.patch.object(
            type(self.wrapper), "get_new_connection", side_effect=ZeroDivisionError
        ) as connect:
            with self.assertRaises(ZeroDivisionError):
                self.wrapper.connect()
        return connect.call_args.args[0].get("connect_timeout")

    @unittest.skipIf(connection.vendor == "sqlite", "SQLite doesn't wait to connect.")
    def test_connecting_is_limited_by_the_timeout(self):
        self.use_pool(timeout=7.5)
        self.assertEqual(self.connect_timeout(), 8)

    @unittest.skipIf(connection.vendor == "sqlite", "SQLite doesn't wait to connect.")
    def test_a_shorter_limit_of_the_driver_is_kept(self):
        self.use_pool(timeout=30)
        self.settings_dict["OPTIONS"]["connect_timeout"] = 3
        self.assertEqual(self.connect_timeout(), 3)


class InterfaceTests(PooledTestCase):
    """What Django 5.1 to 6.1 had, and packages rely on."""

    def test_pool(self):
        self.assertIsInstance(self.wrapper.pool, ConnectionPool)
        self.assertEqual(self.wrapper.pool.name, ALIAS)
        self.assertIsNone(self.unpooled().pool)

    def test_options_spelling(self):
        wrapper = self.copy(POOL=None)
        wrapper.settings_dict["OPTIONS"]["pool"] = {"max_size": 3}
        self.assertEqual(wrapper.pool.stats().max_size, 3)
        wrapper.ensure_connection()
        self.assertEqual(wrapper.pool.stats().in_use, 1)

    def test_false_and_none_switch_off(self):
        for value in (False, None):
            with self.subTest(value=value):
                self.assertIsNone(self.copy(POOL=value).pool)
                wrapper = self.copy(POOL=None)
                wrapper.settings_dict["OPTIONS"]["pool"] = value
                self.assertIsNone(wrapper.pool)
                wrapper.ensure_connection()

    def test_true_and_empty_switch_on(self):
        for value in (True, {}):
            with self.subTest(value=value):
                self.assertEqual(self.copy(POOL=value).pool.stats().max_size, 10)

    def test_close_pool(self):
        self.wrapper.ensure_connection()
        self.wrapper.close()
        pool = self.wrapper.pool
        self.wrapper.close_pool()
        self.assertIs(pool.closed, True)
        self.assertEqual(pool.stats().size, 0)
        # Connecting opens a new one.
        self.wrapper.ensure_connection()
        self.assertIsNot(self.wrapper.pool, pool)

    def test_close_pool_while_connected(self):
        self.wrapper.ensure_connection()
        pool = self.wrapper.pool
        self.wrapper.close_pool()
        self.assertEqual(self.query("SELECT 1"), (1,))
        self.assertEqual(pool.stats().in_use, 1)
        self.wrapper.close()
        self.assertEqual(pool.stats().size, 0)

    def test_close_pool_twice(self):
        self.wrapper.pool
        self.wrapper.close_pool()
        self.wrapper.close_pool()

    def test_close_pool_without_a_pool(self):
        self.unpooled().close_pool()

    def test_connection_pools(self):
        pools = type(self.wrapper)._connection_pools
        self.assertNotIn(ALIAS, pools)
        pool = self.wrapper.pool
        self.assertIs(pools[ALIAS], pool)
        # A hook for forked processes of the time of psycopg_pool.
        del type(self.wrapper)._connection_pools[ALIAS]
        self.assertNotIn(ALIAS, pools)
        self.assertIs(pool.closed, True)

    def test_persistent_connections(self):
        for max_age in (None, 60):
            with self.subTest(max_age=max_age):
                wrapper = self.copy(CONN_MAX_AGE=max_age)
                msg = "Pooling doesn't support persistent connections."
                with self.assertRaisesMessage(ImproperlyConfigured, msg):
                    wrapper.pool
                with self.assertRaisesMessage(ImproperlyConfigured, msg):
                    wrapper.connect()

    def test_wrong_options_on_first_use(self):
        wrapper = self.copy(POOL={"max_sise": 3})
        msg = f"DATABASES['{ALIAS}']: POOL['max_sise'] (3) isn't an option of the pool."
        with self.assertRaisesMessage(ImproperlyConfigured, msg):
            wrapper.connect()
        with self.assertRaisesMessage(ImproperlyConfigured, msg):
            wrapper.pool

    def test_what_is_neither_on_nor_off(self):
        for value in (0, 0.0, "", [], 1):
            wrapper = self.copy(POOL=value)
            msg = f"POOL is {value!r}. Set POOL to True, False,"
            with self.subTest(value=value):
                with self.assertRaisesMessage(ImproperlyConfigured, msg):
                    wrapper.connect()
                self.assertEqual(len(wrapper.validation.check_pool()), 1)

    def test_settings_without_options(self):
        """Those of a wrapper that a third party makes."""
        wrapper = self.unpooled()
        del wrapper.settings_dict["OPTIONS"]
        self.assertIsNone(wrapper.pool)
