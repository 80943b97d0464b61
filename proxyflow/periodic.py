"""Something done again and again: in the background, or until a condition holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from proxyflow.forking import renew_in_child

__all__ = ["Periodic", "poll"]

_FIRST_PAUSE = 0.001
_LAST_PAUSE = 0.2
_GROWTH = 1.5


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
        self.renew_after_fork()
        renew_in_child(self)

    def renew_after_fork(self) -> None:
        """Start anew: the thread is the parent's."""
        # Re-entrant: the garbage collector may evict something, and need the thread, in the midst.
        self._lock = threading.RLock()
        self._pause = threading.Event()
        self._running = False
        self._asked = False

    def ensure_running(self) -> None:
        """Start the thread unless it runs.

        Raises
        ------
        RuntimeError
            If there is none to be had.
        """
        with self._lock:
            self._asked = True
            if not self._running:
                self._running = True
                try:
                    threading.Thread(target=self._run, name=self._name, daemon=True).start()
                except RuntimeError:
                    self._running = False
                    raise

    def _run(self) -> None:
        try:
            while self._wanted():
                pass
        except BaseException:
            # The thread ends with a traceback; the next who needs it starts another one.
            self._running = False
            raise

    def _wanted(self) -> bool:
        """Act once; return whether to go on."""
        self._pause.wait(self._interval)
        self._asked = False
        # Without the lock: an action may take long, and whoever asks for the thread must not wait.
        wanted = self._action()
        with self._lock:
            # Whoever asked in the meantime may have done so too late for the action to notice.
            self._running = wanted or self._asked
            return self._running


def poll(
    condition: Callable[[], bool],
    timeout: float | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> bool:
    """Wait for a condition by asking, ever more rarely: for where nothing can tell.

    Parameters
    ----------
    condition
        Asked at once, after a millisecond, and later on five times a second.
    timeout
        How many seconds to wait; None waits for ever.
    sleep
        What to do between, for that many seconds; may return early to have it asked again.

    Returns
    -------
    bool
        Whether the condition holds.

    Examples
    --------
    >>> poll(lambda: True), poll(lambda: False, timeout=0.01)
    (True, False)
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while not condition():
        remaining = pause if deadline is None else min(pause, deadline - time.monotonic())
        if remaining <= 0:
            return False
        sleep(remaining)
        pause = min(pause * _GROWTH, _LAST_PAUSE)
    return True
