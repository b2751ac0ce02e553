"""ConnectionPool with a fake driver: how leases end."""

import gc
from types import SimpleNamespace
from unittest import mock

from django.db.pool import LeaseEnded, maintenance
from django.db.pool.lease import Lease
from django.db.pool.queueing import _Waiter

from .fakes import Call, Clock, borrow, make_pool, wait_for_line, wait_until
from .pool_cases import Interrupt, PoolTestCase


class GivingBackTests(PoolTestCase):
    def test_giving_back_twice_changes_nothing(self):
        for first in ("release", "discard"):
            for second in ("release", "discard", "release_dirty"):
                with self.subTest(first=first, second=second):
                    pool = make_pool(max_size=1)
                    lease = borrow(pool)
                    self.assertIs(getattr(pool, first)(lease), True)
                    other = borrow(pool)
                    self.assertIs(getattr(pool, second)(lease), False)
                    self.assertIs(other.connection.closed, False)
                    self.assertPool(pool, in_use=1, idle=0, size=1)
                    pool.release(other)

    def test_failing_twice_changes_nothing(self):
        pool = make_pool(max_size=1)
        lease = pool.acquire()
        pool.failed(lease, OSError())
        other = pool.acquire()
        pool.failed(lease, OSError())
        self.assertPool(pool, connecting=1, size=1, open_failures=1)
        pool.opened(other, object())

    def test_releasing_a_permit_frees_its_slot(self):
        pool = make_pool(max_size=1)
        lease = pool.acquire()
        self.assertIs(pool.release(lease), True)
        self.assertPool(pool, size=0, connecting=0)
        self.assertIs(pool.release(lease), False)
        self.assertNothingLost(pool, 1)

    def test_foreign_pool_refuses(self):
        ours, theirs = make_pool(name="ours"), make_pool(name="theirs")
        lease = borrow(ours)
        permit = ours.acquire()
        for end in (
            lambda: theirs.release(lease),
            lambda: theirs.discard(lease),
            lambda: theirs.failed(permit, OSError()),
        ):
            with self.assertRaisesMessage(ValueError, "'ours'"):
                end()
        self.assertPool(theirs, size=0)
        self.assertPool(ours, in_use=1, connecting=1)
        self.assertIs(ours.release(lease), True)
        ours.failed(permit, OSError())

    def test_ended_lease_reaches_nothing(self):
        pool = make_pool()
        lease = borrow(pool)
        self.assertIs(lease.connection.closed, False)
        pool.release(lease)
        with self.assertRaisesMessage(LeaseEnded, "'fake'"):
            lease.connection
        self.assertIn("ended", repr(lease))

    def test_discarded_connection_is_closed(self):
        pool = make_pool()
        lease = borrow(pool)
        connection = lease.connection
        pool.discard(lease, "unclean")
        self.assertIs(connection.closed, True)
        self.assertEqual(pool.stats().closed, {"unclean": 1})
        self.assertPool(pool, size=0)

    def test_uses_that_were_not_brief_do_not_pile_up(self):
        clock = Clock()
        pool = make_pool(clock=clock)
        with mock.patch("django.db.pool.pool.MANY_HELD", 3):
            for not_counted in (1, 2, 0, 1):
                lease = borrow(pool)
                clock.advance(1)
                pool.release(lease)
                self.assertEqual(len(pool._state.counters.held), not_counted)
        self.assertEqual(pool.stats().use.count, 4)

    def test_nor_do_those_of_a_pool_that_is_always_waited_for(self):
        clock = Clock()
        pool = make_pool(clock=clock, max_size=1)
        lease = borrow(pool)
        for _ in range(3):
            waiter = _Waiter()
            with pool._lock:
                pool._state.wait(waiter, clock())
            clock.advance(1)
            pool.release(lease)
            lease = Lease()
            lease._slot, lease.pool, waiter.slot = waiter.slot, pool, None
        self.assertEqual(pool._state.counters.held, [])
        self.assertEqual(pool.stats().use.total, 3)

    def assertReclaimed(self, pool):
        pool.maintain()
        self.assertPool(pool, size=0)
        self.assertNothingLost(pool, pool.stats().max_size)

    def test_dropped_lease_is_reclaimed(self):
        pool = make_pool(max_size=1)
        lease = borrow(pool)
        connection = lease.connection
        del lease
        self.assertReclaimed(pool)
        # Nobody knows what state it was left in.
        self.assertIs(connection.closed, True)
        self.assertPool(pool, abandoned=1)

    def test_dropped_permit_is_reclaimed(self):
        pool = make_pool(max_size=1)
        lease = pool.acquire()
        del lease
        self.assertReclaimed(pool)

    def test_abandoned_connection_is_closed(self):
        """By whoever takes it back: that may be the last thing to be done."""
        pool = make_pool()
        connection = (lease := borrow(pool)).connection
        pool.reclaim(lease.end())
        self.assertIs(connection.closed, True)
        self.assertPool(pool, size=0, abandoned=1)

    def test_lease_dropped_in_a_cycle_is_reclaimed(self):
        pool = make_pool(max_size=1)
        lease = borrow(pool)
        cycle = [lease]
        cycle.append(cycle)
        del lease, cycle
        gc.collect()
        self.assertReclaimed(pool)

    def test_lease_of_a_thread_that_died_is_reclaimed(self):
        pool = make_pool(max_size=1)

        def die():
            lease = borrow(pool)
            raise OSError(str(lease))

        call = Call(die)
        with self.assertRaises(OSError):
            call.result()
        call.error = None
        gc.collect()
        self.assertReclaimed(pool)

    def test_reclaimed_connection_serves_who_waits(self):
        pool = make_pool(max_size=1)
        lease = borrow(pool)
        call = Call(borrow, pool)
        wait_for_line(pool, 1)
        with mock.patch.object(maintenance, "put") as put:
            del lease
            # After a wait, the first in line asks for it.
            wait_until(lambda: put.call_args is not None)
        step, argument = put.call_args.args
        step(argument)
        lease = call.result()
        pool.release(lease)
        self.assertPool(pool, abandoned=1)

    def test_slot_of_a_dropped_permit_serves_who_waits(self):
        """Though nothing was ever opened, and no thread started for it."""
        pool = make_pool(max_size=1)
        permit = pool.acquire()
        call = Call(borrow, pool)
        wait_for_line(pool, 1)
        del permit
        pool.release(call.result())

    def test_whatever_has_a_lease_is_not_reclaimed(self):
        pool = make_pool(max_size=3, connecting=3)
        lease, permit, other = borrow(pool), pool.acquire(), borrow(pool)
        pool.release(other)
        pool.maintain()
        self.assertPool(pool, in_use=1, connecting=1, idle=1, abandoned=0)
        pool.failed(permit, OSError())
        self.assertIs(pool.release(lease), True)

    def test_what_is_lost_between_two_steps_is_reclaimed(self):
        """As if an exception had come in the middle of a borrow."""
        pool = make_pool(max_size=1)
        pool.release(borrow(pool))
        pool._state.idle.pop()
        self.assertReclaimed(pool)
        pool = make_pool(max_size=1)
        pool.release(borrow(pool))
        pool._state.take(pool.now())
        self.assertReclaimed(pool)

    def test_what_is_miscounted_is_counted_anew(self):
        """As if an exception had come before or after it was counted."""
        for error in (-1, 1):
            for name in ("opening", "closing", "resetting", "calm"):
                with self.subTest(error=error, name=name):
                    pool = make_pool(max_size=3, connecting=1)
                    pool.release(borrow(pool))
                    value = getattr(pool._state, name)
                    setattr(pool._state, name, value + error)
                    pool.maintain()
                    self.assertEqual(getattr(pool._state, name), value)
                    self.assertNothingLost(pool, 3)

    def test_a_connection_being_reset_is_not_reclaimed(self):
        pool = make_pool(max_size=1)
        pool.release(borrow(pool))

        def reset_in_time(connection, session, how, left):
            pool.reclaim_lost()
            return True

        with mock.patch.object(
            pool.pooling, "reset_in_time", reset_in_time, create=True
        ):
            pool.release_dirty(borrow(pool))
        self.assertPool(pool, idle=1, abandoned=0)


