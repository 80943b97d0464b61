"""Something done again and again in the background, for as long as there is reason to."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

__all__ = ["Periodic"]


class Periodic:
    """A daemon thread that calls `action` every `interval` seconds.

    Parameters
    ----------
    name
        Name of the thread.
    interval
        Seconds between two calls.
    action
        Called without arguments; the thread ends when it returns False, and starts again with the
        next :meth:`ensure_running`.

    Notes
    -----
    Threads do not survive a fork: a child has none until it calls :meth:`ensure_running` itself.

    Examples
    --------
    >>> import threading
    >>> called = threading.Event()
    >>> def action():
    ...     called.set()
    ...     return False
    >>> Periodic("example", 0.01, action).ensure_running()
    >>> called.wait(5)
    True
    """

    def __init__(self, name: str, interval: float, action: Callable[[], bool]) -> None:
        self._name = name
        self._interval = interval
        self._action = action
        self._renew_after_fork()

    def _renew_after_fork(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._pause = threading.Event()
        self._running = False

    def ensure_running(self) -> None:
        """Start the thread unless it runs."""
        if self._pid != os.getpid():
            self._renew_after_fork()
        with self._lock:
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def _run(self) -> None:
        while True:
            self._pause.wait(self._interval)
            with self._lock:
                # Decided under the lock: whoever asks for the thread now finds it running or ended.
                if not self._action():
                    self._running = False
                    return
