"""The schedule: calm, a fault, recovery, and again."""

import contextlib
import random
import threading
import time
from dataclasses import dataclass

from django.db import connection

from . import checks
from .faults import FAULTS

# Seconds of calm before a fault, and after the recovery from it.
CALM = 0.5

# What drivers add to a deadline: they take whole seconds to connect, libpq
# no less than two.
DRIVER_ROUNDING = 2.0


@dataclass
class Window:
    """A fault and when it was."""

    name: str
    strict: bool
    began: float
    ended: float
    # Seconds in which full service must be back.
    allowed: float
    # Connects that reached the network meanwhile.
    connects: int
    # Seconds until all threads were served again, None if they weren't.
    recovery: float | None = None
    # When the next fault began, or the campaign ended.
    until: float = float("inf")

    def touches(self, request):
        """Return whether a request may have met the fault."""
        return (
            request.ended >= self.began and request.started <= self.ended + self.allowed
        )


class Campaign:
    """What faults may use, and the loop that injects them."""

    def __init__(self, target, proxy, workload, timeout, seed):
        self.target = target
        self.proxy = proxy
        self.workload = workload
        self.timeout = timeout
        self.rng = random.Random(seed)
        # Set while the server can't be told anything.
        self.unreachable = threading.Event()
        self.windows = []
        self.pool = None
        self.violations = []

    @property
    def longest_borrowing(self):
        return self.timeout + DRIVER_ROUNDING + checks.SLACK

    @contextlib.contextmanager
    def admin(self):
        with self.target.admin() as admin, admin.cursor() as cursor:
            yield cursor

    def run(self, seconds, names, max_size):
        """
        Inject faults in turn until the time is over. A fault that has begun
        is brought to its end, so it may take some seconds more.
        """
        self.pool = pool = connection.pool
        watch = checks.Watch(self, max_size)
        watch.start()
        self.workload.start()
        end = time.monotonic() + seconds
        turn = []
        while time.monotonic() < end:
            if not turn:
                turn = [FAULTS[name] for name in names]
                self.rng.shuffle(turn)
            time.sleep(CALM)
            self.inject(turn.pop())
            with self.workload.paused(self.longest_borrowing):
                self.violations += checks.check_quiet(pool, self.proxy.port)
        for window, following in zip(self.windows, self.windows[1:]):
            window.until = following.began
        hanging = self.workload.stop(self.longest_borrowing)
        self.violations += [f"{name} hangs." for name in hanging]
        self.finish(pool, watch, max_size)

    def inject(self, fault):
        connects = self.proxy.tell("connects")
        failures = self.pool.stats().open_failures
        began = time.monotonic()
        fault(self)
        ended = time.monotonic()
        connecting_failed = self.pool.stats().open_failures > failures
        window = Window(
            fault.fault_name,
            fault.strict,
            began,
            ended,
            allowed=checks.SLACK
            + (checks.RECOVERY_AFTER_PAUSE if connecting_failed else checks.RECOVERY),
            connects=self.proxy.tell("connects") - connects,
        )
        self.windows.append(window)
        time.sleep(window.allowed + CALM)
        self.note_recovery(window)

    def note_recovery(self, window):
        first = {}
        for request in list(self.workload.requests):
            if request.ended >= window.ended and request.error is None:
                first.setdefault(request.thread, request.ended)
        if len(first) == len(self.workload.names):
            window.recovery = max(first.values()) - window.ended

    def finish(self, pool, watch, max_size):
        requests = self.workload.requests
        self.violations += self.workload.findings
        self.violations += checks.check_errors(requests, self.windows)
        self.violations += checks.check_deadlines(requests, self.longest_borrowing)
        self.violations += checks.check_recovery(self.windows, self.workload.names)
        self.violations += checks.check_data(self.workload)
        connection.close()
        self.violations += checks.check_capacity(max_size)
        self.violations += checks.check_quiet(pool, self.proxy.port)
        watch.ended.set()
        watch.join(10)
        self.violations += watch.findings
        pool.close()
        with self.admin() as cursor:
            gone = checks.wait_until(lambda: not self.target.sessions(cursor), 5)
        if not gone:
            self.violations.append("Sessions were left after the pool was closed.")
