"""What must hold, while the campaign runs and at its end."""

import collections
import threading
import time
from pathlib import Path

from django.db import connection
from django.db.pool.state import LONGEST_PAUSE
from pooltools.processes import wait_until

from .models import Account, Entry, Transfer
from .workload import ACCOUNTS, BALANCE

# Seconds in which full service must be back after a fault: one, or the pool's
# longest pause if connecting failed; and what a busy machine adds.
RECOVERY = 1.0
RECOVERY_AFTER_PAUSE = LONGEST_PAUSE
SLACK = 0.5

# A server takes a moment to notice that a client has closed its connection,
# and /proc isn't read at one instant: more sessions or sockets than allowed
# are a violation if there are still too many this many seconds later.
SERVER_GRACE = 1.0
CLIENT_GRACE = 0.25

# States of TCP in /proc/net/tcp in which this end hasn't closed: ESTABLISHED,
# SYN_SENT, CLOSE_WAIT.
OPEN_STATES = {"01", "02", "08"}


def client_sockets(port):
    """
    Return how many connections to a port on the loopback interface exist at
    the client's end. None if this system doesn't tell.
    """
    try:
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    except OSError:
        return None
    remote = f":{port:04X}"
    fields = (line.split() for line in lines)
    return sum(f[2].endswith(remote) and f[3] in OPEN_STATES for f in fields)


class Limit:
    """Finds out whether a number stays above its limit for too long."""

    def __init__(self, what, limit, grace, findings):
        self.what = what
        self.limit = limit
        self.grace = grace
        self.findings = findings
        self.since = None
        self.highest = 0

    def see(self, number):
        now = time.monotonic()
        if number is None or number <= self.limit:
            self.since = None
            return
        self.highest = max(self.highest, number)
        if self.since is None:
            self.since = now
        elif now - self.since > self.grace:
            self.findings.append(
                f"{number} {self.what} for over {self.grace} s, where "
                f"{self.limit} are allowed."
            )
            # Said once.
            self.grace = float("inf")


class Watch(threading.Thread):
    """Counts sessions and sockets while the campaign runs."""

    def __init__(self, lab, max_size):
        super().__init__(name="watch", daemon=True)
        self.lab = lab
        self.findings = []
        self.sessions = Limit(
            "sessions on the server", max_size, SERVER_GRACE, self.findings
        )
        self.sockets = Limit("open sockets", max_size, CLIENT_GRACE, self.findings)
        self.ended = threading.Event()

    def run(self):
        while not self.ended.is_set():
            try:
                with self.lab.admin() as cursor:
                    self.count(cursor)
            except Exception:
                # The server is down.
                self.sessions.see(None)
                self.sockets.see(client_sockets(self.lab.proxy.port))
                self.ended.wait(0.05)

    def count(self, cursor):
        while not self.ended.wait(0.05):
            self.sockets.see(client_sockets(self.lab.proxy.port))
            if self.lab.unreachable.is_set():
                # The server can't know what was closed meanwhile.
                self.sessions.see(None)
                continue
            before = time.monotonic()
            number = len(self.lab.target.sessions(cursor))
            took = time.monotonic() - before
            self.sessions.see(number if took < SERVER_GRACE / 2 else None)


def check_quiet(pool, port):
    """While no request is under way, the pool holds nothing for anybody."""

    def is_quiet():
        stats = pool.stats()
        return (
            not (stats.in_use or stats.connecting or stats.waiting or stats.resetting)
            and stats.size == stats.idle <= stats.max_size
            and client_sockets(port) in (None, stats.size)
        )

    if not wait_until(is_quiet, 1.0):
        yield (
            "No request is under way, but the pool holds connections: "
            f"{pool.stats()}, {client_sockets(port)} sockets are open."
        )


def check_errors(requests, windows):
    """Only requests that met a fault may fail, and none met a strict one."""
    for request in requests:
        if request.error is None:
            continue
        met = [window for window in windows if window.touches(request)]
        if all(window.strict for window in met):
            after = [w for w in windows if w.began <= request.started]
            where = (
                f"{request.started - after[-1].ended:.2f} s after the end of "
                f"{after[-1].name}"
                if after
                else "before any fault"
            )
            yield (
                f"A request that met no fault failed ({request.kind}, {where}): "
                f"{request.error}\n{request.trace}"
            )


def check_deadlines(requests, limit):
    """Nobody is hung past the deadline of a borrowing."""
    for request in requests:
        if request.borrowing > limit:
            yield (
                f"A borrowing took {request.borrowing:.2f} s, where {limit:.2f} s "
                f"are allowed ({request.kind}): {request.error or 'served'}"
            )


def check_recovery(windows, names):
    """Full service is back soon: each thread was served."""
    for window in windows:
        took = window.recovery
        if took is None:
            yield f"After {window.name}, some threads weren't served again."
        elif took > window.allowed:
            yield (
                f"After {window.name}, full service took {took:.2f} s, where "
                f"{window.allowed:.2f} s are allowed."
            )


def check_data(workload):
    """No acknowledged write is lost or doubled, and the sums are right."""
    entries = collections.Counter(Entry.objects.values_list("key", flat=True))
    yield from check_keys(
        "insert", entries, workload.attempted_entries, workload.acknowledged_entries
    )
    transfers = list(Transfer.objects.all())
    yield from check_keys(
        "transfer",
        collections.Counter(transfer.key for transfer in transfers),
        workload.attempted_transfers,
        workload.acknowledged_transfers,
    )
    expected = dict.fromkeys(workload.account_ids, BALANCE)
    for transfer in transfers:
        expected[transfer.source] -= transfer.amount
        expected[transfer.target] += transfer.amount
    found = dict(Account.objects.values_list("pk", "balance"))
    if found != expected:
        yield f"Balances are {found}, by the transfers they should be {expected}."
    if sum(found.values()) != ACCOUNTS * BALANCE:
        yield f"The sum of all balances is {sum(found.values())}."


def check_keys(what, found, attempted, acknowledged):
    for key in acknowledged:
        if not found[key]:
            yield f"An acknowledged {what} was lost: {key}"
    for key, count in found.items():
        if count > 1:
            yield f"An {what} was done {count} times: {key}"
        if key not in attempted:
            yield f"An {what} that nobody made: {key}"


def check_capacity(max_size):
    """As many borrowers as the pool allows are served at once."""
    together = threading.Barrier(max_size)
    errors = []

    def borrow():
        try:
            with connection.cursor() as cursor:
                together.wait(10)
                cursor.execute("SELECT 1")
            connection.close()
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
            together.abort()

    threads = [threading.Thread(target=borrow, daemon=True) for _ in range(max_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    if errors:
        yield f"{max_size} borrowers at once weren't served: {errors[0]}"
