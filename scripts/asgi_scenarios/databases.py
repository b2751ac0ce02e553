"""Databases: their settings, and which sessions they see."""

import contextlib
import os
import threading
from pathlib import Path


class SQLite:
    """A file. Its sessions are those who have it open."""

    def __init__(self, directory):
        self.file = directory / "site.sqlite3"
        # A process group, when there's one.
        self.group = None

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        pass

    @property
    def settings(self):
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(self.file),
            "OPTIONS": {
                "init_command": "PRAGMA journal_mode=wal",
                "transaction_mode": "IMMEDIATE",
                "timeout": 30,
            },
        }

    def sessions(self):
        found = []
        for process in Path("/proc").iterdir():
            if not process.name.isdigit():
                continue
            # Processes and files come and go.
            with contextlib.suppress(OSError):
                if os.getpgid(int(process.name)) != self.group:
                    continue
                for descriptor in (process / "fd").iterdir():
                    with contextlib.suppress(OSError):
                        if os.readlink(descriptor) == str(self.file):
                            found.append(f"{process.name}:{descriptor.name}")
        return found

    def left(self):
        """Return what's left when nobody should be there anymore."""
        # The last one to close the database removes this.
        log = self.file.with_name(self.file.name + "-wal")
        return self.sessions() + ([log.name] if log.exists() else [])


class Server:
    """A server of the fault campaign, without its faults."""

    def __init__(self, name):
        from chaos_campaign.target import TARGETS

        self.target = TARGETS[name]()
        self.stack = contextlib.ExitStack()
        self.group = None
        # A look at the sessions goes on in its thread when its task is
        # canceled.
        self.lock = threading.Lock()

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.target)
            admin = stack.enter_context(self.target.admin())
            self.cursor = stack.enter_context(admin.cursor())
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info):
        self.stack.close()

    @property
    def settings(self):
        server = self.target.server
        return {
            **self.target.settings(server.port),
            "ENGINE": server.settings["ENGINE"],
            "PASSWORD": self.target.password,
        }

    def sessions(self):
        with self.lock:
            return self.target.sessions(self.cursor)

    def left(self):
        return self.sessions()


def make_database(name, directory):
    return SQLite(directory) if name == "sqlite" else Server(name)
