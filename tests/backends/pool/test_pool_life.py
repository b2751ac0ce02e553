"""ConnectionPool with a fake driver: the pool as a whole."""

from unittest import mock

from django.db.pool import ConnectionPool, PoolClosed, PoolTimeout, maintenance
from django.db.pool.stats import Histogram

from .fakes import Call, Clock, Pooling, borrow, make_pool, wait_for_line, warm
from .pool_cases import BRIEF, Interrupt, PoolTestCase, SlowCall


class CloseTests(PoolTestCase):
    def test_idle_connections_are_closed(self):
        pool = make_pool()
        warm(pool, 2)
        pool.close()
        self.assertEqual(pool.pooling.server.open, set())
        self.assertPool(pool, size=0)
        self.assertEqual(pool.stats().closed, {"pool closed": 2})

    def test_connection_in_use_is_closed_on_return(self):
        pool = make_pool()
        lease = borrow(pool)
        pool.close()
        self.assertIs((connection := lease.connection).closed, False)
        pool.release(lease)
        self.assertIs(connection.closed, True)
        self.assertPool(pool, size=0)

    def test_connection_being_opened_is_closed_on_return(self):
        pool = make_pool()
        permit = pool.acquire()
        pool.close()
        pool.opened(permit, connection := pool.pooling.server.connect())
        pool.release(permit)
        self.assertIs(connection.closed, True)
        self.assertPool(pool, size=0)

    def test_connect_that_fails_after_close(self):
        pool = make_pool()
        permit = pool.acquire()
        pool.close()
        pool.failed(permit, OSError())
        self.assertPool(pool, size=0)

    def test_closed_pool_lends_nothing(self):
        pool = make_pool(min_size=1)
        warm(pool, 1)
        pool.close()
        for timeout in (None, 0, 1):
            with self.subTest(timeout), self.assertRaises(PoolClosed):
                pool.acquire(timeout=timeout)
        pool.maintain()
        self.assertPool(pool, size=0)

    def test_closing_twice(self):
        pool = make_pool()
        warm(pool, 1)
        pool.close()
        pool.close()
        self.assertPool(pool, size=0)
        self.assertIs(pool.closed, True)

    def test_drain_replaces_all_connections(self):
        pool = make_pool(connecting=3)
        used, permit = borrow(pool), pool.acquire()
        warm(pool, 1)
        pool.drain()
        self.assertPool(pool, idle=0, size=2)
        pool.opened(permit, pool.pooling.server.connect())
        pool.release(used)
        pool.release(permit)
        self.assertPool(pool, size=0)
        warm(pool, 1)
        self.assertPool(pool, idle=1)
        self.assertEqual(pool.stats().closed, {"drained": 3})

    def test_drained_connection_serves_no_waiter(self):
        pool = make_pool(max_size=1)
        lease = borrow(pool)
        connection = lease.connection
        call = Call(borrow, pool)
        wait_for_line(pool, 1)
        pool.drain()
        pool.release(lease)
        self.assertIsNot(call.result().connection, connection)


