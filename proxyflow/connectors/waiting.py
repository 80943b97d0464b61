"""Waiting for an object that appears as a file in a directory, or in one of several."""

from __future__ import annotations

import time
from collections.abc import Callable

from proxyflow.storage.watch import DirectoryWatch

__all__ = ["wait_in"]


def wait_in(
    paths: tuple[str, ...],
    exists: Callable[[], bool],
    check_possible: Callable[[], object],
    timeout: float | None,
) -> bool:
    """Return True once something exists, False when `timeout` seconds are over.

    Parameters
    ----------
    paths
        The directories of which one changes when it appears.
    exists
        Whether it does.
    check_possible
        Raises if it cannot come any more; asked when it does not exist yet.
    timeout
        Seconds; None waits for ever.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    with DirectoryWatch(*paths) as watch:
        while not exists():
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                return False
            check_possible()
            watch.wait(remaining)
    return True
