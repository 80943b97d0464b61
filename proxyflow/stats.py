"""What a store has done so far: counts, bytes and seconds by operation."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from time import perf_counter

from proxyflow.forking import renew_in_child
from proxyflow.sizes import format_size

__all__ = ["OperationStats", "StoreStats"]


@dataclass
class OperationStats:
    """Totals of one operation."""

    count: int = 0
    nbytes: int = 0
    seconds: float = 0.0


class StoreStats:
    """Totals of each operation of one store in this process.

    Examples
    --------
    >>> from proxyflow import Store
    >>> with Store("memory://") as store:
    ...     key = store.put(b"x" * 1000)
    ...     store.stats["put"].count, store.stats["put"].nbytes > 1000
    (1, True)
    """

    def __init__(self) -> None:
        self._operations: dict[str, OperationStats] = {}
        self.renew_after_fork()
        renew_in_child(self)

    def renew_after_fork(self) -> None:
        """Replace the lock, which a thread of the parent may hold."""
        # Re-entrant: the garbage collector may evict something, which is recorded, in the midst
        # of recording.
        self._lock = threading.RLock()

    def record(self, operation: str, started: float, nbytes: int = 0) -> float:
        """Add one operation that began at `started` (``time.perf_counter``); return its seconds."""
        seconds = perf_counter() - started
        with self._lock:
            totals = self._operations.get(operation)
            if totals is None:
                totals = self._operations[operation] = OperationStats()
            totals.count += 1
            totals.nbytes += nbytes
            totals.seconds += seconds
        return seconds

    def __getitem__(self, operation: str) -> OperationStats:
        return self._operations.get(operation, OperationStats())

    def as_dict(self) -> dict[str, OperationStats]:
        """Return the totals by operation."""
        return dict(self._operations)

    def __repr__(self) -> str:
        parts = [
            f"{name} {o.count}x {format_size(o.nbytes)} {o.seconds * 1e3:.3g} ms"
            for name, o in sorted(self._operations.items())
        ]
        return f"<StoreStats {', '.join(parts) or 'nothing yet'}>"
