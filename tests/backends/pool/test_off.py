"""With the pool off, nothing changes."""

import unittest

from django.db import connection

from .utils import PooledTestCase


class OffTests(PooledTestCase):
    BODY = """
        import threading
        connection.ensure_connection()
        with transaction.atomic():
            query("SELECT 1")
        from django.db import close_old_connections, connections
        assert connection.pool is None
        connection.close_pool()
        close_old_connections()
        connections.close_all()
        from django.core.management import call_command
        call_command("check", databases=["default"], stdout=open("/dev/null", "w"))
        print([name for name in sys.modules if name.startswith("django.db.pool")])
        print([thread.name for thread in threading.enumerate()])
    """

    def assertOff(self):
        imported, threads = self.run_script(self.BODY)
        self.assertEqual(imported, "[]")
        self.assertEqual(threads, "['MainThread']")

    def test_none(self):
        self.settings_dict["POOL"] = None
        self.assertOff()

    def test_false(self):
        self.settings_dict["POOL"] = False
        self.assertOff()

    def test_absent(self):
        del self.settings_dict["POOL"]
        try:
            self.assertOff()
        finally:
            self.settings_dict["POOL"] = None

    def test_false_in_options(self):
        self.settings_dict["POOL"] = None
        self.settings_dict["OPTIONS"]["pool"] = False
        self.assertOff()

    def test_on(self):
        """So that the others prove something."""
        self.settings_dict["POOL"] = True
        body = self.BODY.replace("assert connection.pool is None", "")
        imported, threads = self.run_script(body)
        self.assertIn("django.db.pool.pool", imported)

    def test_settings_that_ask_for_it(self):
        """It's imported when they are read, not by a thread that connects."""
        self.settings_dict["POOL"] = None
        for settings, imported in (
            ({}, False),
            ({"OPTIONS": None}, False),
            ({"POOL": True}, True),
            ({"POOL": {}}, True),
            ({"POOL": False, "OPTIONS": {"pool": {"max_size": 2}}}, False),
            ({"OPTIONS": {"pool": {"max_size": 2}}}, True),
        ):
            with self.subTest(settings):
                lines = self.run_script(f"""
                    from django.db.utils import ConnectionHandler
                    assert "django.db.pool" not in sys.modules
                    ConnectionHandler({{"default": {settings}}}).settings
                    print("django.db.pool.borrower" in sys.modules)
                """)
                self.assertEqual(lines, [str(imported)])

    def test_first_connection(self):
        """It leaves nothing of the pool's to be imported amid a fork."""
        self.settings_dict["POOL"] = True
        (imported,) = self.run_script("""
            connection.vendor
            before = set(sys.modules)
            connection.ensure_connection()
            query("SELECT 1")
            connection.close()
            new = set(sys.modules) - before
            print(sorted(name for name in new if name.startswith("django")))
        """)
        self.assertEqual(imported, "[]")

    @unittest.skipUnless(connection.vendor == "sqlite", "SQLite tests")
    def test_in_memory(self):
        """Asked for, but not to be had: no thread either."""
        self.settings_dict["POOL"] = True
        self.settings_dict["NAME"] = ":memory:"
        body = self.BODY.replace('call_command("check"', '(lambda *a, **k: 0)("check"')
        _, threads = self.run_script(body)
        self.assertEqual(threads, "['MainThread']")
