"""
The pool under what serves Django: WSGI and ASGI servers.

In each: the parent's session outlives its workers, workers have sessions of
their own, and in the end all of them are closed properly and in silence.
"""

import re
import signal
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from hosts.cases import BUILD, HostTestCase, needs  # NOQA: E402

ASGI = BUILD / "django" / "core" / "handlers" / "asgi.py"
HANDLES_LIFESPAN = ASGI.exists() and "lifespan" in ASGI.read_text()


@needs("gunicorn")
class GunicornTests(HostTestCase):
    def serve_with(self, *arguments, **kwargs):
        return self.serve(
            "-m",
            "gunicorn",
            "--bind=127.0.0.1:{port}",
            "--workers=2",
            "--graceful-timeout=5",
            "--log-level=warning",
            *arguments,
            "hosts.site:wsgi",
            **kwargs,
        )

    def test_threads(self):
        answers = self.serve_with("--worker-class=gthread", "--threads=6")
        self.check_workers(answers, workers=2)
        self.check_end()

    def test_sync(self):
        answers = self.serve_with("--worker-class=sync")
        self.check_workers(answers, workers=2)
        self.check_end()

    def test_preload(self):
        answers = self.serve_with(
            "--worker-class=gthread", "--threads=6", "--preload", warm=True
        )
        self.check_workers(answers, workers=2)
        self.check_end()

    def test_preload_with_connections_opened_in_advance(self):
        answers = self.serve_with(
            "--worker-class=gthread",
            "--threads=6",
            "--preload",
            warm=True,
            pool={"min_size": 2},
        )
        self.check_workers(answers, workers=2)
        self.check_end()

    def test_workers_that_are_replaced(self):
        answers = self.serve_with(
            "--worker-class=gthread", "--threads=4", "--preload", "--max-requests=15"
        )
        self.assertGreater(len({pid for pid, _ in answers}), 2)
        self.check_end()

    @needs("gevent")
    def test_gevent(self):
        answers = self.serve_with("--worker-class=gevent")
        self.check_workers(answers, workers=2)
        self.check_end()

    @needs("gevent")
    def test_gevent_preload(self):
        # With --preload the worker patches too late, which breaks Django with
        # or without a pool. This is what gevent asks for.
        config = self.directory / "patch_first.py"
        config.write_text("from gevent import monkey\n\nmonkey.patch_all()\n")
        answers = self.serve_with(
            f"--config={config}", "--worker-class=gevent", "--preload", warm=True
        )
        self.check_workers(answers, workers=2)
        self.check_end()


@needs("MySQLdb")
class MariaDBGunicornTests(GunicornTests):
    database = "mariadb"

    # Once is enough for these.
    test_sync = None
    test_preload = None
    test_gevent = None
    test_gevent_preload = None


class AsgiServerTests(HostTestCase):
    # It raises the signal again when it has shut down, so nothing of Python's
    # exit is run. There's only the lifespan's end to close connections at.
    @unittest.skipUnless(HANDLES_LIFESPAN, "It takes a handler of the lifespan.")
    @needs("uvicorn")
    def test_uvicorn(self):
        self.check_server(
            ["uvicorn", "--port={port}", "--log-level=warning", "hosts.site:asgi"],
            signal.SIGTERM,
            statuses=(0, -signal.SIGTERM),
        )

    @unittest.skipUnless(HANDLES_LIFESPAN, "It takes a handler of the lifespan.")
    @needs("uvicorn")
    def test_uvicorn_workers(self):
        self.check_server(
            [
                "uvicorn",
                "--port={port}",
                "--workers=2",
                "--log-level=warning",
                "hosts.site:asgi",
            ],
            signal.SIGTERM,
            statuses=(0, -signal.SIGTERM),
            workers=2,
        )

    @needs("uvicorn")
    def test_uvicorn_interrupted(self):
        self.check_server(
            ["uvicorn", "--port={port}", "--log-level=warning", "hosts.site:asgi"],
            signal.SIGINT,
            statuses=(0, 130, -signal.SIGINT),
        )

    @needs("hypercorn")
    def test_hypercorn(self):
        self.check_server(
            [
                "hypercorn",
                "--bind=127.0.0.1:{port}",
                "--workers=1",
                "--log-level=warning",
                "hosts.site:asgi",
            ],
            signal.SIGTERM,
        )

    @needs("daphne")
    def test_daphne(self):
        self.check_server(
            ["daphne", "--port={port}", "--verbosity=0", "hosts.site:asgi"],
            signal.SIGTERM,
        )

    @needs("granian")
    def test_granian(self):
        self.check_server(
            [
                "granian",
                "--interface=asgi",
                "--port={port}",
                "--log-level=warning",
                "hosts.site:asgi",
            ],
            signal.SIGTERM,
        )

    def check_server(self, arguments, number, statuses=(0,), workers=0):
        answers = self.serve("-m", *arguments)
        self.check_workers(answers, workers)
        self.check_end(number, statuses, complaints=re.compile("Traceback|ignored"))


if __name__ == "__main__":
    unittest.main()
