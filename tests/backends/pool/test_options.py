import inspect
import unittest
from unittest import mock

from django.core.checks.database import check_database_backends
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.pool.options import (
    DRIVER_POOL_OPTIONS,
    HEALTH_CHECK_AFTER,
    NAMES,
    PoolOptions,
    find_problems,
    is_configured,
    parse,
)
from django.test import SimpleTestCase

INFINITY = float("inf")
NAN = float("nan")
# More than a float can hold.
HUGE = 10**400


def settings_with(pool=None, **settings):
    return {"POOL": pool, "OPTIONS": {}, "CONN_MAX_AGE": 0, **settings}


class Array:
    """Like an array, it can't be compared as a whole."""

    def __eq__(self, other):
        raise ValueError("The truth value of an array is ambiguous.")

    __hash__ = None


ARRAY = Array()


class OptionsTestCase(SimpleTestCase):
    def parse(self, pool, **settings):
        return parse(settings_with(pool, **settings), "default")

    def assertRefused(self, pool, *texts, **settings):
        """The error names the alias and each of some texts."""
        with self.assertRaises(ImproperlyConfigured) as caught:
            self.parse(pool, **settings)
        message = str(caught.exception)
        for text in ("DATABASES['default']", *texts):
            self.assertIn(text, message)
        return message


class OnOrOffTests(OptionsTestCase):
    def test_absent_none_and_false_mean_no_pool(self):
        for settings_dict in (
            {},
            {"OPTIONS": None},
            {"OPTIONS": {}},
            {"POOL": None, "OPTIONS": {}},
            {"POOL": False, "OPTIONS": {}},
            {"OPTIONS": {"pool": None}},
            {"OPTIONS": {"pool": False}},
        ):
            with self.subTest(settings_dict):
                self.assertIs(is_configured(settings_dict), False)
                self.assertIsNone(parse(settings_dict, "default"))
                self.assertEqual(find_problems(settings_dict), [])

    def test_true_and_empty_mean_a_pool_with_defaults(self):
        defaults = PoolOptions(name="default")
        for value in (True, {}):
            for settings_dict in ({"POOL": value}, {"OPTIONS": {"pool": value}}):
                with self.subTest(settings_dict):
                    self.assertIs(is_configured(settings_dict), True)
                    self.assertEqual(parse(settings_dict, "default"), defaults)

    def test_documented_defaults(self):
        options = self.parse(True)
        self.assertEqual(options.min_size, 0)
        self.assertEqual(options.max_size, 10)
        self.assertEqual(options.timeout, 30)
        self.assertIsNone(options.max_waiting)
        self.assertEqual(options.max_lifetime, 3600)
        self.assertEqual(options.max_idle, 600)
        self.assertEqual(options.reconnect_timeout, 300)
        self.assertIs(options.check, False)
        self.assertEqual(options.order, "lifo")

    def test_other_values_are_refused(self):
        for value in (0, 1, "", "yes", 10, [], (), ("max_size", 1), object()):
            with self.subTest(value):
                self.assertRefused(value, repr(value), "True, False, or a dictionary")

    def test_concurrent_async_needs_autocommit(self):
        with self.assertRaisesMessage(ImproperlyConfigured, "concurrent_async"):
            parse({"POOL": {"concurrent_async": True}, "AUTOCOMMIT": False}, "default")

    def test_both_spellings_mean_the_same(self):
        chosen = {"max_size": 3, "timeout": 1.5, "order": "fifo"}
        self.assertEqual(
            parse({"POOL": chosen}, "default"),
            parse({"OPTIONS": {"pool": chosen}}, "default"),
        )

    def test_the_spelling_used_is_named(self):
        self.assertRefused({"max_size": 0}, "POOL['max_size'] is 0")
        self.assertRefused(
            None,
            "OPTIONS['pool']['max_size'] is 0",
            OPTIONS={"pool": {"max_size": 0}},
        )

    def test_both_spellings_at_once_are_refused(self):
        for top, nested in (
            (True, True),
            ({}, {}),
            ({"max_size": 2}, {"max_size": 2}),
            (True, False),
            (False, True),
        ):
            with self.subTest(top=top, nested=nested):
                self.assertRefused(
                    top, "POOL", "OPTIONS['pool']", "remove", OPTIONS={"pool": nested}
                )

    def test_none_is_no_spelling(self):
        self.assertEqual(self.parse(True, OPTIONS={"pool": None}).max_size, 10)
        self.assertEqual(self.parse(None, OPTIONS={"pool": True}).max_size, 10)

    def test_settings_are_left_alone(self):
        chosen = {"max_size": 3}
        self.parse(chosen, CONN_HEALTH_CHECKS=True)
        self.assertEqual(chosen, {"max_size": 3})


