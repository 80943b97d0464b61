"""Resolving a proxy in the background."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from concurrent.futures import Future
from typing import Any, TypeVar

from proxyflow.proxy import Proxy, is_resolved, resolve

__all__ = ["ProxyFuture", "prefetch"]

T = TypeVar("T")


class ProxyFuture(Future[T]):
    """A future target: ``future.result()`` in a thread, ``await future`` in a coroutine.

    Examples
    --------
    >>> async def main():
    ...     return await prefetch(Proxy(lambda: 42))
    >>> asyncio.run(main())
    42
    """

    def __await__(self) -> Generator[Any, None, T]:
        return self._wait().__await__()

    async def _wait(self) -> T:
        # Not asyncio.wrap_future: cancelling one of several waiting coroutines would cancel the
        # future for all, and an exception it cannot carry (StopIteration) would hang.
        loop = asyncio.get_running_loop()
        landed = asyncio.Event()

        def land(_: Future[T]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(landed.set)

        self.add_done_callback(land)
        await landed.wait()
        return self.result()


def prefetch(proxy: Proxy[T]) -> ProxyFuture[T]:
    """Resolve ``proxy`` in a thread of its own.

    Not a pool: a factory may itself wait for another prefetch, which in a full pool would never
    start. The thread is a daemon, so a store that does not answer does not keep the interpreter
    from exiting.
    """
    future: ProxyFuture[T] = ProxyFuture()
    future.set_running_or_notify_cancel()  # so that nobody can cancel it for the others
    if is_resolved(proxy):
        future.set_result(resolve(proxy))
    else:
        threading.Thread(
            target=_fulfil, args=(future, proxy), name="proxyflow-prefetch", daemon=True
        ).start()
    return future


def _fulfil(future: ProxyFuture[T], proxy: Proxy[T]) -> None:
    try:
        target = resolve(proxy)
    except BaseException as error:  # noqa: BLE001 - it belongs to whoever asks for the result
        future.set_exception(error)
    else:
        future.set_result(target)
