"""
What ASGI requests borrow: a worker for the thread-sensitive code of each.
"""

from concurrent.futures import Executor

from asgiref.sync import AsyncToSync, SyncToAsync, ThreadSensitiveContext

from django.db.async_routing import is_concurrent

from . import registry
from .giving_back import give_back_idle
from .querylog import new_logs
from .workers import SingleCall, WorkerExecutor


def request_context():
    """Return the asynchronous context manager that a request is handled in."""
    if (
        getattr(AsyncToSync.executors, "current", None) is not None
        or SyncToAsync.thread_sensitive_context.get(None) is not None
    ):
        # Somebody else, a test for one, has decided on the thread.
        return ThreadSensitiveContext()
    return RequestContext()


class RequestContext(ThreadSensitiveContext):
    """
    Has the thread-sensitive code of a request run on a worker, which is given
    back with its connections when the request has ended, however that was.
    """

    def __init__(self):
        self.worker = WorkerExecutor(give_back_idle if is_concurrent() else None)
        self.logs = None
        if is_concurrent() and (logs := new_logs()) is not None:
            self.logs = self.worker.logs = logs
        super().__init__(executor=self.worker)

    async def __aexit__(self, *args):
        try:
            await super().__aexit__(*args)
        finally:
            self.worker.release()
            # For tasks that outlive the request. asgiref would refuse them.
            self._exited = False
            SyncToAsync.context_to_thread_executor[self] = _late


class _Late(Executor):
    """
    Runs what's left of requests that have ended, each function on a worker
    that's given back after it.
    """

    def submit(self, fn, /, *args, **kwargs):
        return SingleCall().submit(fn, *args, **kwargs)


_late = _Late()


async def lifespan(receive, send):
    """Serve an ASGI server's lifespan: close all pools at its end."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await SyncToAsync(
                registry.close_all, thread_sensitive=False, executor=SingleCall()
            )()
            await send({"type": "lifespan.shutdown.complete"})
            return
