"""How large an object is when serialised, found out without serialising it."""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any, TypeAlias

from proxyflow.proxy import Proxy

__all__ = ["estimate_size"]

Estimator: TypeAlias = Callable[[Any, int], int]

# What is pickled by name, or is a few bytes whatever it stands for.
_BY_NAME = (type, type(sys), type(lambda: None), type(len), Proxy)
_SEQUENCES = (list, tuple, deque)
_SETS = (set, frozenset)

# Containers are looked at in a sample and no deeper than this: the estimate must stay far cheaper
# than the serialisation it is meant to avoid.
_SAMPLE = 32
_DEPTH = 6


def estimate_size(obj: Any) -> int:
    """Return about how many bytes an object would take when serialised, without serialising it.

    Arrays, buffers and tables say it themselves (``nbytes``, ``memory_usage``); containers and
    plain objects are sampled, to a bounded depth. A proxy counts as nothing, and is not resolved;
    so does a Dask collection, whose size is that of a result that does not exist yet, and so does
    a handle on a cluster, such as a future, which is pickled by its name.

    Examples
    --------
    >>> estimate_size(bytes(1000)) >= 1000, estimate_size([bytes(1000)] * 100) >= 100_000
    (True, True)
    """
    return _estimator(type(obj))(obj, _DEPTH)


@functools.lru_cache(maxsize=1024)
def _estimator(kind: type) -> Estimator:
    """Return how to estimate the instances of a class; found out once for each class."""
    exact = _EXACT.get(kind)
    if exact is not None:
        return exact
    if issubclass(kind, _BY_NAME) or _is_of_dask(kind):
        return _small
    if hasattr(kind, "memory_usage"):
        return _table
    if hasattr(kind, "nbytes"):
        return _array
    if issubclass(kind, (*_SEQUENCES, *_SETS)):
        return _sequence if issubclass(kind, _SEQUENCES) else _set
    return _mapping if issubclass(kind, dict) else _object


def _is_of_dask(kind: type) -> bool:
    """Return whether a class is a collection, a part of a graph, or a handle on a cluster."""
    modules = [base.__module__ for base in kind.__mro__]
    return hasattr(kind, "__dask_graph__") or any(
        module == "dask._task_spec" or module.startswith("distributed.") for module in modules
    )


def _small(obj: Any, depth: int) -> int:
    return 8


def _int(obj: int, depth: int) -> int:
    return 4 + obj.bit_length() // 8


def _buffer(obj: bytes, depth: int) -> int:
    return len(obj)


def _str(obj: str, depth: int) -> int:
    return len(obj) if obj.isascii() else sys.getsizeof(obj)


def _sequence(items: Any, depth: int) -> int:
    count = len(items)
    if not count or depth <= 0:
        return 16 + 2 * count
    sizes = _sizes(islice(items, _SAMPLE), depth)
    if count > _SAMPLE:
        # The head of a sequence is a poor sample (headers, sentinels): look along all of it.
        sizes += _sizes((items[i] for i in range(0, count, count // _SAMPLE)), depth)
    return 16 + 2 * count + sum(sizes) * count // len(sizes)


def _set(items: Any, depth: int) -> int:
    count = len(items)
    if not count or depth <= 0:
        return 16 + 2 * count
    sizes = _sizes(islice(items, 2 * _SAMPLE), depth)
    return 16 + 2 * count + sum(sizes) * count // len(sizes)


def _mapping(mapping: dict[Any, Any], depth: int) -> int:
    count = len(mapping)
    if not count or depth <= 0:
        return 16 + 2 * count
    sample = list(islice(mapping.items(), 2 * _SAMPLE))
    total = sum(_sizes((part for item in sample for part in item), depth))
    return 16 + 2 * count + total * count // len(sample)


def _sizes(items: Any, depth: int) -> list[int]:
    return [_estimator(type(item))(item, depth - 1) for item in items]


def _array(array: Any, depth: int) -> int:
    """Return what an array says; an object array also holds what its elements point to."""
    nbytes = array.nbytes
    if not isinstance(nbytes, int):
        return _object(array, depth)
    if getattr(getattr(array, "dtype", None), "hasobject", False):
        return nbytes + _elements(array, depth)
    return nbytes


def _elements(array: Any, depth: int) -> int:
    count = int(array.size)
    if not count or depth <= 0:
        return 0
    sizes = _sizes(array.reshape(-1)[:: max(1, count // _SAMPLE)].tolist(), depth)
    return sum(sizes) * count // len(sizes)


def _table(table: Any, depth: int) -> int:
    """Return the memory use of a pandas object; object columns are sampled, not walked."""
    usage = table.memory_usage(deep=False)
    total = int(usage.sum() if hasattr(usage, "sum") else usage)
    columns = [table[name] for name in table.columns] if hasattr(table, "columns") else [table]
    for column in columns:
        values = getattr(column, "_values", None)
        if getattr(getattr(values, "dtype", None), "hasobject", False):
            total += _elements(values, depth)
    return total


def _object(obj: Any, depth: int) -> int:
    state = getattr(obj, "__dict__", None)
    if isinstance(state, dict) and state and depth > 0:
        return 64 + _mapping(state, depth)
    return max(sys.getsizeof(obj, 64), 64)


_EXACT: dict[type, Estimator] = {
    type(None): _small,
    bool: _small,
    float: _small,
    complex: _small,
    int: _int,
    bytes: _buffer,
    bytearray: _buffer,
    str: _str,
    list: _sequence,
    tuple: _sequence,
    deque: _sequence,
    set: _set,
    frozenset: _set,
    dict: _mapping,
}
