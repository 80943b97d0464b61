"""Task functions that workers import."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from proxyflow import Proxy, is_resolved


def total(array: Any, factor: float = 1.0, *rest: Any) -> float:
    return float(np.sum(array)) * factor


@dataclass
class Image:
    """Knows what makes it the same as another one, so Dask does not look into it."""

    pixels: Any

    def __dask_tokenize__(self) -> tuple[str, tuple[int, ...], float]:
        return ("Image", self.pixels.shape, float(self.pixels[0]))


def pixel_sum(images: list[Image]) -> float:
    return float(sum(image.pixels.sum() for image in images))


def is_same(a: Any, b: Any) -> bool:
    return a is b


def kind_of(value: Any) -> str:
    return type(value).__name__


def kinds_in(values: Any, **named: Any) -> list[str]:
    items = list(values.values()) if isinstance(values, dict) else list(values)
    return [type(item).__name__ for item in [*items, *named.values()]]


def kind_if_lazy(value: Proxy[Any]) -> tuple[str, bool]:
    return type(value).__name__, is_resolved(value)


def kinds_annotated(lazy: Proxy[Any], other: Any) -> list[str]:
    return [type(lazy).__name__, type(other).__name__]


async def total_async(array: Any) -> float:
    return float(np.sum(array))


def spoil(array: Any) -> float:
    """Write to the argument, and return what it held."""
    before = float(np.sum(array))
    array[:] = -1
    return before


def grow(array: Any) -> Any:
    return array + 1


def add(left: Any, right: Any) -> Any:
    return left + right


def add_totals(*parts: Any) -> float:
    return float(sum(np.sum(part) for part in parts))


def fail(array: Any) -> None:
    raise ValueError(f"no, not {len(array)}")


def fail_until(array: Any, marker: str, times: int) -> float:
    """Fail as often as told, counting in a file; then succeed."""
    path = Path(marker)
    failed = len(path.read_text()) if path.exists() else 0
    if failed < times:
        path.write_text("x" * (failed + 1))
        raise RuntimeError("not yet")
    return float(np.sum(array))


def note_run(array: Any, directory: str) -> float:
    """Leave a file for each run."""
    (Path(directory) / f"{os.getpid()}-{time.monotonic_ns()}").touch()
    return float(np.sum(array))


def pid_and_total(array: Any) -> tuple[int, float]:
    return os.getpid(), float(np.sum(array))


def wait_for(array: Any, path: str) -> float:
    """Run until a file exists."""
    deadline = time.monotonic() + 60
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.02)
    return float(np.sum(array))


def unpicklable(array: Any) -> Any:
    return [array, threading.Lock()]


def first_of(values: Any) -> float:
    return float(values[0][0])


class Counter:
    """An actor."""

    def __init__(self, start: Any) -> None:
        self.value = float(np.sum(start))

    def add(self, array: Any) -> float:
        self.value += float(np.sum(array))
        return self.value
