"""Whether there's something to be read from a socket."""

import select
import socket
import sys
import threading
import unittest
from unittest import mock

from django.db.backends.base import socket_probe
from django.test import SimpleTestCase


class SocketProbeTests(SimpleTestCase):
    def setUp(self):
        self.ours, self.theirs = socket.socketpair()
        self.addCleanup(self.ours.close)
        self.addCleanup(self.theirs.close)

    def make_probe(self):
        return socket_probe.make_socket_probe(self.ours.fileno())

    def check(self, probe):
        self.assertFalse(probe())
        self.theirs.send(b"x")
        self.assertTrue(probe())
        self.ours.recv(1)
        self.assertFalse(probe())
        self.theirs.close()
        self.assertTrue(probe())

    def test_probe(self):
        self.check(self.make_probe())
        # No process has so many.
        self.assertTrue(socket_probe.make_socket_probe(2**30)())

    def test_without_ctypes(self):
        with mock.patch.object(socket_probe, "_poll", None):
            self.check(self.make_probe())

    def test_without_poll(self):
        modern = mock.Mock(spec=["select"], select=select.select)
        with (
            mock.patch.object(socket_probe, "_poll", None),
            mock.patch.object(socket_probe, "select", modern),
        ):
            self.check(self.make_probe())

    @unittest.skipIf(socket_probe._poll is None, "select.poll() is used.")
    def test_no_other_thread_runs_meanwhile(self):
        probe = self.make_probe()
        go, ran = threading.Lock(), threading.Event()
        go.acquire()

        def run():
            go.acquire()
            ran.set()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.addCleanup(sys.setswitchinterval, sys.getswitchinterval())
        # No switch but for a thread that lets others run.
        sys.setswitchinterval(60)
        go.release()
        for _ in range(10_000):
            probe()
        has_run = ran.is_set()
        thread.join()
        self.assertIs(has_run, False)
