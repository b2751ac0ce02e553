"""Start processes that end with us, and wait for them without hanging."""

import collections
import http.client
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import ToolError


def exit_on_signals():
    """
    Turn the signals that ask to end into SystemExit, so that every "with" and
    "finally" on the way out stops what was started.
    """

    def leave(number, frame):
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


def run(command, message, **kwargs):
    """Run a command that must succeed; its output is shown if it doesn't."""
    kwargs.setdefault("stdin", subprocess.DEVNULL)
    try:
        result = subprocess.run(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            **kwargs,
        )
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{message} {command[0]} took over {error.timeout:g} s.")
    if result.returncode:
        output = result.stdout.strip().splitlines()[-20:]
        raise ToolError(f"{message} {command[0]} said:", output)
    return result.stdout


def wait_until(ready, timeout, process=None):
    """
    Poll until ready() is true; return whether it became so in time. Give up
    early if the process ends.
    """
    deadline = time.monotonic() + timeout
    while not ready():
        ended = process is not None and process.poll() is not None
        if ended or time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def ends_with_parent(command, signal_name="TERM"):
    """
    Return the command, changed so that the process gets a signal when its
    parent is killed in a way that leaves no time to stop it.
    """
    if shutil.which("setpriv") is None:
        return list(command)
    return ["setpriv", "--pdeathsig", signal_name, *command]


def start_logged(command, log, **kwargs):
    """Start a process that leads a group of its own and writes to a log."""
    with open(log, "wb") as stream:
        return subprocess.Popen(
            ends_with_parent([str(part) for part in command]),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            **kwargs,
        )


def stop_process(process, number=signal.SIGTERM, timeout=30):
    """Ask one process to end; kill it if it doesn't."""
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def stop_group(process, number=signal.SIGTERM, timeout=10):
    """The same for a process that leads a group: all of it is ended."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def tail(file, lines=20):
    """Return the last lines of a log, for an error's details."""
    try:
        with open(file, errors="replace") as stream:
            return [line.rstrip() for line in collections.deque(stream, lines)]
    except FileNotFoundError:
        return []


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def unprivileged(*names):
    """
    Return the account to run a server as: the first that exists, for root,
    as servers refuse to run as root. Anyone else runs them as themselves.
    """
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid())
    for name in (*names, "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise ToolError(
        "Database servers don't run as root, and there is none of these users "
        "to run them as: " + ", ".join((*names, "nobody")) + "."
    )


def private_directory(prefix, account):
    """Make a temporary directory that only the account and root can enter."""
    # The path of a socket in it may have about 100 characters, and another
    # user must be able to walk to it: TMPDIR doesn't always allow that.
    places = [tempfile.gettempdir(), "/tmp", "/var/tmp"]
    usable = [place for place in places if len(place) < 50 and open_to_all(place)]
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir=(usable or places)[0]))
    if os.getuid() == 0:
        os.chown(directory, account.pw_uid, account.pw_gid)
    return directory


def open_to_all(path):
    path = Path(path).resolve()
    return all(p.is_dir() and p.stat().st_mode & 0o001 for p in (path, *path.parents))


def answers(port, path):
    """Return whether a site on this machine answers a request with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
