"""What the private servers have in common."""

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

from . import ToolError, packages
from .processes import (
    ends_with_parent,
    free_port,
    private_directory,
    stop_process,
    tail,
    unprivileged,
    wait_until,
)


class Server:
    """
    A server of its own for a test, a bench or a demo: its data and its socket
    in a temporary directory that nobody else can enter, a free port on the
    loopback interface, a random password there.

    To be used in a "with" statement, which starts it and in the end removes
    every trace. It may be stopped and started in between: the data, the port
    and the password stay. Start it from the main thread: it is told to stop
    when the thread that started it ends.
    """

    # Set by subclasses.
    name = None
    debian_packages = ()
    users = ()
    # What asks the server to end: in order, and at once.
    stop_signal = signal.SIGTERM
    stop_signal_immediate = signal.SIGKILL
    # What it gets when our process is killed.
    orphan_signal = "TERM"
    # Recovery after an immediate stop takes its time, too.
    ready_timeout = 60

    def __init__(self):
        self.process = None
        self.directory = None
        self.port = None
        self.account = None
        self.owner = None

    # For subclasses.

    def find_programs(self):
        """Find the programs; return the names of those that are missing."""
        raise NotImplementedError

    def create(self):
        """Make the data directory, once."""
        raise NotImplementedError

    def command(self):
        """Return the command that runs the server in the foreground."""
        raise NotImplementedError

    def is_ready(self):
        raise NotImplementedError

    def prepare(self):
        """Fill the server after its first start."""

    # The life of a server.

    @property
    def running(self):
        return self.process is not None and self.process.poll() is None

    @property
    def log(self):
        return self.directory / "server.log"

    def start(self):
        if self.running:
            return self
        first = self.directory is None
        try:
            if first:
                self.install()
                self.make_directory()
                self.create()
            self.launch()
            if first:
                self.prepare()
        except BaseException:
            if first:
                self.close()
            raise
        return self

    def install(self):
        missing = self.find_programs()
        if missing:
            reason = f"{self.name} is needed ({', '.join(missing)} was not found)."
            packages.install(self.debian_packages, reason)
            missing = self.find_programs()
        if missing:
            raise ToolError(f"{self.name}: {', '.join(missing)} was not found.")

    def make_directory(self):
        self.account = unprivileged(*self.users)
        self.directory = private_directory(f"django-pool-{self.name}-", self.account)
        self.port = free_port()
        # A child made by fork runs our exit functions, too: only the process
        # that made the server may stop it.
        self.owner = os.getpid()
        atexit.register(self.close)

    def launch(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ends_with_parent(map(str, self.command()), self.orphan_signal),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in a terminal is for us; we stop the server.
                start_new_session=True,
                **self.as_account(),
            )
        if not wait_until(self.is_ready, self.ready_timeout, self.process):
            code = self.process.poll()
            state = "isn't ready" if code is None else f"ended with status {code}"
            lines = tail(self.log)
            self.stop(immediate=True)
            raise ToolError(f"{self.name} {state}. The end of its log:", lines)

    def as_account(self):
        """Return arguments for subprocess: to run as the server's user."""
        kwargs = {
            "cwd": self.directory,
            # Nobody's PGHOST, LC_ALL, TZ or MYSQL_HOME.
            "env": {
                "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME": str(self.directory),
                "LC_ALL": "C.UTF-8",
            },
        }
        if os.getuid() == 0:
            kwargs["user"] = self.account.pw_uid
            kwargs["group"] = self.account.pw_gid
            kwargs["extra_groups"] = []
        return kwargs

    def stop(self, immediate=False):
        if self.process is not None:
            number = self.stop_signal_immediate if immediate else self.stop_signal
            stop_process(self.process, number)
            self.process = None

    def restart(self, immediate=False):
        self.stop(immediate)
        self.start()

    def freeze(self):
        """Stop the server's processes. Return those that were stopped."""
        stopped = []
        queue = [self.process.pid]
        while queue:
            pid = queue.pop(0)
            # The children are looked for when it can't have new ones.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                stopped.append(pid)
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    queue += map(int, (task / "children").read_text().split())
        return stopped

    def thaw(self, stopped):
        for pid in reversed(stopped):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def close(self):
        """Stop the server and remove all that it left."""
        if self.owner == os.getpid():
            self.stop()
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory = self.owner = None
            atexit.unregister(self.close)

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc_info):
        self.close()
