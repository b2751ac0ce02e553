"""Cancel a coroutine at a certain await."""

import asyncio
import itertools
import types


async def canceled_at(coroutine, number):
    """
    Run a coroutine, and cancel the present task when it comes to wait for the
    given time, counted from 1.
    """
    return await _step(coroutine, number)


@types.coroutine
def _step(coroutine, number):
    error = None
    for wait in itertools.count(1):
        try:
            awaited = coroutine.send(None) if error is None else coroutine.throw(error)
        except StopIteration as end:
            return end.value
        if wait == number:
            # It takes effect as soon as there's something to wait for.
            asyncio.current_task().cancel()
        error = None
        try:
            yield awaited
        except BaseException as e:
            error = e
