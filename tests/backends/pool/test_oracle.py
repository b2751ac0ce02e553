"""
The pool of the Oracle backend, on a stand-in for python-oracledb's
connections. No test here talks to an Oracle server.
"""

import gc
import unittest
from unittest import mock

from django.db import (
    DatabaseError,
    Error,
    OperationalError,
    connections,
    transaction,
)
from django.db.backends.base.base import RAN_DB_VERSION_CHECK
from django.test import SimpleTestCase, override_settings

from .utils import run_in_thread, wait_until

try:
    import oracledb
except ImportError:
    oracledb = None
else:
    from .oracle_stand_in import Connection, Cursor, Server

ALIAS = "oracle_stand_in"
INSERT = "INSERT INTO numbers VALUES (1)"


@unittest.skipIf(oracledb is None, "It takes oracledb.")
class StandInTests(SimpleTestCase):
    def test_names(self):
        """The stand-in has no attribute that the driver doesn't have."""
        for stand_in, real in [
            (Connection(Server()), oracledb.Connection),
            (Cursor(None), oracledb.Cursor),
        ]:
            names = {
                name
                for name in dir(stand_in)
                if not name.startswith("_") and name != "log"
            }
            self.assertEqual(names - set(dir(real)), set())

    def test_parameters(self):
        params = oracledb.ConnectParams(tcp_connect_timeout=3)
        self.assertEqual(params.tcp_connect_timeout, 3)


