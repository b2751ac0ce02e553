"""Cursors for raw SQL in asynchronous code."""

from django.db import InterfaceError, NotSupportedError, connections
from django.db.async_routing import is_concurrent

from .aio import Hold

# Rows that are read at a time while iterating.
CHUNK_SIZE = 100


class AsyncCursor:
    """
    A cursor whose methods are awaited, for ``async with``. It holds a worker
    until it's closed.
    """

    def __init__(self, alias):
        self.alias = alias
        self.hold = None
        self.cursor = None

    async def __aenter__(self):
        if not is_concurrent():
            raise NotSupportedError(
                "Asynchronous cursors need a connection pool with the "
                "concurrent_async option."
            )
        self.hold = await Hold().start()
        try:
            self.cursor = await self.hold.run(self._open)
        except BaseException:
            self.hold.end()
            raise
        return self

    async def __aexit__(self, *exc_info):
        if exc_info[0] is GeneratorExit:
            # Who closes a coroutine that was dropped can't wait.
            self.hold.end(self._close)
            return
        try:
            await self.hold.run(self._close)
        finally:
            self.hold.end()

    def _open(self):
        return connections[self.alias].cursor()

    def _close(self):
        try:
            self.cursor.close()
        finally:
            self.hold.end(on_worker=True)

    def _call(self, name, *args):
        result = getattr(self.cursor, name)(*args)
        # Drivers return their cursor here. The futures that carry results may
        # outlive the lease, and a connection to which somebody refers is
        # closed.
        return None if name in ("execute", "executemany") else result

    async def _run(self, name, *args):
        if self.hold is None or self.hold.is_over:
            raise InterfaceError(
                "An asynchronous cursor is open only in its 'async with' block."
            )
        return await self.hold.run(self._call, name, *args)

    async def execute(self, sql, params=None):
        """Run a statement. Return the cursor."""
        await self._run("execute", sql, params)
        return self

    async def executemany(self, sql, param_list):
        """Run a statement once for each of several sequences of parameters."""
        await self._run("executemany", sql, param_list)
        return self

    async def callproc(self, procname, params=None, kparams=None):
        """Call a stored procedure."""
        return await self._run("callproc", procname, params, kparams)

    async def fetchone(self):
        """Return the next row, None if there's none."""
        return await self._run("fetchone")

    async def fetchmany(self, size=CHUNK_SIZE):
        """Return the next rows, as many as there are up to a number."""
        return await self._run("fetchmany", size)

    async def fetchall(self):
        """Return the rows that are left."""
        return await self._run("fetchall")

    async def __aiter__(self):
        while rows := await self.fetchmany():
            for row in rows:
                yield row

    @property
    def description(self):
        return self.cursor.description

    @property
    def rowcount(self):
        return self.cursor.rowcount

    @property
    def lastrowid(self):
        return self.cursor.lastrowid
