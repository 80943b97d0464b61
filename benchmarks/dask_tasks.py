"""The tasks of the Dask benchmarks, where workers can import them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["add_one", "first", "first_of_all", "hold", "process_id", "warm_up"]

_LIMIT_SECONDS = 60


def first(array: Any, *rest: Any) -> float:
    """Read a little of an array: what is measured is how it gets here."""
    return float(array[0]) + float(array[-1])


def first_of_all(arrays: Any) -> float:
    """Read a little of each array of a list."""
    return sum(first(array) for array in arrays)


def add_one(array: Any) -> Any:
    """Return an array of the same size."""
    return array + 1


def hold(array: Any, directory: str) -> float:
    """Read all of an array and hold it; with a directory, until somebody has seen that."""
    total = float(array.sum())
    if directory:
        Path(directory, "held").touch()
        deadline = time.monotonic() + _LIMIT_SECONDS
        while not Path(directory, "seen").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    return total


def process_id() -> int:
    """Return which process this is."""
    return os.getpid()


def warm_up() -> str:
    """Import what the other tasks need."""
    return np.__version__
