"""
The network between the pool and its server: a TCP proxy on the loopback
interface that can be cut, black-holed and slowed down. It's a process of its
own, told what to do by lines on its standard input.
"""

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

from pooltools import ToolError
from pooltools.processes import ends_with_parent, stop_process

SCRIPTS = Path(__file__).resolve().parent.parent

# Closing a socket with this option sends a reset.
RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Starts the proxy's process and talks to it."""

    def __init__(self, port):
        self.target_port = port
        self.process = None
        self.port = None

    def __enter__(self):
        command = [sys.executable, "-m", "chaos_campaign.proxy", str(self.target_port)]
        self.process = subprocess.Popen(
            ends_with_parent(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            universal_newlines=True,
            bufsize=1,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(SCRIPTS)},
        )
        self.port = int(self._read())
        return self

    def __exit__(self, *exc_info):
        stop_process(self.process)
        self.process.stdin.close()
        self.process.stdout.close()

    def tell(self, *words):
        """Have a command of Relay carried out. Return its answer, a number."""
        print(*words, file=self.process.stdin)
        return int(self._read())

    def _read(self):
        if not (line := self.process.stdout.readline()):
            raise ToolError("The campaign's proxy ended.")
        return line


class Relay:
    """The proxy itself. Each method without an underscore is a command."""

    def __init__(self, target_port):
        self.target_port = target_port
        self.listener = None
        self.port = 0
        self.delay = 0.0
        # Not set while nothing goes through, not even the end of a connection.
        self.passing = asyncio.Event()
        self.passing.set()
        self.writers = set()
        # Connections that are relayed, and that came, in all.
        self.relays = 0
        self.accepted = 0

    async def heal(self):
        """Let everything through again, also what was held back."""
        self.delay = 0.0
        self.passing.set()
        if self.listener is None:
            self.listener = await asyncio.start_server(
                self._relay, "127.0.0.1", self.port, backlog=200
            )
            self.port = self.listener.sockets[0].getsockname()[1]
        return 0

    async def hole(self):
        """Let nothing through and tell nobody."""
        self.passing.clear()
        return 0

    async def refuse(self):
        """Cut all connections and refuse new ones."""
        if self.listener is not None:
            self.listener.close()
            self.listener = None
        return await self.reset()

    async def reset(self):
        """Reset all connections. Return how many ends that were."""
        count = len(self.writers)
        for writer in list(self.writers):
            with contextlib.suppress(OSError, AttributeError):
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()
        return count

    async def slow(self, delay):
        """Delay new connections by so many seconds."""
        self.delay = float(delay)
        return 0

    async def count(self):
        """Return how many connections are relayed."""
        return self.relays

    async def connects(self):
        """Return how many connections came in all."""
        return self.accepted

    async def _relay(self, client_reader, client_writer):
        self.accepted += 1
        self.relays += 1
        self.writers.add(client_writer)
        server_writer = None
        try:
            await asyncio.sleep(self.delay)
            await self.passing.wait()
            server_reader, server_writer = await asyncio.open_connection(
                "127.0.0.1", self.target_port
            )
            self.writers.add(server_writer)
            pumps = [
                asyncio.ensure_future(self._pump(client_reader, server_writer)),
                asyncio.ensure_future(self._pump(server_reader, client_writer)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            # A database's protocol knows no half-closed connections.
            server_writer.close()
            client_writer.close()
            await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass
        finally:
            self.relays -= 1
            for writer in (client_writer, server_writer):
                if writer is not None:
                    self.writers.discard(writer)
                    writer.close()

    async def _pump(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self.passing.wait()
                writer.write(data)
                await writer.drain()
        await self.passing.wait()


async def serve(target_port):
    relay = Relay(target_port)
    await relay.heal()
    print(relay.port, flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        name, *arguments = line.split()
        print(await getattr(relay, name)(*arguments), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
