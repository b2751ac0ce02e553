"""Answers with the ids of the process and of its session on the server."""

import os
from pathlib import Path

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "hosts.settings")
django.setup(set_prefix=False)

from django.core.asgi import get_asgi_application  # NOQA: E402
from django.core.wsgi import get_wsgi_application  # NOQA: E402
from django.db import close_old_connections, connection  # NOQA: E402
from django.http import JsonResponse  # NOQA: E402
from django.urls import path  # NOQA: E402

SESSION = {
    "postgresql": "SELECT pg_backend_pid(), pg_sleep(0.01)",
    "mysql": "SELECT CONNECTION_ID(), SLEEP(0.01)",
}


def identify():
    """Return the process's id and the session's, which takes a moment."""
    with connection.cursor() as cursor:
        cursor.execute(SESSION[connection.vendor])
        return [os.getpid(), cursor.fetchone()[0]]


def warm_up():
    """Let the parent process have a session, before there are workers."""
    close_old_connections()
    Path(os.environ["HOSTS_PARENT"]).write_text(str(identify()[1]))
    connection.close()


urlpatterns = [
    path("", lambda request: JsonResponse(identify(), safe=False)),
    # Without the database.
    path("process", lambda request: JsonResponse([os.getpid()], safe=False)),
]
wsgi = get_wsgi_application()
asgi = get_asgi_application()

if os.environ.get("HOSTS_PARENT"):
    warm_up()