@unittest.skipIf(oracledb is None, "It takes oracledb.")
class OracleTests(SimpleTestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.databases = {*cls.databases, ALIAS}

    def setUp(self):
        self.server = Server()
        self.enterContext(
            mock.patch.object(oracledb, "connect", side_effect=self.server.connect)
        )
        self.settings_dict = {
            "ENGINE": "django.db.backends.oracle",
            "NAME": "orcl",
            "USER": "scott",
            "PASSWORD": "tiger",
            "POOL": {"max_size": 2, "timeout": 10},
        }
        connections.configure_settings({"default": self.settings_dict})
        self.enterContext(
            mock.patch.dict(connections.settings, {ALIAS: self.settings_dict})
        )
        self.addCleanup(RAN_DB_VERSION_CHECK.discard, ALIAS)
        self.wrapper = connections[ALIAS]
        self.addCleanup(delattr, connections._connections, ALIAS)
        self.addCleanup(self.close, self.wrapper)

    def close(self, wrapper):
        wrapper.close()
        wrapper.close_pool()

    def copy(self):
        wrapper = self.wrapper.copy()
        self.addCleanup(self.close, wrapper)
        return wrapper

    def query(self, sql, wrapper=None):
        with (wrapper or self.wrapper).cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchone() if cursor.description else None

    def stats(self):
        return self.wrapper.pool.stats()

    def test_borrow_and_give_back(self):
        for _ in range(3):
            self.assertEqual(self.query("SELECT 1 FROM DUAL"), (1,))
            self.wrapper.close()
        self.assertEqual(len(self.server.connections), 1)
        stats = self.stats()
        self.assertEqual((stats.acquired, stats.reused, stats.idle), (3, 2, 1))

    @override_settings(USE_TZ=True)
    def test_session_set_up_once_per_connection(self):
        for _ in range(3):
            self.wrapper.ensure_connection()
            self.wrapper.close()
        (log,) = self.server.connections
        alter = [sql for sql in log.statements if sql.startswith("ALTER SESSION")]
        self.assertEqual(len(alter), 2)
        self.assertIn("NLS_TERRITORY", alter[0])
        self.assertIn("TIME_ZONE = 'UTC'", alter[1])
        self.assertTrue(all("ALTER" in s or "DUMMY" in s for s in log.statements))

    def test_nothing_is_sent_to_borrow(self):
        self.wrapper.ensure_connection()
        self.wrapper.close()
        (log,) = self.server.connections
        before = list(log.calls)
        for _ in range(3):
            self.wrapper.ensure_connection()
            self.wrapper.close()
        self.assertEqual(log.calls, before)

    def test_attributes_of_the_driver(self):
        """Nobody inherits them."""
        for number, (name, value) in enumerate(
            [
                ("autocommit", False),
                ("inputtypehandler", print),
                ("outputtypehandler", print),
                ("stmtcachesize", 7),
            ],
            1,
        ):
            with self.subTest(name=name):
                self.wrapper.ensure_connection()
                before = getattr(self.wrapper.connection, name)
                setattr(self.wrapper.connection, name, value)
                self.wrapper.close()
                self.wrapper.ensure_connection()
                self.assertEqual(getattr(self.wrapper.connection, name), before)
                self.assertEqual(self.stats().closed, {"not reset": number})
        self.query(INSERT)
        self.assertEqual(self.server.committed, [INSERT])

    def test_operators_reach_every_borrower(self):
        """They are found out on opening."""
        self.wrapper.ensure_connection()
        self.wrapper.close()
        other = self.copy()
        other.ensure_connection()
        self.assertEqual(self.stats().reused, 1)
        self.assertEqual(other.operators, self.wrapper.operators)
        self.assertEqual(other.pattern_ops, self.wrapper.pattern_ops)

    def test_parameters(self):
        self.settings_dict["OPTIONS"] = {
            "stmtcachesize": 30,
            "pool": None,
            "use_returning_into": False,
        }
        self.wrapper.ensure_connection()
        (kwargs,) = self.server.connects
        self.assertEqual(kwargs["user"], "scott")
        self.assertEqual(kwargs["stmtcachesize"], 30)
        self.assertLessEqual(kwargs["tcp_connect_timeout"], 10)
        self.assertNotIn("pool", kwargs)
        self.assertNotIn("use_returning_into", kwargs)

    def test_password_is_read_afresh(self):
        self.wrapper.ensure_connection()
        self.settings_dict["PASSWORD"] = "lion"
        self.wrapper.close()
        self.wrapper.ensure_connection()
        passwords = [kwargs["password"] for kwargs in self.server.connects]
        self.assertEqual(passwords, ["tiger", "lion"])
        self.assertIs(self.server.connections[0].open, False)

    def test_autocommit(self):
        self.query(INSERT)
        self.assertEqual(self.server.committed, [INSERT])

    def test_open_transaction_is_rolled_back(self):
        for interrupt in [self.in_atomic, self.without_autocommit]:
            with self.subTest(interrupt=interrupt.__name__):
                interrupt()
                (log,) = self.server.connections
                self.assertEqual(log.calls[-1], "rollback")
                self.assertEqual(self.server.committed, [])
        self.wrapper.ensure_connection()
        self.assertIs(self.wrapper.connection.autocommit, True)
        self.assertIs(self.wrapper.get_autocommit(), True)

    def in_atomic(self):
        with transaction.atomic(ALIAS):
            self.query(INSERT)
            self.wrapper.close()

    def without_autocommit(self):
        self.wrapper.set_autocommit(False)
        self.query(INSERT)
        self.wrapper.close()

    def test_no_rollback_without_a_transaction(self):
        self.query("SELECT 1 FROM DUAL")
        self.wrapper.close()
        (log,) = self.server.connections
        self.assertNotIn("rollback", log.calls)

    def test_atomic(self):
        with transaction.atomic(ALIAS):
            self.query(INSERT)
        self.assertEqual(self.server.committed, [INSERT])

    def test_autocommit_setting_false(self):
        self.settings_dict["AUTOCOMMIT"] = False
        for _ in range(2):
            self.query(INSERT)
            self.wrapper.close()
        self.assertEqual(self.server.committed, [])
        self.assertEqual(len(self.server.connections), 1)

    def test_error(self):
        with self.assertRaises(DatabaseError):
            self.query("SELECT no_such_column FROM DUAL")
        self.wrapper.close()
        self.query("SELECT 1 FROM DUAL")
        self.assertEqual(len(self.server.connections), 1)

    def test_died_while_idle(self):
        self.wrapper.ensure_connection()
        self.wrapper.close()
        self.server.connections[0].alive = False
        self.assertEqual(self.query("SELECT 1 FROM DUAL"), (1,))
        self.assertEqual(self.stats().closed, {"dead": 1})
        self.assertIs(self.server.connections[0].open, False)

    def test_died_in_use(self):
        self.wrapper.ensure_connection()
        self.server.connections[0].alive = False
        with self.assertRaises(OperationalError):
            self.query("SELECT 1 FROM DUAL")
        self.wrapper.close()
        self.assertEqual(self.stats().size, 0)
        self.assertEqual(self.query("SELECT 1 FROM DUAL"), (1,))

    def test_check(self):
        self.settings_dict["POOL"] = {"check": True}
        for _ in range(2):
            self.wrapper.ensure_connection()
            self.wrapper.close()
        self.assertEqual(self.server.connections[0].calls.count("ping"), 1)

    def test_server_down(self):
        self.server.up = False
        with self.assertRaisesMessage(OperationalError, "DPY-6005"):
            self.wrapper.ensure_connection()
        self.assertEqual(self.stats().size, 0)
        self.server.up = True
        self.assertEqual(self.query("SELECT 1 FROM DUAL"), (1,))

    def test_cursor_kept(self):
        cursor = self.wrapper.cursor()
        own, driver_cursor = cursor.cursor, cursor.cursor.cursor
        self.wrapper.close()
        for held in (cursor, own, driver_cursor):
            with self.assertRaises((Error, oracledb.Error)):
                held.execute("SELECT 2 FROM DUAL")
        for log in self.server.connections:
            self.assertNotIn("SELECT 2 FROM DUAL", log.statements)

    def test_thread_that_ends(self):
        def use():
            connections[ALIAS].set_autocommit(False)
            self.query(INSERT, connections[ALIAS])

        for _ in range(4):
            run_in_thread(use)
        self.assertEqual(self.server.committed, [])
        self.assertEqual(self.stats().in_use, 0)

    def test_wrapper_collected(self):
        wrapper = self.wrapper.copy()
        wrapper.ensure_connection()
        pool = wrapper.pool
        del wrapper
        gc.collect()
        wait_until(lambda: not pool.stats().in_use)
        wait_until(lambda: not self.server.connections[0].open)

    def test_close_pool(self):
        other = self.copy()
        self.wrapper.ensure_connection()
        other.ensure_connection()
        other.close()
        self.wrapper.close_pool()
        self.assertEqual([log.open for log in self.server.connections], [True, False])
        self.wrapper.close()
        self.assertIs(self.server.connections[0].open, False)

    def test_forget(self):
        """
        After a fork, the child says nothing to the server: closing, which
        destructing does too, would end the parent's session.
        """
        self.wrapper.ensure_connection()
        pooling = self.wrapper.pool.pooling
        self.addCleanup(pooling.kept.clear)
        pooling.forget(self.wrapper.connection)
        self.assertIs(self.server.connections[0].open, True)
