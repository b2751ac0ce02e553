"""The pool's logic on a virtual clock: a search through random histories."""

import random
import unittest
from contextlib import nullcontext
from unittest import mock

from django.db.pool.state import NEVER
from django.test import SimpleTestCase

from .states import Model

try:
    from hypothesis import HealthCheck, settings
    from hypothesis import strategies as st
    from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
except ImportError:
    HAS_HYPOTHESIS = False
else:
    HAS_HYPOTHESIS = True


class ModelTests(SimpleTestCase):
    """The model itself finds what's wrong."""

    def assertFound(self, what, breakage, *steps):
        model = Model(max_size=1)
        model.acquire("acquire")
        with breakage(model.state), self.assertRaisesMessage(AssertionError, what):
            for step in steps:
                step(model)

    def test_lost_slot_is_found(self):
        self.assertFound(
            "a slot is lost",
            lambda state: nullcontext(),
            lambda model: model.opened(model.permits[0]),
            lambda model: model.release(model.leases[0]),
            lambda model: model.state.idle.clear(),
            lambda model: model.check(),
        )

    def test_idle_connection_beside_a_line_is_found(self):
        self.assertFound(
            "somebody waits",
            lambda state: mock.patch.object(state, "dispatch"),
            lambda model: model.acquire("acquire"),
            lambda model: model.failed(model.permits[0]),
        )

    def test_overshoot_is_found(self):
        self.assertFound(
            "more than max_size",
            lambda state: nullcontext(),
            lambda model: model.permits.append(model.state._new_slot(model.now)),
            lambda model: model.check(),
        )


if HAS_HYPOTHESIS:

    class PoolMachine(RuleBasedStateMachine):
        """Histories of what the users of a pool may do, in any order."""

        def __init__(self):
            super().__init__()
            self.model = None

        @precondition(lambda self: self.model is None)
        @rule(
            min_size=st.integers(0, 2),
            spare=st.integers(0, 3),
            max_waiting=st.sampled_from([None, None, 0, 1, 3]),
            max_lifetime=st.sampled_from([None, 4.0, 30.0]),
            max_idle=st.sampled_from([None, 3.0, 20.0]),
            connecting=st.integers(1, 3),
            order=st.sampled_from(["lifo", "fifo"]),
            jitter=st.sampled_from([0.0, 0.5, 1.0]),
        )
        def begin(self, jitter, min_size, spare, **options):
            options["max_size"] = max(1, min_size + spare)
            self.model = Model(jitter, min_size=min_size, **options)

        def pick(self, place, nth):
            items = getattr(self.model, place)
            return items[nth % len(items)]

        ready = precondition(lambda self: self.model is not None)

        def having(place):
            return precondition(
                lambda self: self.model is not None and getattr(self.model, place)
            )

        nth = st.integers(0, 3)

        @ready
        @rule(way=st.sampled_from(["acquire", "acquire", "take", "acquire_idle"]))
        def acquire(self, way):
            self.model.acquire(way, may_wait=way == "acquire")

        @ready
        @rule()
        def acquire_more(self):
            for _ in range(3):
                self.model.acquire("acquire")

        @having("permits")
        @rule(nth=nth)
        def opened(self, nth):
            self.model.opened(self.pick("permits", nth))

        @having("permits")
        @rule(nth=nth)
        def failed(self, nth):
            self.model.failed(self.pick("permits", nth))

        @ready
        @rule()
        def reserve(self):
            self.model.reserve()

        @having("supplies")
        @rule(nth=nth, works=st.booleans())
        def supplied(self, nth, works):
            step = self.model.supplied if works else self.model.failed
            step(self.pick("supplies", nth))

        @having("leases")
        @rule(nth=nth)
        def release(self, nth):
            self.model.release(self.pick("leases", nth))

        @having("leases")
        @rule(nth=nth)
        def discard(self, nth):
            self.model.discard(self.pick("leases", nth))

        @having("leases")
        @rule(nth=nth)
        def start_reset(self, nth):
            self.model.start_reset(self.pick("leases", nth))

        @having("resetting")
        @rule(nth=nth, succeeded=st.booleans())
        def end_reset(self, nth, succeeded):
            self.model.end_reset(self.pick("resetting", nth), succeeded)

        @ready
        @rule(fine=st.booleans())
        def look_at_idle(self, fine):
            self.model.look_at_idle(fine)

        @having("permits")
        @rule(nth=nth)
        def withdraw(self, nth):
            self.model.withdraw(self.pick("permits", nth))

        @having("permits")
        @rule()
        def fail_all(self):
            while self.model.permits:
                self.model.failed(self.model.permits[0])

        @having("closing")
        @rule(nth=nth)
        def finish_closing(self, nth):
            self.model.finish_closing(self.pick("closing", nth))

        @having("served")
        @rule(nth=nth)
        def wake_up(self, nth):
            self.model.wake_up(self.pick("served", nth))

        @having("served")
        @rule(nth=nth)
        def leave_when_served(self, nth):
            self.model.leave(self.pick("served", nth))

        @having("line")
        @rule(nth=nth)
        def leave_the_line(self, nth):
            self.model.leave(self.pick("line", nth))

        @having("turned_away")
        @rule(nth=nth)
        def leave_empty_handed(self, nth):
            self.model.leave(self.pick("turned_away", nth))

        @ready
        @rule(seconds=st.sampled_from([0.01, 0.5, 1.0, 2.5, 10.0]))
        def advance(self, seconds):
            self.model.advance(seconds)

        @ready
        @rule()
        def sweep(self):
            self.model.sweep()

        @ready
        @rule()
        def sweep_when_due(self):
            due = self.model.state.next_due()
            if due < NEVER:
                self.model.advance(max(0.0, due - self.model.now))
                self.model.sweep()

        @ready
        @rule()
        def drain(self):
            self.model.drain()

        @ready
        @rule(min_size=st.integers(0, 2), spare=st.integers(0, 3))
        def resize(self, min_size, spare):
            self.model.resize(min_size, max(1, min_size + spare))

        @ready
        @rule(really=st.integers(0, 9))
        def close(self, really):
            # Rarely: not much happens afterward.
            if really == 9:
                self.model.close()

        def teardown(self):
            if self.model is not None:
                self.model.finish()

    class RandomHistoryTests(SimpleTestCase, PoolMachine.TestCase):
        settings = settings(
            max_examples=1000,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )

