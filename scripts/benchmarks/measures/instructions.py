"""How many bytecode instructions something takes, which no noise changes."""

import sys
from threading import get_ident

from . import cycle as cycles
from . import leases
from .setup import set_up_site

# What's done before, so that caches are filled.
WARM_UP = 20
TIMES = 10


def request(database):
    """A request of the site, within this process, on an open connection."""
    set_up_site(database)
    from django.core.wsgi import get_wsgi_application
    from django.test import RequestFactory

    application = get_wsgi_application()
    environ = RequestFactory(SERVER_NAME="127.0.0.1").get("/sync/").environ

    def serve():
        response = application({**environ}, lambda *args: None)
        b"".join(response)
        response.close()
        if response.status_code != 200:
            raise RuntimeError(f"The site answered {response.status_code}.")

    return count(serve)


def query(database):
    """A query by the ORM in the midst of a request."""
    set_up_site(database)
    loop = leases.make_loop("get()", "default")
    return count(lambda: loop(1))


def cycle(database):
    """A use of the connection that does nothing with it."""
    set_up_site(database)
    from django.db import connections

    pooled = "POOL" in database or "pool" in database.get("OPTIONS", {})
    end = "close()" if pooled else "close_if_unusable_or_obsolete()"
    loop = cycles.make_loop(connections["default"], end, False)
    return count(lambda: loop(1))


def count(function):
    """Return how many a call takes in this thread, the mean of some."""
    for _ in range(WARM_UP):
        function()
    monitoring = sys.monitoring
    events, tool = monitoring.events, monitoring.PROFILER_ID
    executed = 0
    me = get_ident()

    def note(code, offset):
        nonlocal executed
        if get_ident() == me:
            executed += 1

    monitoring.use_tool_id(tool, "bench")
    monitoring.register_callback(tool, events.INSTRUCTION, note)
    try:
        monitoring.set_events(tool, events.INSTRUCTION)
        for _ in range(TIMES):
            function()
    finally:
        monitoring.set_events(tool, 0)
        monitoring.free_tool_id(tool)
    return {"instructions": executed / TIMES}
