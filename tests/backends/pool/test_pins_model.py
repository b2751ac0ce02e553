"""
Random sequences of what code does with a wrapper, against a model that knows
what must be pinned.
"""

import unittest

from django.db import DatabaseError, connections, transaction

from .test_lease_policy import LeaseTestCase
from .test_pins import CHANGES
from .utils import ALIAS, run_in_thread

try:
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st
except ImportError as e:
    raise unittest.SkipTest("Needs Hypothesis.") from e

STEPS = (
    "query",
    "failing query",
    "write",
    "open cursor",
    "close cursor",
    "drop cursor",
    "atomic",
    "commit",
    "roll back",
    "pin",
    "unpin",
    "change the session",
    "read the attribute",
    "ensure_connection",
    "close",
)


class Model:
    """What pins the connection, and whether anything is borrowed."""

    def __init__(self):
        self.cursors = 0
        self.atomics = 0
        self.depth = 0
        # Of the present lease.
        self.lasting = set()
        self.is_pinned_explicitly = False
        self.leased = False
        # Whether the wrapper isn't closed, for all that others can see.
        self.connected = False

    def used(self):
        self.leased = self.connected = True

    def rest(self):
        """A statement or a transaction is over."""
        if self.leased and self.depth and not self.cursors and not self.atomics:
            self.is_pinned_explicitly = True
        if not (self.cursors or self.atomics or self.lasting or self.depth):
            self.leased = False
        if not self.depth:
            self.is_pinned_explicitly = False

    def ended(self):
        self.cursors = 0
        self.lasting.clear()
        self.is_pinned_explicitly = self.leased = self.connected = False

    @property
    def pins(self):
        pins = {*self.lasting} if self.leased else set()
        if self.cursors:
            pins.add("cursor")
        if self.atomics:
            pins.add("transaction")
        return pins


class Run:
    """Does the steps, with a wrapper and with its model."""

    def __init__(self, test):
        self.test = test
        self.wrapper = test.wrapper
        self.model = Model()
        self.cursors = []
        self.blocks = []
        self.change = 0

    def do(self, step):
        getattr(self, step.replace(" ", "_"))()

    def query(self, sql="SELECT 1"):
        self.test.query(sql)
        self.model.used()
        self.model.rest()

    def failing_query(self):
        if self.model.atomics:
            return
        try:
            self.test.query("SELECT nonsense FROM nowhere")
        except DatabaseError:
            pass
        self.model.used()
        self.query()

    def write(self):
        self.query(f"INSERT INTO {self.test.table} VALUES (1)")

    def open_cursor(self):
        cursor = self.wrapper.cursor()
        cursor.execute("SELECT 1")
        self.cursors.append(cursor)
        self.model.used()
        self.model.cursors += 1

    def close_cursor(self):
        if self.cursors:
            cursor = self.cursors.pop(0)
            cursor.fetchall()
            cursor.close()
            self.model.cursors -= 1
            self.model.rest()

    def drop_cursor(self):
        if self.cursors:
            self.cursors.pop(0)
            self.model.cursors -= 1
            self.model.rest()

    def atomic(self):
        block = transaction.atomic(ALIAS)
        block.__enter__()
        self.blocks.append(block)
        self.model.used()
        self.model.atomics += 1

    def leave(self, error):
        if self.blocks:
            self.blocks.pop().__exit__(error and type(error), error, None)
            self.model.atomics -= 1
            self.model.rest()

    def commit(self):
        self.leave(None)

    def roll_back(self):
        self.leave(ZeroDivisionError())

    def pin(self):
        block = self.wrapper.pinned()
        block.__enter__()
        self.pinned = [*getattr(self, "pinned", ()), block]
        self.model.depth += 1

    def unpin(self):
        if self.model.depth:
            self.pinned.pop().__exit__(None, None, None)
            self.model.depth -= 1
            self.model.rest()

    def change_the_session(self):
        self.test.query(CHANGES[0])
        self.model.used()
        self.model.lasting.add("session state")
        self.model.rest()

    def read_the_attribute(self):
        self.test.assertIs(self.wrapper.connection is not None, self.model.connected)
        if self.model.connected:
            self.model.used()
            self.model.lasting.add("raw connection")

    def ensure_connection(self):
        self.wrapper.ensure_connection()
        self.model.used()
        self.model.lasting.add("raw connection")

    def close(self):
        # Closing inside of atomic() is an error of its own kind.
        if not self.blocks:
            self.wrapper.close()
            self.cursors.clear()
            self.model.ended()

    def check(self):
        model, holding = self.model, self.wrapper._borrower and (
            self.wrapper._borrower.holding
        )
        leased = holding is not None and self.wrapper._borrower.lease is not None
        self.test.assertIs(leased, model.leased)
        found = {pin.name for pin in holding.all_pins()} if holding else set()
        # It's noted when a statement ends in the block.
        self.test.assertEqual(found - {"pinned()"}, model.pins)
        self.test.assertEqual(self.test.stats().in_use, int(model.leased))

    def check_others(self):
        """What's pinned is nobody else's, and nothing of it is seen there."""
        mine = self.test.slot() if self.model.leased else None

        def borrow():
            wrapper = connections[ALIAS]
            try:
                with wrapper.cursor() as cursor:
                    cursor.execute("SELECT 1")
                    return wrapper._borrower.lease.slot
            finally:
                wrapper.close()

        theirs = run_in_thread(borrow)
        if mine is not None:
            self.test.assertIsNot(theirs, mine)

    def end(self):
        while self.blocks:
            self.commit()
        while self.model.depth:
            self.unpin()
        self.close()


class ModelTests(LeaseTestCase):
    @settings(
        max_examples=60,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.lists(st.sampled_from(STEPS), min_size=1, max_size=12))
    def run_steps(self, steps):
        run = Run(self)
        try:
            for step in steps:
                run.do(step)
                run.check()
            run.check_others()
        finally:
            run.end()
        self.assertEqual(self.stats().in_use, 0)

    def test_pinned_when_it_must_be_and_given_back_when_it_can_be(self):
        self.create_table()
        self.run_steps()