class ResizeTests(PoolTestCase):
    def test_shrinking(self):
        pool = make_pool(connecting=4)
        leases = [borrow(pool) for _ in range(4)]
        pool.release(leases.pop())
        pool.resize(max_size=2)
        self.assertPool(pool, size=3, max_size=2, idle=0)
        with self.assertRaises(PoolTimeout):
            pool.acquire(timeout=BRIEF)
        for lease in leases:
            pool.release(lease)
        self.assertPool(pool, size=2, idle=2)
        self.assertNothingLost(pool, 2)

    def test_growing(self):
        pool = make_pool(max_size=1)
        pool.resize(max_size=3)
        self.assertNothingLost(pool, 3)

    def test_connections_that_are_missing_then_are_opened(self):
        for act in (ConnectionPool.drain, lambda pool: pool.resize(min_size=1)):
            pool = make_pool()
            with mock.patch.object(maintenance, "wake") as wake:
                act(pool)
            wake.assert_called()

    def test_min_size_is_kept_when_not_given(self):
        pool = make_pool(min_size=1, max_size=5)
        pool.resize(max_size=3)
        self.assertPool(pool, min_size=1, max_size=3)
        pool.resize(min_size=2)
        self.assertPool(pool, min_size=2, max_size=3)

    def test_wrong_limits_are_refused(self):
        pool = make_pool(min_size=1, max_size=5)
        for limits in (
            {"max_size": 0},
            {"min_size": -1},
            {"min_size": 6},
            {"min_size": 3, "max_size": 2},
            {"max_size": 2.5},
            {"max_size": float("nan")},
            {"max_size": True},
            {"min_size": "2"},
        ):
            with self.subTest(limits), self.assertRaises((ValueError, TypeError)):
                pool.resize(**limits)
            self.assertPool(pool, min_size=1, max_size=5)


class MaintenanceTests(PoolTestCase):
    def test_min_size_is_brought_up(self):
        pool = make_pool(min_size=2, connecting=1)
        pool.maintain()
        self.assertPool(pool, idle=2, opened=2, acquired=0)

    def test_connections_opened_in_advance_serve_who_waits(self):
        pool = make_pool(min_size=1, max_size=1)
        pool.pooling.open = opening = SlowCall(pool.pooling.open)
        filling = Call(pool.maintain)
        opening.begun.wait(10)
        call = Call(pool.acquire)
        wait_for_line(pool, 1)
        opening.go_on.set()
        self.assertIsNotNone(call.result().connection)
        filling.result()

    def test_failing_to_open_in_advance_lets_who_waits_try(self):
        pool = make_pool(min_size=1, max_size=1)
        refuse = mock.Mock(side_effect=OSError("refused"))
        pool.pooling.open = opening = SlowCall(refuse)
        filling = Call(pool.maintain)
        opening.begun.wait(10)
        call = Call(pool.acquire)
        wait_for_line(pool, 1)
        opening.go_on.set()
        self.assertIsNone(call.result().connection)
        filling.result()

    def test_failing_attempts_are_spaced_out_and_end(self):
        clock = Clock()
        pool = make_pool(clock=clock, min_size=1, reconnect_timeout=60)
        attempts = []

        def refuse(timeout):
            attempts.append(clock())
            raise OSError("refused")

        pool.pooling.open = refuse
        with self.assertLogs("django.db.pool", "WARNING") as logs:
            for _ in range(1000):
                due_in = pool.maintain()
                if due_in is None or due_in == float("inf"):
                    break
                self.assertGreaterEqual(due_in, 0)
                clock.advance(due_in + 0.001)
        self.assertEqual(len(logs.output), 1)
        self.assertPool(pool, size=0, open_failures=len(attempts))
        self.assertLessEqual(len(attempts), 12)
        self.assertGreaterEqual(attempts[-1] - attempts[0], 60)
        pauses = [b - a for a, b in zip(attempts, attempts[1:])]
        self.assertLess(pauses[0], 1.1)
        self.assertGreater(pauses[-1], 10)
        # A borrower that succeeds brings it back.
        clock.advance(10)
        pool.pooling.open = Pooling(pool.pooling.server).open
        lease = borrow(pool)
        pool.resize(min_size=2)
        pool.maintain()
        self.assertPool(pool, idle=1, in_use=1)
        pool.release(lease)

    def test_what_borrowers_failed_to_open_is_opened_in_advance_later(self):
        clock = Clock()
        pool = make_pool(clock=clock, min_size=1)
        with mock.patch("django.db.pool.maintenance.wake") as wake:
            for _ in range(3):
                pool.failed(pool.acquire(), OSError("refused"))
        self.assertEqual(wake.call_count, 3)
        due_in = pool.maintain()
        # During a pause nothing is opened, but it ends.
        self.assertPool(pool, size=0, opened=0)
        self.assertGreater(due_in, 0)
        clock.advance(due_in)
        pool.maintain()
        self.assertPool(pool, idle=1, opened=1)

    def test_who_fails_to_open_wakes_nobody_without_min_size(self):
        pool = make_pool(min_size=0)
        with mock.patch("django.db.pool.maintenance.wake") as wake:
            pool.failed(pool.acquire(), OSError("refused"))
        wake.assert_not_called()
        self.assertIsNone(pool.maintain())

    def test_interrupted_open_loses_no_slot(self):
        pool = make_pool(min_size=1, max_size=1)
        with mock.patch.object(pool.pooling, "open", side_effect=Interrupt):
            with self.assertRaises(Interrupt):
                pool.maintain()
        self.assertNothingLost(pool, 1)

    def test_unused_connections_are_closed_when_due(self):
        clock = Clock()
        pool = make_pool(clock=clock, max_idle=10)
        self.assertIsNone(pool.maintain())
        warm(pool, 2)
        due_in = pool.maintain()
        self.assertLessEqual(due_in, 10)
        clock.advance(9.9)
        pool.maintain()
        self.assertPool(pool, idle=2)
        clock.advance(0.2)
        self.assertIsNone(pool.maintain())
        self.assertPool(pool, size=0)
        self.assertEqual(pool.stats().closed, {"max_idle": 2})

    def test_lifetimes_that_end_before_the_next_look(self):
        """Of what is in use at one look, and idle by the next."""
        clock = Clock()
        pool = make_pool(clock=clock, max_lifetime=10, max_idle=600)
        lease = borrow(pool)
        due_in = pool.maintain()
        pool.release(lease)
        clock.advance(due_in)
        pool.maintain()
        self.assertPool(pool, size=0)
        self.assertLessEqual(due_in, 10)
        # Nobody can wait for the end of one that's over.
        lease = borrow(pool)
        clock.advance(10)
        self.assertEqual(pool.maintain(), 600)
        pool.release(lease)

    def test_maintenance_always_moves_on(self):
        """It never asks to come back at once without having done anything."""
        clock = Clock(1e6 + 0.1)
        pool = make_pool(clock=clock, max_idle=0.1, min_size=1, max_lifetime=1.7)
        warm(pool, 2)
        for _ in range(100):
            due_in = pool.maintain()
            self.assertGreater(due_in, 0)
            clock.advance(due_in)

    def test_expired_connections_are_replaced(self):
        clock = Clock()
        pool = make_pool(clock=clock, min_size=1, max_lifetime=10)
        pool.maintain()
        clock.advance(10)
        pool.maintain()
        self.assertPool(pool, idle=1, opened=2)
        self.assertEqual(pool.stats().closed, {"max_lifetime": 1})


