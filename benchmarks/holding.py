"""Putting, getting and evicting, by contestants that take turns."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.contestants import Holder
from benchmarks.measure import Median

__all__ = ["EVICT", "GET", "PUT", "READ", "compare"]

PUT, GET, READ, EVICT = "put", "get", "get + sum", "evict"
"""What is timed; got is in another process, before a byte is touched."""

_WARM_UP = 2
# Small objects are put and got so many at a time, up to these bytes.
_MOST, _BATCH_BYTES = 50, 4 << 20


def compare(contestants: Sequence[Holder], array: Any, rounds: int) -> dict[str, dict[str, Median]]:
    """Return the seconds of each operation with one array, by operation and contestant."""
    repeat = max(1, min(_MOST, _BATCH_BYTES // array.nbytes))
    samples: dict[str, dict[str, list[float]]] = {}
    turns = list(contestants)
    order = random.Random(0)
    gc.collect()
    for number in range(_WARM_UP + rounds):
        order.shuffle(turns)
        for holder in turns:
            for operation, seconds in _turn(holder, array, repeat).items():
                if number >= _WARM_UP:
                    samples.setdefault(operation, {}).setdefault(holder.name, []).append(seconds)
    names = [holder.name for holder in contestants]
    return {
        operation: {name: Median(taken[name]) for name in names if name in taken}
        for operation, taken in samples.items()
    }


def _turn(holder: Holder, array: Any, repeat: int) -> dict[str, float]:
    """Put, read and evict some objects; return the seconds of each operation with one."""
    taken: dict[str, float] = {}
    keys: list[Any] = []
    started = time.perf_counter()
    for _ in range(repeat):
        keys.append(holder.put(array))
    taken[PUT] = (time.perf_counter() - started) / repeat
    if holder.read is not None:
        reads = holder.read(keys)
        taken[GET] = Median(got for got, _ in reads)
        taken[READ] = Median(summed for _, summed in reads)
    started = time.perf_counter()
    while keys:
        holder.evict(keys.pop())
    if holder.read is not None:
        taken[EVICT] = (time.perf_counter() - started) / repeat
    return taken
