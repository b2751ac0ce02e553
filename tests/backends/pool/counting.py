"""Counts of what code does, which say more of its cost than a clock can."""

import gc
import select
import socket
import sys
import tempfile
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path


class Steps:
    """What a function did: see steps_of()."""

    def __init__(self):
        # Qualified names of the Python functions called, in order.
        self.functions = []
        # How many bytecode instructions were executed, by function.
        self.instructions = Counter()

    def __str__(self):
        return "\n".join(
            f"{count:5} {name}" for name, count in self.instructions.items()
        )


@contextmanager
def monitoring_tool():
    """Have an identifier of a tool for sys.monitoring in the context."""
    monitoring = sys.monitoring
    tool = next(n for n in range(6) if monitoring.get_tool(n) is None)
    monitoring.use_tool_id(tool, "django-pool-tests")
    try:
        yield tool
    finally:
        monitoring.set_events(tool, 0)
        monitoring.free_tool_id(tool)


def steps_of(function):
    """
    Return the Steps of a call of a function, its own and other threads' left
    out.
    """
    monitoring = sys.monitoring
    events = monitoring.events
    steps = Steps()
    me = threading.get_ident()
    own_code = function.__code__

    def started(code, offset):
        if code is not own_code and threading.get_ident() == me:
            steps.functions.append(code.co_qualname)

    def executed(code, offset):
        if code is not own_code and threading.get_ident() == me:
            steps.instructions[code.co_qualname] += 1

    def measure():
        monitoring.set_events(tool, events.PY_START | events.INSTRUCTION)
        function()
        monitoring.set_events(tool, 0)

    # Twice, so that what's instrumented at the first execution is then.
    measured = (own_code, measure.__code__)
    gc_was_enabled = gc.isenabled()
    # A collection may call destructors of anything.
    gc.disable()
    try:
        with monitoring_tool() as tool:
            monitoring.register_callback(tool, events.PY_START, started)
            monitoring.register_callback(tool, events.INSTRUCTION, executed)
            measure()
            steps.functions.clear()
            steps.instructions.clear()
            measure()
    finally:
        if gc_was_enabled:
            gc.enable()
    for code in measured:
        steps.instructions.pop(code.co_qualname, None)
    return steps


class Wire:
    """
    A proxy in front of a database server that counts round trips: how often a
    client, over all connections, says something after the server had its say.

    settings_dict: where the server is. It's changed so that the proxy is
        there.
    """

    def __init__(self, settings_dict, default_port):
        self.trips = 0
        self.sessions = 0
        host = settings_dict["HOST"]
        port = int(settings_dict["PORT"] or default_port)
        self.directory = tempfile.TemporaryDirectory()
        if host.startswith("/"):
            # PostgreSQL's clients are given the directory of the socket.
            is_directory = Path(host).is_dir()
            name = f".s.PGSQL.{port}" if is_directory else "server.sock"
            self.family = socket.AF_UNIX
            self.target = str(Path(host, name)) if is_directory else host
            address = str(Path(self.directory.name, name))
            settings_dict["HOST"] = self.directory.name if is_directory else address
        else:
            self.family = socket.AF_INET
            self.target = (host or "127.0.0.1", port)
            address = ("127.0.0.1", 0)
        self.listener = socket.socket(self.family)
        self.listener.bind(address)
        self.listener.listen()
        if self.family == socket.AF_INET:
            settings_dict["HOST"], settings_dict["PORT"] = self.listener.getsockname()
        # Ends the thread.
        self.end, end = socket.socketpair()
        self.thread = threading.Thread(target=self.forward, args=[end], daemon=True)
        self.thread.start()

    def close(self):
        self.end.close()
        self.thread.join()
        self.directory.cleanup()

    def forward(self, end):
        # Where to send on what a socket receives, and whether that's what a
        # client says.
        peers, clients, spoke_last = {}, set(), {}
        while True:
            ready, _, _ = select.select([end, self.listener, *peers], [], [])
            if end in ready:
                break
            for source in ready:
                if source is self.listener:
                    client, _ = source.accept()
                    server = socket.socket(self.family)
                    server.connect(self.target)
                    peers[client], peers[server] = server, client
                    clients.add(client)
                    self.sessions += 1
                    continue
                if (sink := peers.get(source)) is None:
                    continue
                try:
                    data = source.recv(65536)
                except OSError:
                    data = b""
                if not data:
                    for each in (source, sink):
                        del peers[each]
                        each.close()
                    continue
                # Before it's sent on: who gets the answer finds it counted.
                if source in clients and spoke_last.get(source) is not source:
                    self.trips += 1
                spoke_last[source] = spoke_last[sink] = source
                try:
                    sink.sendall(data)
                except OSError:
                    # Its end will be received.
                    pass
        for each in (end, self.listener, *peers):
            each.close()
