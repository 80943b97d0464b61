"""The tasks of the Dask benchmark, where workers can import them."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["add_one", "first", "first_of_all", "warm_up"]


def first(array: Any, *rest: Any) -> float:
    """Read a little of an array: what is measured is how it gets here."""
    return float(array[0]) + float(array[-1])


def first_of_all(arrays: Any) -> float:
    """Read a little of each array of a list."""
    return sum(first(array) for array in arrays)


def add_one(array: Any) -> Any:
    """Return an array of the same size."""
    return array + 1


def warm_up() -> str:
    """Import what the other tasks need."""
    return np.__version__