else:

    @unittest.skip("hypothesis isn't installed.")
    class RandomHistoryTests(SimpleTestCase):
        def test_histories(self):
            pass


class LongHistoryTests(SimpleTestCase):
    """
    The same search with a plain generator of random numbers: less clever,
    but it needs nothing installed and gets further.
    """

    HISTORIES = 3000
    STEPS = 60

    def make_model(self, rng):
        min_size = rng.choice([0, 0, 1, 2])
        return Model(
            rng.random(),
            min_size=min_size,
            max_size=max(1, min_size + rng.randrange(4)),
            max_waiting=rng.choice([None, None, None, 0, 2]),
            max_lifetime=rng.choice([None, 4.0, 30.0]),
            max_idle=rng.choice([None, 3.0, 20.0]),
            connecting=rng.choice([1, 1, 2, 3]),
            order=rng.choice(["lifo", "fifo"]),
        )

    def steps(self, model, rng):
        """Return what can be done, the usual more often."""
        steps = [
            (8, lambda: model.acquire("acquire")),
            (2, lambda: model.acquire("take", may_wait=False)),
            (1, lambda: model.acquire("acquire_idle", may_wait=False)),
            (2, model.reserve),
            (6, lambda: model.advance(rng.choice([0.0, 0.01, 0.5, 1.0, 5.0]))),
            (2, model.sweep),
            (1, lambda: model.look_at_idle(rng.random() < 0.5)),
            (0.5, model.drain),
            (0.5, lambda: model.resize(rng.randrange(2), rng.randrange(1, 5))),
            (0.1, model.close),
        ]
        for place, *actions in (
            (
                "permits",
                (6, model.opened),
                (2, model.failed),
                (1, model.withdraw),
            ),
            ("supplies", (3, model.supplied), (1, model.failed)),
            (
                "leases",
                (8, model.release),
                (2, model.discard),
                (2, model.start_reset),
            ),
            (
                "resetting",
                (3, model.end_reset),
                (1, lambda slot: model.end_reset(slot, False)),
            ),
            ("closing", (5, model.finish_closing)),
            ("served", (5, model.wake_up), (1, model.leave)),
            ("line", (1, model.leave)),
            ("turned_away", (1, model.leave)),
        ):
            if items := getattr(model, place):
                for weight, action in actions:
                    item = rng.choice(items)
                    steps.append((weight, lambda act=action, item=item: act(item)))
        return steps

    def test_histories(self):
        for seed in range(self.HISTORIES):
            rng = random.Random(seed)
            model = self.make_model(rng)
            try:
                for _ in range(self.STEPS):
                    weights, steps = zip(*self.steps(model, rng))
                    rng.choices(steps, weights)[0]()
                model.finish()
            except Exception as e:
                e.add_note(f"In history number {seed}.")
                raise
