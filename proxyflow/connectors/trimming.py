"""What is kept for later is looked at now and then, and given back when it is not used."""

from __future__ import annotations

import contextlib
from typing import Protocol
from weakref import WeakSet

from proxyflow.periodic import Periodic

__all__ = ["trimming"]

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
        self._busy: WeakSet[Trimmable] = WeakSet()
        self._periodic = Periodic("proxyflow-trimming", _EVERY, self.look)

    def add(self, trimmable: Trimmable) -> None:
        if trimmable not in self._busy:
            self._busy.add(trimmable)
            # No thread is to be had while the interpreter ends, and with it what is kept.
            with contextlib.suppress(RuntimeError):
                self._periodic.ensure_running()

    def discard(self, trimmable: Trimmable) -> None:
        self._busy.discard(trimmable)

    def look(self) -> bool:
        for trimmable in list(self._busy):
            if not trimmable.trim():
                self._busy.discard(trimmable)
        return bool(self._busy)


trimming = _Trimming()
"""Those of this process; who keeps something adds itself."""
