"""Sizes: reading them from text, writing them for people, estimating them for objects."""

from __future__ import annotations

import re
import sys
from collections import deque
from itertools import islice
from typing import Any

__all__ = ["estimate_size", "format_size", "parse_size"]

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_size(text: str | int) -> int:
    """Return a number of bytes written as people write it.

    Parameters
    ----------
    text
        ``"1 MiB"`` (powers of 1024), ``"10 kB"`` (powers of 1000), ``"512"``, or a number of bytes.

    Raises
    ------
    ValueError
        If `text` is not a size, or negative.

    Examples
    --------
    >>> parse_size("1 MiB"), parse_size("1.5 kB"), parse_size(64)
    (1048576, 1500, 64)
    """
    if isinstance(text, int) and not isinstance(text, bool):
        if text < 0:
            raise ValueError(f"a size cannot be negative: {text}")
        return text
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f"not a size: {text!r}; write it like 65536, '64 KiB' or '1 MiB'")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def format_size(nbytes: float) -> str:
    """Return a number of bytes as people read it.

    Examples
    --------
    >>> format_size(1023), format_size(2**20), format_size(7.63 * 2**20)
    ('1023 B', '1 MiB', '7.6 MiB')
    """
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while abs(nbytes) >= 1024 and len(units) > 1:
        nbytes /= 1024
        del units[0]
    return f"{nbytes:.1f}".removesuffix(".0") + f" {units[0]}"


# What counts as nothing: objects that are pickled by name, or are a few bytes whatever they hold.
_TINY = (type, type(sys), type(parse_size), type(len))
_TINY_EXACT = frozenset({type(None), bool, float, complex})
_FLAT = (list, tuple, set, frozenset, deque)

# Containers are looked at in a sample and no deeper than this: the estimate must stay far cheaper
# than the serialisation it is meant to avoid.
_SAMPLE = 32
_DEPTH = 6


def estimate_size(obj: Any) -> int:
    """Return about how many bytes an object would take when serialised, without serialising it.

    Arrays, buffers and tables say it themselves (``nbytes``, ``memory_usage``); containers and
    plain objects are sampled, to a bounded depth. A Dask collection counts as nothing: its size is
    that of a result that does not exist yet.

    Examples
    --------
    >>> estimate_size(bytes(1000)) >= 1000, estimate_size([bytes(1000)] * 100) >= 100_000
    (True, True)
    """
    return _estimate(obj, _DEPTH)


def _estimate(obj: Any, depth: int) -> int:
    kind = type(obj)
    if kind in _TINY_EXACT:
        return 8
    if kind is bytes or kind is bytearray:
        return len(obj)
    if kind is str:
        return len(obj) if obj.isascii() else sys.getsizeof(obj)
    if kind in (list, tuple, set, frozenset, deque):
        return _estimate_many(obj, len(obj), depth)
    if kind is dict:
        return _estimate_dict(obj, depth)
    if kind is int:
        return 4 + int(obj.bit_length()) // 8
    if isinstance(obj, _TINY):
        return 64
    return _estimate_object(obj, depth)


def _estimate_many(items: Any, count: int, depth: int) -> int:
    if not count or depth <= 0:
        return 16 + 2 * count
    sizes = [_estimate(item, depth - 1) for item in islice(items, _SAMPLE)]
    if count <= _SAMPLE:
        return 16 + 2 * count + sum(sizes)
    if isinstance(items, (list, tuple)):
        # The head of a sequence is a poor sample (headers, sentinels): look along all of it.
        sizes += [_estimate(items[i], depth - 1) for i in range(0, count, count // _SAMPLE)]
    return 16 + 2 * count + sum(sizes) * count // len(sizes)


def _estimate_dict(mapping: dict[Any, Any], depth: int) -> int:
    count = len(mapping)
    if not count or depth <= 0:
        return 16 + 2 * count
    sample = list(islice(mapping.items(), 2 * _SAMPLE))
    total = sum(_estimate(k, depth - 1) + _estimate(v, depth - 1) for k, v in sample)
    return 16 + 2 * count + total * count // len(sample)


def _estimate_object(obj: Any, depth: int) -> int:
    kind = type(obj)
    if hasattr(kind, "__dask_graph__"):
        return 64
    if hasattr(kind, "memory_usage"):
        return _estimate_table(obj, depth)
    nbytes = getattr(obj, "nbytes", None) if hasattr(kind, "nbytes") else None
    if isinstance(nbytes, int):
        return nbytes + _object_items(obj, depth)
    if isinstance(obj, _FLAT):
        return _estimate_many(obj, len(obj), depth)
    if isinstance(obj, dict):
        return _estimate_dict(obj, depth)
    state = getattr(obj, "__dict__", None)
    if isinstance(state, dict) and state and depth > 0:
        return 64 + _estimate_dict(state, depth)
    return max(sys.getsizeof(obj, 64), 64)


def _object_items(array: Any, depth: int) -> int:
    """Return what the elements of an object array take beyond their pointers."""
    if getattr(getattr(array, "dtype", None), "hasobject", False) and depth > 0 and array.size:
        flat = array.reshape(-1)
        step = max(1, flat.size // _SAMPLE)
        sizes = [_estimate(item, depth - 1) for item in flat[::step].tolist()]
        return sum(sizes) * int(flat.size) // len(sizes)
    return 0


def _estimate_table(table: Any, depth: int) -> int:
    """Return the memory use of a pandas object; object columns are sampled, not walked."""
    usage = table.memory_usage(deep=False)
    total = int(usage.sum() if hasattr(usage, "sum") else usage)
    columns = [table[name] for name in table.columns] if hasattr(table, "columns") else [table]
    for column in columns:
        values = getattr(column, "_values", None)
        if getattr(getattr(values, "dtype", None), "hasobject", False):
            total += _object_items(values, depth)
    return total