class ValueTests(OptionsTestCase):
    # name -> (values that are allowed, values that aren't)
    VALUES = {
        "min_size": ([0, 1, 10], [-1, 1.0, 0.5, "1", None, True, False, NAN, []]),
        "max_size": ([1, 2, 10_000], [0, -1, 1.0, "10", None, True, NAN, INFINITY]),
        "timeout": (
            [0.001, 1, 30.5, INFINITY],
            [-1, -0.1, "30", None, True, False, NAN, -INFINITY, HUGE, 1j],
        ),
        "max_waiting": ([None, 0, 1, 100], [-1, 1.5, "1", True, False, NAN, INFINITY]),
        "max_lifetime": (
            [None, 0.5, 3600, INFINITY],
            [0, -1, "3600", True, False, NAN, HUGE],
        ),
        "max_idle": (
            [None, 0.5, 600, INFINITY],
            [0, -1, "600", True, False, NAN, HUGE],
        ),
        "reconnect_timeout": (
            [0, 0.5, 300, INFINITY],
            [-1, "300", None, True, False, NAN, HUGE],
        ),
        "check": (
            [True, False, 0, 0.5, 30, len, lambda connection: None],
            [-1, "always", None, NAN, [], HUGE],
        ),
        "reset": (
            ["auto", "always", "never", len],
            ["", "Auto", None, True, 0, [], ARRAY],
        ),
        "leak_warning": (
            [None, 0.5, 60, INFINITY],
            [0, -1, "60", True, False, NAN, HUGE],
        ),
        "connecting": ([1, 2, 50], [0, -1, 1.0, "1", None, True, NAN]),
        "order": (
            ["lifo", "fifo"],
            ["LIFO", "", None, True, 0, ["lifo"], b"lifo", ARRAY],
        ),
        "lease": (["request", "transaction"], [None, "", "statement", True, [], ARRAY]),
        "report_pins": ([True, False], [None, 0, 1, "yes"]),
        "name": ([None, "main", "a b"], ["", 1, True, b"main", ["main"]]),
        "concurrent_async": ([True, False], [None, 0, 1, "yes", []]),
        "cancel_queries": ([True, False], [None, 0, 1, "yes", []]),
    }

    def test_every_option_is_covered_here(self):
        self.assertEqual(set(self.VALUES), set(NAMES))

    def test_allowed(self):
        for name, (allowed, _) in self.VALUES.items():
            for value in allowed:
                with self.subTest(name=name, value=value):
                    options = self.parse({"max_size": 10, name: value})
                    wanted = "default" if (name, value) == ("name", None) else value
                    self.assertEqual(getattr(options, name), wanted)

    def test_refused(self):
        for name, (_, refused) in self.VALUES.items():
            for value in refused:
                with self.subTest(name=name, value=str(value)[:20]):
                    self.assertRefused(
                        {name: value}, f"POOL[{name!r}] is {value!r}.", "Set it to "
                    )

    def test_all_problems_are_told_at_once(self):
        self.assertRefused(
            {"max_size": 0, "timeout": -1, "max_sise": 1, "pre_ping": True},
            "POOL['max_size'] is 0",
            "POOL['timeout'] is -1",
            "Did you mean 'max_size'?",
            "use 'check'",
        )

    def test_min_size_above_max_size_is_refused(self):
        self.assertRefused(
            {"min_size": 5, "max_size": 4}, "'min_size'] is 5", "'max_size'", "4"
        )

    def test_min_size_above_default_max_size_is_refused(self):
        self.assertRefused({"min_size": 11}, "'min_size'] is 11", "10")

    def test_min_size_may_equal_max_size(self):
        self.assertEqual(self.parse({"min_size": 4, "max_size": 4}).min_size, 4)

    def test_timeout_of_zero_without_min_size_is_refused(self):
        """No borrower could wait for a connect, so none would be opened."""
        for timeout in (0, 0.0):
            with self.subTest(timeout):
                self.assertRefused({"timeout": timeout}, "'timeout'", "'min_size'")

    def test_timeout_of_zero_with_min_size(self):
        self.assertEqual(self.parse({"timeout": 0, "min_size": 1}).timeout, 0)

    def test_name_is_the_alias_by_default(self):
        self.assertEqual(parse({"POOL": True}, "other").name, "other")
        self.assertEqual(parse({"POOL": {"name": "x"}}, "other").name, "x")


