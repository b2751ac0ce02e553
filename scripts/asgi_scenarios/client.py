"""HTTP on asyncio's streams, as far as the scenarios need it."""

import asyncio
import contextlib


class BrokenAnswer(Exception):
    """The connection ended before the answer did."""


def request_for(path, port):
    lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: close"]
    return "\r\n".join([*lines, "", ""]).encode()


async def get(port, path):
    """Return the status and the body of an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request_for(path, port))
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            body = await read_body(reader, head.lower())
        except (asyncio.IncompleteReadError, OSError) as error:
            raise BrokenAnswer(f"{path}: {error!r}") from None
    finally:
        await close(writer)
    return int(head.split(" ", 2)[1]), body.decode()


async def read_body(reader, head):
    if "transfer-encoding: chunked" not in head:
        _, found, length = head.partition("content-length:")
        if found:
            return await reader.readexactly(int(length.split("\r\n")[0]))
        return await reader.read()
    chunks = []
    while True:
        size = int(await reader.readuntil(b"\r\n"), 16)
        chunks.append(await reader.readexactly(size))
        await reader.readexactly(2)
        if not size:
            return b"".join(chunks)


async def get_and_leave(port, path, after):
    """Disconnect that many seconds after the request. Return what came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request_for(path, port))
        try:
            async with asyncio.timeout(after):
                return await reader.read(1)
        except TimeoutError:
            return b""
    finally:
        await close(writer)


async def close(writer):
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
