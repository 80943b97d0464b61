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
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import Any

__all__ = ["Median", "figure", "interleave", "missing", "table"]


# Seconds from which on a collection after a call does not show in the next one.
_LONG = 0.05


class Median(float):
    """The median of some samples, which also knows how they are spread.

    Examples
    --------
    >>> median = Median([3.0, 1.0, 2.0, 9.0, 4.0])
    >>> median, median.quartiles, median.lowest
    (3.0, (2.0, 4.0), 1.0)
    """

    samples: tuple[float, ...]

    def __new__(cls, samples: Iterable[float]) -> Median:
        """Take the samples; the number is their median."""
        taken = tuple(sorted(samples))
        median = super().__new__(cls, statistics.median(taken))
        median.samples = taken
        return median

    def __reduce__(self) -> Any:
        return Median, (self.samples,)

    @property
    def lowest(self) -> float:
        """The least of the samples."""
        return self.samples[0]

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between what the middle half of the samples lies."""
        if len(self.samples) == 1:
            return self.samples[0], self.samples[0]
        first, _, third = statistics.quantiles(self.samples, n=4, method="inclusive")
        return first, third

    def map(self, change: Callable[[float], float]) -> Median:
        """Return the median of changed samples: seconds as a rate, for instance."""
        return Median(change(sample) for sample in self.samples)


def interleave(
    contestants: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 7,
    warmup: int = 1,
    pause: float = 0,
) -> dict[str, Median]:
    """Return the median seconds of each contestant's call, the contestants taking turns.

    After each call nothing is done for `pause` seconds.
    """
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
                if pause:
                    time.sleep(pause)
    finally:
        gc.enable()
    return {name: Median(values) for name, values in samples.items()}


def missing(*modules: str) -> list[str]:
    """Return those of some modules that are not installed."""
    return [module for module in modules if find_spec(module) is None]


def figure(value: float) -> str:
    """Return a number with three digits that count, and none behind the point from 1000 on.

    Examples
    --------
    >>> figure(0.012345), figure(12.345), figure(12345.6)
    ('0.0123', '12.3', '12,346')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(
    title: str, rows: Mapping[str, Mapping[str, float]], ours: str | None, factor: float = 1e3
) -> str:
    """Return medians times a factor, and behind each how many times ours it is."""
    names = list(dict.fromkeys(name for medians in rows.values() for name in medians))
    width = max(len(row) for row in rows) + 2
    columns = [max(24, len(name) + 2) for name in names]

    def cell(medians: Mapping[str, float], name: str) -> str:
        if name not in medians:
            return "-"
        shown = figure(medians[name] * factor)
        if not ours or not medians.get(ours):
            return shown
        return f"{shown} ({medians[name] / medians[ours]:5.2f}x)"

    head = "".join(f"{name:>{size}}" for name, size in zip(names, columns, strict=True))
    lines = [title, " " * width + head]
    for row, medians in rows.items():
        cells = (
            f"{cell(medians, name):>{size}}" for name, size in zip(names, columns, strict=True)
        )
        lines.append(f"{row:<{width}}{''.join(cells)}")
    return "\n".join(lines)