class ForkTests(PoolTestCase):
    """forget(), as called in the child."""

    def test_child_starts_again_without_the_parents_connections(self):
        pool = make_pool(max_size=2, connecting=5)
        used = borrow(pool)
        warm(pool, 1)
        connections = set(pool.pooling.server.open)
        pool.forget()
        self.assertPool(pool, size=0)
        self.assertEqual(set(pool.pooling.forgotten), connections)
        self.assertEqual(pool.pooling.server.open, connections)
        # What was borrowed ends without effect.
        self.assertIs(pool.release(used), False)
        self.assertPool(pool, size=0)
        self.assertNothingLost(pool, 2)

    def test_lease_of_the_parent_is_not_reclaimed(self):
        pool = make_pool(max_size=2)
        lease, permit = borrow(pool), pool.acquire()
        slots = [lease.slot, permit.slot]
        pool.forget()
        del lease, permit
        for slot in slots:
            pool.reclaim(slot)
        self.assertPool(pool, size=0, abandoned=0, open_failures=0)
        self.assertEqual(len(pool.pooling.server.open), 1)
        self.assertEqual(pool.pooling.forgotten, [*pool.pooling.server.open])

    def test_parents_troubles_are_forgotten(self):
        pool = make_pool(min_size=1, clock=Clock())
        with mock.patch.object(pool.pooling, "open", side_effect=OSError):
            pool.maintain()
        pool.forget()
        with self.assertRaises(PoolTimeout) as caught:
            pool.acquire(timeout=0)
        self.assertIsNone(caught.exception.__cause__)
        pool.maintain()
        self.assertPool(pool, idle=1)

    def test_lock_held_by_another_thread_of_the_parent_is_no_trouble(self):
        pool = make_pool()
        pool._lock.acquire()
        pool.forget()
        self.assertIsNotNone(borrow(pool).connection)

    def test_parents_line_is_forgotten(self):
        pool = make_pool(max_size=1)
        lease = borrow(pool)
        call = Call(pool.acquire)
        wait_for_line(pool, 1)
        state = pool._state
        pool.forget()
        self.assertPool(pool, waiting=0)
        # Only here: a child has no such thread.
        pool._state, forgotten = state, pool._state
        lease.slot.status = "leased"
        pool.release(lease)
        call.result()
        pool._state = forgotten

    def test_closed_pool_stays_closed(self):
        pool = make_pool()
        pool.close()
        pool.forget()
        with self.assertRaises(PoolClosed):
            pool.acquire()

    def test_limits_stay_as_they_were_changed(self):
        pool = make_pool(max_size=1)
        pool.resize(min_size=2, max_size=5)
        pool.forget()
        self.assertPool(pool, min_size=2, max_size=5)


