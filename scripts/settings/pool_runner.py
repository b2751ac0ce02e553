"""A test runner that writes down the outcome of each test."""

import json
import os
import unittest

from django.test.runner import DiscoverRunner


class Recorder:
    """
    A file with one JSON object per line: a test's id, its outcome and, if it
    failed, why. The last one says that the run came to its end: without it,
    it was killed or crashed.
    """

    def __init__(self, path):
        self.file = open(path, "w", buffering=1, encoding="utf-8")

    def write(self, **record):
        self.file.write(json.dumps(record) + "\n")

    def close(self):
        self.write(finished=True)
        self.file.close()


class RecordingResult(unittest.TextTestResult):
    recorder = None

    def record(self, test, outcome, details=""):
        # The id of a subtest says what it was called with: that varies.
        test = getattr(test, "test_case", test)
        self.recorder.write(id=test.id(), outcome=outcome, details=details)

    def addSuccess(self, test):
        super().addSuccess(test)
        self.record(test, "passed")

    def addError(self, test, err):
        super().addError(test, err)
        self.record(test, "failed", self.errors[-1][1])

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.record(test, "failed", self.failures[-1][1])

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            details = "".join(map(str, err[1:2]))
            self.record(test, "failed", f"{subtest}: {details}")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.record(test, "skipped", reason)

    def addExpectedFailure(self, test, err):
        super().addExpectedFailure(test, err)
        self.record(test, "passed")

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self.record(test, "failed", "unexpected success")


class RecordingRunner(DiscoverRunner):
    def get_resultclass(self):
        return super().get_resultclass() or RecordingResult

    def run_suite(self, suite, **kwargs):
        RecordingResult.recorder = Recorder(os.environ["POOL_TEST_RESULTS"])
        result = super().run_suite(suite, **kwargs)
        RecordingResult.recorder.close()
        return result