class UnknownNameTests(OptionsTestCase):
    def test_nearest_option_is_named(self):
        for name, nearest in (
            ("max_sise", "max_size"),
            ("maxsize", "max_size"),
            ("minsize", "min_size"),
            ("time_out", "timeout"),
            ("max_life_time", "max_lifetime"),
            ("MAX_SIZE", "max_size"),
            ("checks", "check"),
        ):
            with self.subTest(name):
                message = self.assertRefused({name: 1}, f"POOL[{name!r}] (1) isn't")
                self.assertIn(f"Did you mean {nearest!r}?", message)

    def test_without_a_near_one_all_options_are_listed(self):
        message = self.assertRefused({"xyzzy": 1}, "POOL['xyzzy'] (1) isn't")
        for name in NAMES:
            self.assertIn(name, message)

    def test_names_that_are_no_strings(self):
        for name in (1, None, ("max_size",), b"max_size"):
            with self.subTest(name):
                self.assertRefused({name: 1}, repr(name))

    def test_options_of_driver_pools_are_refused_with_a_remedy(self):
        for name, remedy in DRIVER_POOL_OPTIONS.items():
            with self.subTest(name):
                message = self.assertRefused({name: 5}, f"[{name!r}] (5)", remedy)
                self.assertNotIn("Did you mean", message)

    def test_no_option_is_listed_as_a_driver_pools(self):
        self.assertEqual(set(DRIVER_POOL_OPTIONS) & set(NAMES), set())

    def test_every_option_of_psycopg_pool_is_known_or_refused_by_name(self):
        try:
            from psycopg_pool import ConnectionPool
        except ImportError as e:
            raise unittest.SkipTest("psycopg_pool isn't installed.") from e
        names = set(inspect.signature(ConnectionPool.__init__).parameters) - {"self"}
        self.assertLessEqual(names, {*NAMES, *DRIVER_POOL_OPTIONS})

    def test_every_pool_option_of_oracledb_is_known_or_refused_by_name(self):
        try:
            import oracledb
        except ImportError as e:
            raise unittest.SkipTest("oracledb isn't installed.") from e
        # What connect() takes too describes a connection and not the pool.
        names = set(inspect.signature(oracledb.create_pool).parameters) - set(
            inspect.signature(oracledb.connect).parameters
        )
        self.assertLessEqual(names, {*NAMES, *DRIVER_POOL_OPTIONS})


class OtherSettingsTests(OptionsTestCase):
    def test_conn_max_age_is_refused(self):
        for age in (None, 1, 60, 0.5):
            with self.subTest(age):
                self.assertRefused(
                    True,
                    "Pooling doesn't support persistent connections.",
                    f"CONN_MAX_AGE is {age!r}",
                    "'max_lifetime'",
                    CONN_MAX_AGE=age,
                )

    def test_conn_max_age_is_fine_without_a_pool(self):
        self.assertIsNone(self.parse(False, CONN_MAX_AGE=None))

    def test_conn_health_checks_chooses_the_default_of_check(self):
        options = self.parse(True, CONN_HEALTH_CHECKS=True)
        self.assertEqual(options.check, HEALTH_CHECK_AFTER)
        self.assertIs(self.parse(True, CONN_HEALTH_CHECKS=False).check, False)

    def test_check_goes_before_conn_health_checks(self):
        for check in (True, False, 0, 30):
            with self.subTest(check):
                options = self.parse({"check": check}, CONN_HEALTH_CHECKS=True)
                self.assertIs(options.check, check)


class SystemCheckTests(SimpleTestCase):
    """check_database_backends() needs no connection to find wrong options."""

    def check(self, **settings):
        wrapper = connections["default"].copy()
        wrapper.settings_dict.update({"CONN_MAX_AGE": 0, **settings})
        wrapper.settings_dict["OPTIONS"] = {
            key: value
            for key, value in wrapper.settings_dict["OPTIONS"].items()
            if key != "pool"
        }
        with (
            mock.patch.object(type(wrapper.validation), "check", return_value=[]),
            mock.patch.object(wrapper, "connect", side_effect=AssertionError),
            mock.patch("django.core.checks.database.connections", {"default": wrapper}),
        ):
            return check_database_backends(databases=["default"])

    def test_right_options_pass(self):
        name = {"NAME": "a_file"}
        self.assertEqual(self.check(POOL=True, **name), [])
        self.assertEqual(self.check(POOL={"max_size": 4}, **name), [])
        self.assertEqual(self.check(POOL=False), [])
        self.assertEqual(self.check(POOL=None), [])

    def test_each_wrong_option_is_an_error(self):
        errors = self.check(POOL={"max_size": 0, "max_wait": 1}, CONN_MAX_AGE=60)
        self.assertEqual([error.id for error in errors], ["database.E001"] * 3)
        for error, what in zip(
            errors, ("POOL['max_size'] is 0", "POOL['max_wait']", "CONN_MAX_AGE is 60")
        ):
            self.assertIn("DATABASES['default']", error.msg)
            self.assertIn(what, error.msg)
            self.assertNotEqual(error.hint, "")
            self.assertTrue(error.is_serious())

    def test_not_checked_without_databases(self):
        self.assertEqual(check_database_backends(databases=None), [])

    @unittest.skipUnless(connections["default"].vendor == "sqlite", "SQLite only.")
    def test_in_memory_database_is_a_warning(self):
        for name in (":memory:", "file:memorydb_x?mode=memory&cache=shared"):
            with self.subTest(name):
                (warning,) = self.check(POOL=True, NAME=name)
                self.assertEqual(warning.id, "database.W001")
                self.assertIn(name, warning.msg)
                self.assertIn("NAME", warning.hint)
                self.assertFalse(warning.is_serious())
