"""
What is injected. A fault begins when its inject() does and is over when that
returns; what it changed is as before then.

Those that are strict strike while no request is under way, or disturb
nothing: no request may see an error at all.
"""

import contextlib
import secrets
import time

from pooltools import ToolError
from pooltools.processes import wait_until

from .backends import Credentials

FAULTS = {}


def fault(name, strict=False):
    """Register a function that injects a fault into a Campaign."""

    def register(function):
        function.fault_name = name
        function.strict = strict
        FAULTS[name] = function
        return function

    return register


def hold(lab, shortest, longest):
    """Let a fault last for a while."""
    time.sleep(lab.rng.uniform(shortest, longest))


def hold_long(lab):
    """Sometimes for longer than any borrower may wait."""
    if lab.rng.random() < 0.4:
        time.sleep(lab.longest_borrowing + 1)
    else:
        hold(lab, 0.3, 1.5)


def wait_for_end(lab, sessions=()):
    """
    Wait until sessions have ended at both ends. The pool may be opening new
    ones meanwhile, to have its min_size.
    """
    with lab.admin() as cursor:

        def have_ended():
            now = set(lab.target.sessions(cursor))
            return now.isdisjoint(sessions) and lab.proxy.tell("count") == len(now)

        if not wait_until(have_ended, 10):
            raise ToolError("The server didn't end the pool's sessions within 10 s.")


def kill_and_wait(lab):
    """While the workload is paused, kill all sessions."""
    with lab.admin() as cursor:
        sessions = lab.target.sessions(cursor)
        lab.target.kill(cursor, sessions)
    wait_for_end(lab, sessions)


# ##### Sessions #####


@fault("kill-one")
def kill_one(lab):
    with lab.admin() as cursor:
        for _ in range(5):
            if sessions := lab.target.sessions(cursor):
                lab.target.kill(cursor, [lab.rng.choice(sessions)])
            hold(lab, 0.02, 0.2)


@fault("kill-all")
def kill_all(lab):
    with lab.admin() as cursor:
        for _ in range(lab.rng.randint(1, 3)):
            lab.target.kill(cursor, lab.target.sessions(cursor))
            hold(lab, 0.05, 0.3)


@fault("kill-idle", strict=True)
def kill_idle(lab):
    with lab.workload.paused():
        kill_and_wait(lab)


@fault("idle-timeout", strict=True)
def idle_timeout(lab):
    with lab.workload.paused():
        with lab.admin() as cursor:
            lab.target.end_idle_sessions(cursor, after=1)
        # MariaDB's sessions take note when they begin.
        kill_and_wait(lab)
    hold(lab, 0.3, 0.5)
    with lab.workload.paused(), lab.admin() as cursor:
        wait_for_end(lab, lab.target.sessions(cursor))
        lab.target.keep_idle_sessions(cursor)
        kill_and_wait(lab)


# ##### The server #####


@fault("restart-fast")
def restart_fast(lab):
    lab.target.server.restart()


@fault("restart-immediate")
def restart_immediate(lab):
    lab.target.server.restart(immediate=True)


@fault("restart-idle", strict=True)
def restart_idle(lab):
    with lab.workload.paused():
        lab.target.server.restart(immediate=lab.rng.random() < 0.5)
        wait_for_end(lab)


@fault("down")
def down(lab):
    lab.target.server.stop(immediate=lab.rng.random() < 0.5)
    hold_long(lab)
    lab.target.server.start()


@fault("freeze")
def freeze(lab):
    lab.unreachable.set()
    stopped = lab.target.server.freeze()
    try:
        hold_long(lab)
    finally:
        lab.target.server.thaw(stopped)
        lab.unreachable.clear()


# ##### The network #####


@fault("cut")
def cut(lab):
    lab.proxy.tell("refuse")
    hold_long(lab)
    lab.proxy.tell("heal")


@fault("reset")
def reset(lab):
    for _ in range(lab.rng.randint(1, 3)):
        lab.proxy.tell("reset")
        hold(lab, 0.05, 0.3)


@fault("black-hole")
def black_hole(lab):
    lab.unreachable.set()
    lab.proxy.tell("hole")
    hold_long(lab)
    if lab.rng.random() < 0.5:
        # What stood between has forgotten the connections.
        lab.proxy.tell("reset")
    lab.proxy.tell("heal")
    lab.unreachable.clear()


@fault("slow-connect", strict=True)
def slow_connect(lab):
    with lab.workload.paused():
        lab.proxy.tell("slow", lab.rng.uniform(0.2, lab.timeout / 4))
        kill_and_wait(lab)
    hold(lab, 1, 1.5)
    lab.proxy.tell("heal")


# ##### Logging in #####


@fault("exhausted")
def exhausted(lab):
    with contextlib.ExitStack() as others:

        def open_others():
            try:
                while True:
                    others.callback(lab.target.open_other().close)
            except Exception:
                # That was the last that could be had.
                return

        # Two are left to the administrator.
        with lab.admin() as cursor:
            open_others()
            lab.target.kill(cursor, lab.target.sessions(cursor))
            end = time.monotonic() + lab.rng.uniform(0.5, 1.5)
            while time.monotonic() < end:
                open_others()
                time.sleep(0.1)


@fault("password")
def password(lab):
    """Credentials are rotated, and the application learns of it later."""
    new = secrets.token_hex(8)
    lab.target.set_password(new)
    with lab.admin() as cursor:
        lab.target.kill(cursor, lab.target.sessions(cursor))
    hold(lab, 0.5, 1.5)
    Credentials.password = new


@fault("rotation", strict=True)
def rotation(lab):
    """Credentials are rotated, and the application learns of it at once."""
    with lab.workload.paused():
        new = secrets.token_hex(8)
        lab.target.set_password(new)
        Credentials.password = new
        kill_and_wait(lab)


# ##### Time #####


@fault("clock", strict=True)
def clock(lab):
    """The wall clock is set. Only this process's idea of it: time.time()."""
    real = time.time
    try:
        for step in (-7200, 7200, 10 * 365 * 86400):
            time.time = lambda: real() + step
            hold(lab, 0.1, 0.3)
    finally:
        time.time = real
