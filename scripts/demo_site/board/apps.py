import threading

from django.apps import AppConfig
from django.db.backends.signals import connection_created


class Counter:
    """Counts the connections to the database that this process opened."""

    def __init__(self):
        self.value = 0
        self.lock = threading.Lock()

    def __call__(self, **kwargs):
        with self.lock:
            self.value += 1


connections_opened = Counter()


class BoardConfig(AppConfig):
    name = "board"
    verbose_name = "Message board"

    def ready(self):
        connection_created.connect(connections_opened)
