"""Waiting for a key to change."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from proxyflow.storage.kvs.api import get
from proxyflow.storage.kvs.errors import KeyNotFoundError, WatchTimeoutError
from proxyflow.storage.kvs.handle import Handle
from proxyflow.storage.kvs.keys import split, which_namespace
from proxyflow.storage.kvs.values import MISSING

__all__ = ["watch"]


def watch(
    flux_handle: Handle, key: str, timeout: float | None = None, namespace: str | None = None
) -> Iterator[Any]:
    """Yield the value of a key, and again whenever it has changed.

    Nothing is polled. Changes in quick succession may be seen as one.

    Parameters
    ----------
    flux_handle, key, namespace
        See `get`; links on the way may change as well.
    timeout
        How many seconds to wait for each change; ``None`` for ever.

    Yields
    ------
    Any
        What `get` returns; `MISSING` while nothing is there. Of a directory, only that it appears
        or is replaced is noticed, not what changes in it.

    Raises
    ------
    WatchTimeoutError
        The value did not change in time.

    Examples
    --------
    >>> from proxyflow.storage import kvs
    >>> handle = kvs.open("memory://")
    >>> values = watch(handle, "a", timeout=5)
    >>> next(values)
    MISSING
    >>> kvs.put(handle, "a", 1)
    >>> kvs.commit(handle)
    >>> next(values)
    1
    """
    where, names = which_namespace(namespace), split(key)
    backend = flux_handle.backend
    # Made before the first look, so that no change falls between looking and waiting.
    with backend.watch(where, names) as watcher:
        seen: object = watcher
        while True:
            deadline = None if timeout is None else time.monotonic() + timeout
            state = backend.state(where, names)
            while state == seen:
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    raise WatchTimeoutError(
                        f"no change within {timeout} s", store=flux_handle.url, key=key
                    )
                watcher.wait(remaining)
                state = backend.state(where, names)
            seen = state
            try:
                yield get(flux_handle, key, where)
            except KeyNotFoundError:
                yield MISSING
