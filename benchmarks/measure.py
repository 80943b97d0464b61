"""Interleaved measurements: the contestants take turns, and medians are compared.

A machine's speed drifts by half within minutes; the ratio of two medians whose samples were taken
in turns does not. The order of the turns is drawn anew each round: who always comes after the same
one finds what that one left of caches, clock frequency and sleeping processors.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec

__all__ = ["interleave", "missing", "table"]


# Seconds from which on a collection after a call does not show in the next one.
_LONG = 0.05


def interleave(
    contestants: Mapping[str, Callable[[], object]], *, rounds: int = 7, warmup: int = 1
) -> dict[str, float]:
    """Return the median seconds of each contestant's call, the contestants taking turns."""
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    turns = list(contestants.items())
    order = random.Random(0)
    # No collection in between: it would fall on whoever's turn it is, and leave cold caches.
    gc.collect()
    gc.disable()
    try:
        for turn in range(warmup + rounds):
            order.shuffle(turns)
            for name, call in turns:
                started = time.perf_counter()
                result = call()
                seconds = time.perf_counter() - started
                del result
                if turn >= warmup:
                    samples[name].append(seconds)
                if seconds > _LONG:
                    # What a long call leaves in cycles may be gigabytes.
                    gc.collect()
    finally:
        gc.enable()
    return {name: statistics.median(values) for name, values in samples.items()}


def missing(*modules: str) -> list[str]:
    """Return those of some modules that are not installed, and say so."""
    absent = [module for module in modules if find_spec(module) is None]
    for module in absent:
        print(f"(left out, not installed: {module})")
    return absent


def table(title: str, rows: Mapping[str, Mapping[str, float]], ours: str) -> str:
    """Return medians in milliseconds, and behind each how many times ours it is."""
    names = list(next(iter(rows.values())))
    width = max(len(row) for row in rows) + 2
    lines = [title, " " * width + "".join(f"{name:>24}" for name in names)]
    for row, medians in rows.items():
        cells = "".join(
            f"{medians[name] * 1e3:15.4g} ({medians[name] / medians[ours]:5.2f}x)"
            if name in medians
            else f"{'-':>24}"
            for name in names
        )
        lines.append(f"{row:<{width}}{cells}")
    return "\n".join(lines)
