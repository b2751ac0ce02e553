"""
What the settings of all databases share.

The modules here are settings for Django's tests/runtests.py, with this
directory on PYTHONPATH:

    scripts/servers postgresql -- env PYTHONPATH=build:scripts/settings \\
        python build/tests/runtests.py --settings=pool_postgresql LABELS

Variables of the environment choose the rest:

POOL_TEST_POOL      the value of POOL as JSON; without it there's no pool
POOL_TEST_DRIVER    another driver than the first that the backend looks for
POOL_TEST_RESULTS   a file to write the outcome of each test to
"""

import json
import os
import sys

POOL = os.environ.get("POOL_TEST_POOL")
DRIVER = os.environ.get("POOL_TEST_DRIVER")

COMMON = {
    "SECRET_KEY": "django_tests_secret_key",
    "PASSWORD_HASHERS": ["django.contrib.auth.hashers.MD5PasswordHasher"],
    "USE_TZ": False,
}
if os.environ.get("POOL_TEST_RESULTS"):
    COMMON["TEST_RUNNER"] = "pool_runner.RecordingRunner"


def databases(default, other):
    """Return DATABASES: two databases, pooled if that was asked for."""
    result = {"default": default, "other": other}
    if POOL:
        for settings in result.values():
            settings["POOL"] = json.loads(POOL)
    return result


def hide(*names):
    """Make modules look as if they weren't installed."""
    for name in list(sys.modules):
        if name.partition(".")[0] in names:
            del sys.modules[name]
    for name in names:
        sys.modules[name] = None
