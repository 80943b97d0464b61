"""What is kept for later is looked at now and then, and given back when it is not used."""

from __future__ import annotations

import contextlib
import logging
from typing import Protocol
from weakref import ref

from proxyflow.forking import renew_in_child
from proxyflow.periodic import Periodic

__all__ = ["trimming"]

_log = logging.getLogger("proxyflow")

# Seconds between two looks.
_EVERY = 2.0


class Trimmable(Protocol):
    """Something that keeps memory for later."""

    def trim(self) -> bool:
        """Give back what has not been used for a while; return whether there may be more."""
        ...


class _Trimming:
    """Those of this process that have anything to give back."""

    def __init__(self) -> None:
        self._periodic = Periodic("proxyflow-trimming", _EVERY, self.look)
        self.renew_after_fork()
        renew_in_child(self)

    def renew_after_fork(self) -> None:
        """Leave to the parent what it keeps; whoever keeps something here adds itself again."""
        # Adding, discarding and copying need no lock: the garbage collector may come in the midst
        # of anything, and a weak set is walked in Python.
        self._busy: set[ref[Trimmable]] = set()

    def add(self, trimmable: Trimmable) -> None:
        if ref(trimmable) not in self._busy:
            self._busy.add(ref(trimmable, self._busy.discard))
        # Always: if the thread has ended for whatever reason, this is how there is one again. None
        # is to be had while the interpreter ends, and with it what is kept.
        with contextlib.suppress(RuntimeError):
            self._periodic.ensure_running()

    def discard(self, trimmable: Trimmable) -> None:
        self._busy.discard(ref(trimmable))

    def look(self) -> bool:
        for reference in list(self._busy):
            trimmable = reference()
            if trimmable is None or _trim(trimmable):
                continue
            self._busy.discard(reference)
            # It may have said so just before it was added, to no effect, by another thread.
            if _trim(trimmable):
                self._busy.add(reference)
        return bool(self._busy)


def _trim(trimmable: Trimmable) -> bool:
    """Return whether there may be more, as there may where it failed; the others go on."""
    try:
        return trimmable.trim()
    except OSError as error:
        _log.debug("what is kept cannot be given back yet: %s", error)
        return True


trimming = _Trimming()
"""Those of this process; who keeps something adds itself."""