class IdleTestedTests(PoolTestCase):
    """discard_dead()"""

    def warm(self, pool, *probes):
        leases = []
        for probe in probes:
            leases.append(lease := pool.acquire())
            session = SimpleNamespace(probe=probe)
            pool.opened(lease, pool.pooling.server.connect(), session)
        for lease in leases:
            pool.release(lease)

    def test_those_in_doubt_are_closed(self):
        pool = make_pool()
        self.warm(pool, None, lambda: [], lambda: [1], lambda: [1])
        pool.discard_dead()
        self.assertPool(pool, size=2, idle=2, reused=0)
        self.assertEqual(pool.stats().closed, {"dead": 2})

    def test_order_is_kept(self):
        for order, expected in (("lifo", [3, 2, 1]), ("fifo", [1, 2, 3])):
            with self.subTest(order):
                pool = make_pool(order=order)
                self.warm(pool, None, None, None)
                pool.discard_dead()
                leases = [pool.acquire() for _ in range(3)]
                numbers = [lease.connection.number for lease in leases]
                self.assertEqual(numbers, expected)

    def test_being_tested_is_no_use(self):
        clock = Clock()
        pool = make_pool(clock=clock, max_idle=10)
        self.warm(pool, None)
        clock.advance(9)
        pool.discard_dead()
        clock.advance(9)
        pool.maintain()
        self.assertPool(pool, size=0)

    def test_connection_whose_probe_fails_is_closed(self):
        pool = make_pool()
        self.warm(pool, None, mock.Mock(side_effect=OSError("bad descriptor")), None)
        pool.discard_dead()
        self.assertPool(pool, size=2, idle=2)
        self.assertEqual(pool.stats().closed, {"dead": 1})

    def test_who_comes_meanwhile_is_served(self):
        pool = make_pool(max_size=1)
        waiter = _Waiter()

        def probe():
            pool._state.wait(waiter, pool.now())
            return []

        self.warm(pool, probe)
        pool.discard_dead()
        self.assertIsNotNone(waiter.slot)
        self.assertIs(waiter.wake.acquire(blocking=False), True)

    def test_failing_probe_loses_nothing(self):
        for error in (OSError("bad descriptor"), Interrupt()):
            with self.subTest(error):
                pool = make_pool(max_size=3)
                probe = mock.Mock(side_effect=error)
                self.warm(pool, None, probe, None)
                try:
                    pool.discard_dead()
                except (OSError, Interrupt):
                    pass
                self.assertNothingLost(pool, 3)
