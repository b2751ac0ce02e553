import time

from django.apps import AppConfig
from django.db.backends.signals import connection_created


class SiteConfig(AppConfig):
    name = "asgi_scenarios.site"
    label = "site"

    def ready(self):
        connection_created.connect(add_pause)


def add_pause(connection, **kwargs):
    """SQLite has no function that takes time."""
    if connection.vendor == "sqlite":
        connection.connection.create_function("pause", 1, time.sleep)
