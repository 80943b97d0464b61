"""Work that nobody waits for, done by a thread that starts when there is some."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue

__all__ = ["Background"]


class Background:
    """Runs functions one after the other in a daemon thread.

    Parameters
    ----------
    name
        Name of the thread.

    Notes
    -----
    A forked child starts with nothing to do: the work is its parent's. What was queued stays
    referenced there, for whoever has to close the child's copy of a descriptor to find it.

    Examples
    --------
    >>> background, done = Background("example"), []
    >>> background.run(lambda: done.append("closed"))
    >>> background.wait()
    >>> done
    ['closed']
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._parents: SimpleQueue[Callable[[], object]] | None = None
        self._start_anew()
        os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        """Leave to the parent what there is to do."""
        # Others act in a new child as well, before this or after: dropped here, an object that only
        # the queue knows would be gone before they could close what it holds.
        self._parents = self._queue
        self._start_anew()

    def _start_anew(self) -> None:
        self._queue: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, function: Callable[[], object]) -> None:
        """Call a function, which must not raise, as soon as those before have been called."""
        self._queue.put(function)
        if self._thread is None:
            try:
                thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                thread.start()
            except RuntimeError:
                # None to be had: the interpreter is about to end, or one that allows no daemons.
                while not self._queue.empty():
                    self._queue.get()()
            else:
                self._thread = thread

    def wait(self) -> None:
        """Wait until all that there is to do has been done."""
        if self._thread in (None, threading.current_thread()) or sys.is_finalizing():
            return
        done = threading.Event()
        self.run(done.set)
        done.wait()

    def _work(self) -> None:
        while True:
            self._queue.get()()
