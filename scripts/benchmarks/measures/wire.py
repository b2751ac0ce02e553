"""Count round trips: a proxy in front of PostgreSQL that reads its answers."""

import socket
import tempfile
import threading
from pathlib import Path


class Wire:
    """
    Forwards connections to a server's socket. ``trips`` is how often the
    server said that it's ready for the next query, over all connections;
    ``sessions`` how many connections there were.
    """

    def __init__(self, host, port):
        self.target = str(Path(host) / f".s.PGSQL.{port}")
        self.port = port
        self.trips = 0
        self.sessions = 0
        self.lock = threading.Lock()
        self.temporary = tempfile.TemporaryDirectory(prefix="bench-wire-")
        self.directory = self.temporary.name
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(Path(self.directory) / f".s.PGSQL.{port}"))
        self.listener.listen()
        self.start(self.accept)

    @staticmethod
    def start(target, *args):
        threading.Thread(target=target, args=args, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            self.sessions += 1
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.target)
            self.start(self.ask, client, server)
            self.start(self.answer, server, client)

    def ask(self, source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def answer(self, source, sink):
        """Forward messages: a type, a length of 4 bytes, the rest."""
        pending = b""
        try:
            while data := source.recv(65536):
                pending += data
                ready = 0
                while len(pending) >= 5:
                    length = 1 + int.from_bytes(pending[1:5], "big")
                    if len(pending) < length:
                        break
                    ready += pending[:1] == b"Z"
                    pending = pending[length:]
                with self.lock:
                    self.trips += ready
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
