"""
The requests, as a site would serve them from threads, and what they log
outside the database.
"""

import contextlib
import random
import sys
import threading
import time
import traceback
from dataclasses import dataclass

from django.core import signals
from django.db import DatabaseError, Error, InterfaceError, connection, transaction
from django.db.models import F, Sum
from pooltools.processes import wait_until

from .models import Account, Entry, Transfer

ACCOUNTS = 20
BALANCE = 1000

# How often each kind of request is made.
KINDS = {"transfer": 7, "insert": 5, "read": 4, "iterate": 2, "session": 2}

# The modules of the drivers' exceptions.
DRIVERS = ("psycopg", "MySQLdb", "pymysql")

# Seconds between two requests of a thread.
PAUSE = 0.003

# What each vendor has that belongs to a session and is the same to read and
# to write for a user without privileges.
SESSION_STATE = {
    "postgresql": (
        "SELECT COALESCE(current_setting('chaos.token', true), '')",
        "SELECT set_config('chaos.token', %s, false)",
    ),
    "mysql": ("SELECT COALESCE(@chaos_token, '')", "SET @chaos_token = %s"),
}


@dataclass(slots=True)
class Request:
    """What became of a request. Times are time.monotonic()'s."""

    kind: str
    thread: str
    started: float
    # When it had its connection, or failed to get one.
    borrowed: float = 0.0
    ended: float = 0.0
    # The error's class and text, None if it was served.
    error: str | None = None
    trace: str = ""

    @property
    def borrowing(self):
        return self.borrowed - self.started