class StatsTests(PoolTestCase):
    def test_everything_is_counted(self):
        clock = Clock()
        pool = make_pool(clock=clock, max_size=1, min_size=0)
        pool.failed(pool.acquire(), OSError())
        lease = pool.acquire()
        clock.advance(2)
        pool.opened(lease, pool.pooling.server.connect())
        clock.advance(4)
        pool.release(lease)
        pool.discard(pool.acquire(), "broken")
        self.assertPool(
            pool,
            name="fake",
            acquired=2,
            reused=1,
            opened=1,
            open_failures=1,
            closed={"broken": 1},
            waited=0,
            refused=0,
            timeouts=0,
        )
        stats = pool.stats()
        self.assertEqual((stats.open.count, stats.open.total), (1, 2.0))
        self.assertEqual((stats.use.count, stats.use.total), (2, 4.0))

    def test_snapshot_does_not_change(self):
        pool = make_pool()
        before = pool.stats()
        pool.discard(borrow(pool))
        self.assertEqual(before.closed, {})
        self.assertEqual((before.size, before.acquired), (0, 0))

    def test_histogram(self):
        buckets = [0] * 10
        buckets[3], buckets[5] = 3, 1
        histogram = Histogram.read(buckets, 2.0)
        self.assertEqual(histogram.counts, ((8e-6, 3), (16e-6, 0), (32e-6, 1)))
        self.assertEqual((histogram.count, histogram.mean), (4, 0.5))
        self.assertEqual(histogram.quantile(0.5), 8e-6)
        self.assertEqual(histogram.quantile(1), 32e-6)
        for fraction in (-0.1, 50):
            with self.assertRaisesMessage(ValueError, f"not {fraction}."):
                histogram.quantile(fraction)

    def test_empty_histogram(self):
        histogram = Histogram.read([0] * 10, 0.0)
        self.assertEqual(histogram, Histogram((), 0, 0.0))
        self.assertEqual((histogram.mean, histogram.quantile(0.9)), (0.0, 0.0))

    def test_repr_shows_the_numbers(self):
        pool = make_pool(name="main")
        lease = borrow(pool)
        warm(pool, 1)
        for text in ("'main'", "size=2", "idle=1", "waiting=0"):
            self.assertIn(text, repr(pool))
        self.assertIn("leased", repr(lease))
