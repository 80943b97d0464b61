"""Calls of the store from the event loop: at once where that is quick, else in a thread.

Handing a call to a thread and back takes longer than the call, where that means a few small files
in local directories. So these are called as they are, like a web server that reads its files.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

from .embedded import EmbeddedEngine
from .versions import LockHeld

__all__ = ["SMALL", "StoreCalls", "run"]

T = TypeVar("T")

#: Bytes of a body or blob that cost no more than the request around it.
SMALL = 64 * 2**10
#: A call that takes longer than this, by a slow disk or a tag of many thousands of urls, has all
#: calls go to threads for so many times as long: the loop stands still for 5% of the time at most.
_QUICK = 0.005
_PAUSE = 20


class StoreCalls:
    """The store as handlers call it.

    Parameters
    ----------
    engine
        The store.
    """

    def __init__(self, engine: EmbeddedEngine) -> None:
        self._engine = engine
        self._impatient = engine.impatient()
        self._slow_until = 0.0

    async def __call__(self, call: Callable[[EmbeddedEngine], T], *, size: int = 0) -> T:
        """Return what `call` makes of the store; it may be called a second time.

        Parameters
        ----------
        size
            About how many bytes it moves.
        """
        started = time.monotonic()
        if size < SMALL and started >= self._slow_until and self._engine.is_quick:
            try:
                return call(self._impatient)
            except LockHeld:
                pass  # by another process, for as long as that one likes
            finally:
                ended = time.monotonic()
                if ended - started > _QUICK:
                    self._slow_until = ended + _PAUSE * (ended - started)
        return await run(call, self._engine)


async def run(function: Callable[..., T], *args: Any, **options: Any) -> T:
    """Call a function of the store, which may wait for a disk or a lock, in a thread.

    A cancelled request waits for it to end: it uses files that the request would close, and the
    next file opened would get their descriptors.
    """
    call = asyncio.ensure_future(asyncio.to_thread(function, *args, **options))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait([call])
        raise