class Workload:
    def __init__(self, threads, seed):
        self.requests = []
        # What was wrong, found by requests themselves.
        self.findings = []
        # key -> None or (source, target, amount); and those that the
        # database has acknowledged.
        self.attempted_entries = {}
        self.acknowledged_entries = {}
        self.attempted_transfers = {}
        self.acknowledged_transfers = {}
        self._gate = threading.Event()
        self._stopping = False
        self._current = {}
        self._wrappers = {}
        self._threads = [
            threading.Thread(
                target=self._run,
                args=[random.Random(f"{seed}/{n}")],
                name=f"worker {n}",
                daemon=True,
            )
            for n in range(threads)
        ]

    def fill(self):
        Account.objects.bulk_create(Account(balance=BALANCE) for _ in range(ACCOUNTS))
        self.account_ids = list(Account.objects.values_list("pk", flat=True))

    # ##### Life #####

    @property
    def names(self):
        return [thread.name for thread in self._threads]

    def start(self):
        sys.unraisablehook = self._note_unraisable
        self._gate.set()
        for thread in self._threads:
            thread.start()

    def stop(self, timeout):
        """Let requests end. Return the names of threads that hang."""
        self._stopping = True
        self._gate.set()
        wait_until(lambda: not any(t.is_alive() for t in self._threads), timeout)
        return [thread.name for thread in self._threads if thread.is_alive()]

    @contextlib.contextmanager
    def paused(self, timeout=10):
        """Hold new requests back. The ones begun are waited for."""
        self._gate.clear()
        try:
            if not wait_until(lambda: not self._current, timeout):
                for name, stack in self.stacks().items():
                    self.findings.append(f"{name} hangs for over {timeout} s:\n{stack}")
            yield
        finally:
            self._gate.set()

    def stacks(self):
        """Return where the threads are that serve a request."""
        frames = sys._current_frames()
        return {
            thread.name: "".join(traceback.format_stack(frames[thread.ident])[-6:])
            for thread in self._threads
            if thread.name in self._current and thread.ident in frames
        }

    def _run(self, rng):
        name = threading.current_thread().name
        self._wrappers[name] = connection._connections[connection._alias]
        kinds, weights = zip(*KINDS.items())
        while True:
            self._gate.wait()
            if self._stopping:
                return
            self._current[name] = time.monotonic()
            # It may have been closed just before.
            if self._gate.is_set():
                self._serve(rng.choices(kinds, weights)[0], name, rng)
            del self._current[name]
            time.sleep(PAUSE * rng.random() * 2)

    def _serve(self, kind, name, rng):
        request = Request(kind, name, time.monotonic())
        signals.request_started.send(self.__class__)
        try:
            try:
                connection.ensure_connection()
            finally:
                request.borrowed = time.monotonic()
            getattr(self, kind)(rng)
            self._check_alone(name)
        except Exception as error:
            self._note(request, error)
        try:
            signals.request_finished.send(self.__class__)
        except Exception as error:
            self._note(request, error)
            self.findings.append(f"Giving back raised: {request.error}")
        request.ended = time.monotonic()
        self.requests.append(request)

    def _note(self, request, error):
        text = " ".join(str(error).split())
        request.error = f"{type(error).__name__}: {text}"
        request.trace = "".join(traceback.format_exception(error)[-12:])
        if not (
            type(error) in (DatabaseError, InterfaceError)
            # OperationalError, and the pool's own errors.
            or isinstance(error, Error)
            and "OperationalError" in {c.__name__ for c in type(error).__mro__}
        ):
            self.findings.append(
                f"An error of an unexpected kind in {request.kind}: {request.trace}"
            )

    def _note_unraisable(self, unraisable):
        """
        What destructors raise. A half-read iterator closes its cursor when
        it's dropped, and the driver may find that the connection is dead.
        """
        if not type(unraisable.exc_value).__module__.startswith(DRIVERS):
            lines = traceback.format_exception(unraisable.exc_value)[-12:]
            self.findings.append(f"A destructor raised: {''.join(lines)}")

    def _check_alone(self, name):
        """No connection with two users: look at what all the others have."""
        for other, wrapper in list(self._wrappers.items()):
            if (
                other != name
                and connection.connection is not None
                and wrapper.connection is connection.connection
            ):
                self.findings.append(f"{name} and {other} have the same connection.")

    # ##### The kinds of requests #####

    def transfer(self, rng):
        # Locked in order, so that there are no deadlocks.
        ids = sorted(rng.sample(self.account_ids, 2))
        source, target = ids if rng.random() < 0.5 else reversed(ids)
        key = f"{rng.getrandbits(128):x}"
        amount = rng.randint(1, 50)
        self.attempted_transfers[key] = source, target, amount
        with transaction.atomic():
            list(Account.objects.select_for_update().filter(pk__in=ids).order_by("pk"))
            self._check_alone(threading.current_thread().name)
            Account.objects.filter(pk=source).update(balance=F("balance") - amount)
            Transfer.objects.create(
                key=key, source=source, target=target, amount=amount
            )
            Account.objects.filter(pk=target).update(balance=F("balance") + amount)
        self.acknowledged_transfers[key] = None

    def insert(self, rng):
        key = f"{rng.getrandbits(128):x}"
        self.attempted_entries[key] = None
        Entry.objects.create(key=key)
        self.acknowledged_entries[key] = None

    def read(self, rng):
        total = Account.objects.aggregate(total=Sum("balance"))["total"]
        if total != ACCOUNTS * BALANCE:
            self.findings.append(f"A read saw a sum of {total}.")

    def iterate(self, rng):
        """Leave a server-side cursor half read."""
        with transaction.atomic():
            next(Account.objects.order_by("pk").iterator(chunk_size=5))

    def session(self, rng):
        """Leave something in the session that others mustn't find."""
        read, write = SESSION_STATE[connection.vendor]
        token = f"{rng.getrandbits(64):x}"
        with connection.cursor() as cursor:
            cursor.execute(read)
            if found := cursor.fetchone()[0]:
                self.findings.append(f"Session state of somebody else's: {found!r}.")
            cursor.execute(write, [token])
            cursor.execute(read)
            if (found := cursor.fetchone()[0]) != token:
                self.findings.append(f"Session state changed: {found!r}.")
