"""What the tests of sessions share."""

import contextlib

from django.db import DatabaseError
from django.db.backends.signals import connection_created

from .session_kinds import is_postgresql, run
from .utils import ALIAS, SOON, PooledTestCase


class SessionTestCase(PooledTestCase):
    # A statement that takes long.
    sleep = "SELECT pg_sleep(30)" if is_postgresql else "SELECT SLEEP(30)"

    def setUp(self):
        super().setUp()
        self.use_pool(max_size=1, timeout=SOON)
        self.other = self.copy()

    def start(self, **options):
        """Begin with a new pool."""
        for wrapper in (self.wrapper, self.other):
            wrapper.close()
        self.wrapper.close_pool()
        pool = {"max_size": 1, "timeout": SOON, **options}
        self.use_pool(**pool)
        self.other.settings_dict["POOL"] = pool

    def execute_unpooled(self, *statements):
        wrapper = self.wrapper.copy()
        wrapper.settings_dict["POOL"] = None
        try:
            for sql in statements:
                run(wrapper, sql)
        finally:
            wrapper.close()

    def end_session(self, session_id):
        """
        End a session that may have ended. While it sleeps, the server doesn't
        notice that nobody is there any more.
        """
        if is_postgresql:
            sql = f"SELECT pg_terminate_backend({session_id}, {SOON * 1000})"
        else:
            sql = f"KILL {session_id}"
        with contextlib.suppress(DatabaseError):
            self.execute_unpooled(sql)

    def create(self, what, sql):
        """Create something that's dropped in the end."""
        drop = f"DROP {what}"
        with contextlib.suppress(DatabaseError):
            self.execute_unpooled(drop)
        self.execute_unpooled(sql)
        self._cleanups.insert(0, (self.execute_unpooled, (drop,), {}))

    @contextlib.contextmanager
    def receiver(self, receiver):
        """Connect a receiver of connection_created for the alias."""

        def receive(sender, connection, **kwargs):
            if connection.alias == ALIAS:
                receiver(connection)

        connection_created.connect(receive)
        try:
            yield
        finally:
            connection_created.disconnect(receive)
