"""Locks in an object store: a record that is replaced on a condition and renewed while held.

An object store does not notice that a process died, so a lock expires `LEASE` seconds after its
holder last renewed it. A holder renews in a thread; one that could not (it was stopped for longer
than the lease) has lost the lock, and the clocks of the hosts must agree within a few seconds.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from typing import Any

from .blobs import Blobs
from .entry import new_id
from .errors import HubError

__all__ = ["LeaseLock"]

LEASE = 30.0
PAUSE = 0.1


class LeaseLock:
    """A lock on `name`, held from construction to `release()`.

    Parameters
    ----------
    blobs
        Where the lock's record is kept.
    name
        What is locked.
    shared
        Whether others may hold it shared at the same time.
    timeout
        How many seconds to wait for others; 0 tries once.

    Raises
    ------
    TimeoutError
        If others still hold the lock after `timeout` seconds.
    """

    def __init__(self, blobs: Blobs, name: str, shared: bool, timeout: float) -> None:
        self._blobs = blobs
        self._name = "locks/" + hashlib.sha256(name.encode()).hexdigest()[:32]
        self._mode = "shared" if shared else "exclusive"
        self._holder = new_id()
        deadline = time.monotonic() + timeout
        while not self._update(hold=True):
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{name} is locked by another client")
            time.sleep(PAUSE)
        self._released = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="filespace-lease", daemon=True)
        self._renewer.start()

    def release(self) -> None:
        """Let go; doing so twice is allowed."""
        if self._released.is_set():
            return
        self._released.set()
        self._renewer.join()
        while not self._update(hold=False):
            time.sleep(PAUSE)

    def _renew(self) -> None:
        pause = LEASE / 3
        while not self._released.wait(pause):
            try:
                renewed = self._update(hold=True)
            except HubError:
                renewed = False  # the hub may be back before the lease is over
            pause = LEASE / 3 if renewed else PAUSE

    def _update(self, hold: bool) -> bool:
        """Try once to put this holder into the record, or to take it out; return the success."""
        tagged = self._blobs.read_tagged(self._name)
        now = time.time()
        holders: dict[str, Any] = json.loads(tagged.data) if tagged is not None else {}
        others = {
            holder: (mode, until)
            for holder, (mode, until) in holders.items()
            if until > now and holder != self._holder
        }
        if hold:
            if any("exclusive" in (mode, self._mode) for mode, _ in others.values()):
                return False
            others[self._holder] = (self._mode, now + LEASE)
        elif self._holder not in holders:
            return True
        tag = tagged.tag if tagged is not None else None
        return self._blobs.swap(self._name, tag, json.dumps(others).encode()) is not None
