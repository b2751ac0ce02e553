"""
PostgreSQL behind PgBouncer, on servers of scripts/servers, set as Django
documents it. Psycopg prepares no statements unless it's told to.
"""

import os

from pool_common import COMMON
from pool_postgresql import DATABASES

globals().update(COMMON)

for _settings in DATABASES.values():
    _settings["HOST"] = os.environ["POOL_PGBOUNCER_HOST"]
    _settings["PORT"] = os.environ["POOL_PGBOUNCER_PORT"]
    if os.environ["POOL_PGBOUNCER_MODE"] == "transaction":
        _settings["DISABLE_SERVER_SIDE_CURSORS"] = True
    # PgBouncer keeps connections to it. So it can't be dropped, and should
    # be in nobody else's way.
    _settings["TEST"] = {"NAME": f"test_behind_{_settings['NAME']}"}
