"""Debian packages: what is missing is installed, if we may."""

import contextlib
import os
import shutil
import subprocess

from . import ToolError

POLICY = "/usr/sbin/policy-rc.d"


def install(packages, reason):
    """Install packages with apt-get, or say that somebody has to."""
    names = " ".join(packages)
    if shutil.which("apt-get") is None or os.getuid() != 0:
        raise ToolError(
            f"{reason} Install it, on Debian or Ubuntu with:",
            [f"sudo apt-get install {names}"],
        )
    print(f"Installing Debian packages: {names} ...", flush=True)
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    with services_stay_stopped():
        # The lists of a fresh machine are missing or stale.
        attempts = [command, ["apt-get", "update"], command]
        for attempt in attempts:
            result = apt_get(attempt)
            if attempt is command and result.returncode == 0:
                return
    output = result.stdout.strip().splitlines()[-15:]
    raise ToolError(f"{reason} apt-get could not install {names}:", output)


def apt_get(command):
    return subprocess.run(
        command,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )


@contextlib.contextmanager
def services_stay_stopped():
    """
    Keep the packages from starting their servers: this project wants the
    programs, not a system-wide database on the usual port.
    """
    if os.path.lexists(POLICY):
        # Somebody has decided already.
        yield
        return
    with open(POLICY, "w") as file:
        file.write("#!/bin/sh\nexit 101\n")
    os.chmod(POLICY, 0o755)
    try:
        yield
    finally:
        os.unlink(POLICY)
