"""How large an object is when serialised, found out without serialising it."""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any, TypeAlias

from proxyflow.proxy import Proxy

__all__ = ["DEPTH", "estimate_size", "estimator"]

Estimator: TypeAlias = Callable[[Any, int], int]

# What is pickled by name, or is a few bytes whatever it stands for.
_BY_NAME = (type, type(sys), type(lambda: None), type(len), Proxy)
# Collections, parts of graphs, and handles on a cluster: they refer to what is elsewhere.
_REFERRING = frozenset({"dask", "distributed"})
_SEQUENCES = (list, tuple, deque)
_SETS = (set, frozenset)

# Containers are looked at in a sample, smaller the deeper they lie: the estimate must stay far
# cheaper than the serialisation it is meant to avoid, even of objects that refer to each other.
_SAMPLES = (0, 2, 2, 4, 8, 16, 64)
DEPTH = len(_SAMPLES) - 1


def estimate_size(obj: Any) -> int:
    """Return about how many bytes an object would take when serialised, without serialising it.

    Arrays, buffers and tables say it themselves (``nbytes``, ``memory_usage``); containers and
    plain objects are sampled, to a bounded depth. A proxy counts as nothing, and is not resolved;
    so does a Dask collection, whose size is that of a result that does not exist yet.

    Examples
    --------
    >>> estimate_size(bytes(1000)) >= 1000, estimate_size([bytes(1000)] * 100) >= 100_000
    (True, True)
    """
    return estimator(type(obj))(obj, DEPTH)


def _find_estimator(kind: type) -> Estimator:
    """Return how to estimate the instances of a class."""
    exact = _EXACT.get(kind)
    if exact is not None:
        return exact
    if issubclass(kind, _BY_NAME) or str(kind.__module__).partition(".")[0] in _REFERRING:
        return _small
    return _lazy if hasattr(kind, "__dask_graph__") else _by_protocol(kind)


def _by_protocol(kind: type) -> Estimator:
    if hasattr(kind, "memory_usage") and (hasattr(kind, "dtypes") or hasattr(kind, "dtype")):
        return _table
    if hasattr(kind, "nbytes"):
        return _array
    for bases, estimator in ((_SEQUENCES, _sequence), (_SETS, _set), (dict, _mapping)):
        if issubclass(kind, bases):
            return functools.partial(_subclassed, estimator)
    return _object


def _small(obj: Any, depth: int) -> int:
    return 8


def _lazy(obj: Any, depth: int) -> int:
    """Estimate what may be a Dask collection or, like an xarray object, hold its data itself."""
    if obj.__dask_graph__() is not None:
        return 8
    return _by_protocol(type(obj))(obj, depth)


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
    sample = _SAMPLES[depth]
    if count <= sample:
        sizes = _sizes(items, depth)
    else:
        # The head of a sequence is a poor sample (headers, sentinels): look along all of it.
        half = sample // 2
        sizes = _sizes(islice(items, half), depth)
        sizes += _sizes((items[i] for i in range(0, count, -(-count // half))), depth)
    return 16 + 2 * count + sum(sizes) * count // len(sizes)


def _set(items: Any, depth: int) -> int:
    count = len(items)
    if not count or depth <= 0:
        return 16 + 2 * count
    # Taken in one go: another thread may be adding to it.
    sizes = _sizes(list(islice(items, _SAMPLES[depth])), depth)
    return 16 + 2 * count + sum(sizes) * count // len(sizes)


def _mapping(mapping: dict[Any, Any], depth: int) -> int:
    count = len(mapping)
    if not count or depth <= 0:
        return 16 + 2 * count
    sample = list(islice(mapping.items(), _SAMPLES[depth]))
    total = sum(_sizes((part for item in sample for part in item), depth))
    return 16 + 2 * count + total * count // len(sample)


def _sizes(items: Any, depth: int) -> list[int]:
    return [estimator(type(item))(item, depth - 1) for item in items]


def _array(array: Any, depth: int) -> int:
    """Return what an array says; an object array also holds what its elements point to."""
    nbytes = getattr(array, "nbytes", None)
    if not isinstance(nbytes, int):
        return _object(array, depth)
    if _holds_objects(getattr(array, "dtype", None)):
        return nbytes + _elements(array, depth)
    return nbytes


def _elements(array: Any, depth: int) -> int:
    count = int(array.size)
    if not count or depth <= 0:
        return 0
    sizes = _sizes(array.flat[:: -(-count // _SAMPLES[depth])].tolist(), depth)
    return sum(sizes) * count // len(sizes)


def _table(table: Any, depth: int) -> int:
    """Return the memory use of a pandas object; object columns are sampled, not walked."""
    usage = table.memory_usage(deep=False)
    total = int(usage.sum() if hasattr(usage, "sum") else usage)
    return total + sum(_elements(column.to_numpy(), depth) for column in _object_columns(table))


def _object_columns(table: Any) -> list[Any]:
    if hasattr(table, "columns"):
        # By position: names need not be unique.
        return [table.iloc[:, i] for i, dtype in enumerate(table.dtypes) if _holds_objects(dtype)]
    return [table] if _holds_objects(getattr(table, "dtype", None)) else []


def _holds_objects(dtype: Any) -> bool:
    return bool(getattr(dtype, "hasobject", False))


def _subclassed(estimator: Estimator, obj: Any, depth: int) -> int:
    return estimator(obj, depth) + _attributes(obj, depth)


def _object(obj: Any, depth: int) -> int:
    return max(sys.getsizeof(obj, 64), 64) + _attributes(obj, depth)


def _attributes(obj: Any, depth: int) -> int:
    state = getattr(obj, "__dict__", None)
    size = _mapping(state, depth) if isinstance(state, dict) and state else 0
    names = [name for name in _slots(type(obj)) if hasattr(obj, name)]
    return size + (_sequence([getattr(obj, name) for name in names], depth) if names else 0)


def _find_slots(kind: type) -> list[str]:
    slots = [vars(base).get("__slots__", ()) for base in kind.__mro__]
    names = [name for part in slots for name in ([part] if isinstance(part, str) else part)]
    return [name for name in names if name not in ("__dict__", "__weakref__")]


# Found out once for each class: an estimate is made for every argument of every call.
estimator: Callable[[type], Estimator] = functools.lru_cache(maxsize=1024)(_find_estimator)
_slots: Callable[[type], list[str]] = functools.lru_cache(maxsize=1024)(_find_slots)

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
