"""What a pool does on the maintenance thread, when nobody waits for it."""

import logging
import random

from .lease import Holder
from .state import NEVER

logger = logging.getLogger("django.db.pool")


class UpkeepMixin:
    """The part of ConnectionPool that the maintenance thread calls."""

    # When opening connections in advance began to fail, and when it's tried
    # again, see _fill().
    _fill_since = None
    _fill_at = 0.0

    def maintain(self):
        """
        Do what's due. Return in how many seconds there will be something to
        do again, None if the pool is empty and there won't.
        """
        state = self._state
        with self._lock:
            state.sweep(self._clock())
        self.reclaim_lost()
        fill_at = self._fill()
        report_at = self._report_held()
        with self._lock:
            now = self._clock()
            due_in = min(fill_at, report_at, state.next_due()) - now
            if state.slots:
                # What's in use now may be idle for too long in this time, or
                # when its lifetime ends. And as long as there's a borrower,
                # it may die.
                due_in = min(due_in, state.max_idle, state.next_expiry(now) - now)
            elif due_in == NEVER:
                return None
            return max(due_in, 0.0)

    def _fill(self):
        """
        Open the connections that min_size asks for. Return when to try again.

        After a failure, tries come after 1, 2, 4 ... seconds, up to 25 % less
        so that many processes don't come at once. After reconnect_timeout
        seconds of failures the pool leaves it to its borrowers until one of
        them succeeds.
        """
        if self._fill_since is not None and self._connect_error is None:
            self._fill_since, self._fill_at = None, 0.0
        while True:
            now = self._clock()
            if now < self._fill_at:
                return self._fill_at
            with self._lock:
                state = self._state
                if (slot := state.reserve(now)) is None:
                    # Borrowers may have met so many failures that it pauses.
                    is_pause = state.is_short() and now < state.retry_at
                    return state.retry_at if is_pause else NEVER
            try:
                connection, session = self.pooling.open(self.timeout)
            except BaseException as e:
                failed = self.pooling.is_connect_error(e)
                with self._lock:
                    self._note_failure(slot, e if failed else None)
                if not isinstance(e, Exception):
                    raise
                return self._back_off(e)
            self._fill_since, self._fill_at = None, 0.0
            with self._lock:
                slot.session = session
                self._state.supplied(slot, connection, self._clock())
                self._connect_error = None
                self._wake()
            self.close_condemned()

    def _report_held(self):
        """
        Log connections held for longer than leak_warning. Return when to look
        again.
        """
        if (limit := self.options.leak_warning) is None:
            return NEVER
        now = self._clock()
        # One that's borrowed from now on is looked at then.
        look_at = now + limit
        overdue = []
        with self._lock:
            for slot in self._state.slots:
                owner, since = slot.owner, slot.leased_at
                if not isinstance(owner, Holder) or owner.reported:
                    continue
                if now - since < limit:
                    look_at = min(look_at, since + limit)
                else:
                    owner.reported = True
                    overdue.append((owner, now - since))
        for owner, seconds in overdue:
            logger.warning(
                "A connection of pool %r has been held for %.1f s by %s, which "
                "borrowed it here:\n%s",
                self.name,
                seconds,
                owner,
                owner.format_stack(),
            )
        return look_at

    def _back_off(self, error):
        now = self._clock()
        if self._fill_since is None:
            self._fill_since = now
        failing_for = now - self._fill_since
        if failing_for >= self.options.reconnect_timeout:
            logger.warning(
                "Pool %r gave up opening connections in advance after %.0f s: %s",
                self.name,
                failing_for,
                error,
            )
            self._fill_at = NEVER
        else:
            pause = max(1.0, failing_for) * (1.0 - 0.25 * random.random())
            self._fill_at = now + pause
        return self._fill_at
