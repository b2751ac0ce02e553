"""
A backend that connects in its own way, without asking Django's connect().
"""

from django.db.backends.signals import connection_created
from django.db.backends.sqlite3 import base


class DatabaseWrapper(base.DatabaseWrapper):
    def connect(self):
        self.check_settings()
        self.in_atomic_block = False
        self.savepoint_ids = []
        self.atomic_blocks = []
        self.needs_rollback = False
        self.closed_in_transaction = False
        self.errors_occurred = False
        self.health_check_done = True
        self.close_at = None
        self.connection = self.get_new_connection(self.get_connection_params())
        self.set_autocommit(self.settings_dict["AUTOCOMMIT"])
        self.init_connection_state()
        connection_created.send(sender=self.__class__, connection=self)
        self.run_on_commit = []
