"""How values of particular types are taken apart for pickle: ours, NumPy's, and the user's."""

from __future__ import annotations

import copyreg
import sys
import threading
import types
from collections.abc import Callable, Iterable, Sequence
from pickle import PickleBuffer
from typing import Any, NamedTuple, TypeVar

from proxyflow.errors import SerializationError

__all__ = [
    "Reducer",
    "dispatch_table",
    "load_registered",
    "rebuild_memoryview",
    "register_serializer",
    "unregister_serializer",
]

Reducer = Callable[[Any], tuple[Any, ...]]

_T = TypeVar("_T")

_UNDISPATCHED = frozenset(
    {type(None), bool, int, float, str, bytes, bytearray, tuple, list, dict, set, frozenset, type}
) | {types.FunctionType, PickleBuffer}
"""Types that the C pickler treats itself, without asking a dispatch table."""

_CASTABLE = frozenset("cbBhHiIlLqQnNfd?P")
"""Formats `memoryview.cast` knows."""


class _Registered(NamedTuple):
    cls: type
    name: str
    dump: Callable[[Any], tuple[Any, Iterable[Any]]]
    load: Callable[[Any, Sequence[Any]], Any]


_lock = threading.Lock()
_by_name: dict[str, _Registered] = {}


def register_serializer(
    cls: type[_T],
    name: str,
    dump: Callable[[_T], tuple[Any, Iterable[Any]]],
    load: Callable[[Any, Sequence[memoryview]], _T],
) -> None:
    """Say how instances of a class become buffers, which then travel without being copied.

    It applies to instances of exactly this class, on their own or anywhere within an object.
    The process that reads must have registered the same name.

    Parameters
    ----------
    cls
        The class; its subclasses are not concerned.
    name
        What payloads call this serializer; unique among all.
    dump
        ``dump(obj) -> (meta, buffers)``: anything that can be pickled, and contiguous objects
        that support the buffer protocol.
    load
        ``load(meta, buffers) -> obj``: the buffers come as memoryviews, flat and of bytes.

    Raises
    ------
    ValueError
        The name belongs to another class already, or pickle gives nobody a say in this type.
    TypeError
        `cls` is not a class.

    Examples
    --------
    >>> from array import array
    >>> from proxyflow.serialize import deserialize, serialize
    >>> register_serializer(
    ...     array, "array", lambda a: (a.typecode, [a]), lambda t, b: array(t, b[0].cast(t))
    ... )
    >>> deserialize(b"".join(serialize({"a": array("i", [1, 2])}).frames))
    {'a': array('i', [1, 2])}
    >>> unregister_serializer("array")
    """
    if not isinstance(cls, type):
        raise TypeError(f"a serializer is for a class, not for {cls!r}")
    if cls in _UNDISPATCHED:
        raise ValueError(f"pickle treats {cls.__name__} itself and asks no serializer")
    with _lock:
        known = _by_name.get(name)
        # The same class again is one defined anew: a reloaded module, a notebook cell run twice.
        if known is not None and _full_name(known.cls) != _full_name(cls):
            raise ValueError(f"the serializer name {name!r} belongs to {_full_name(known.cls)}")
        _by_name[name] = _Registered(cls, name, dump, load)


def unregister_serializer(name: str) -> None:
    """Forget a serializer; payloads that were written with it cannot be read any more.

    Raises
    ------
    KeyError
        No serializer of that name is registered.
    """
    with _lock:
        del _by_name[name]


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


class _Table(NamedTuple):
    """A dispatch table and what it was made from."""

    reducers: dict[type, Reducer]
    known: dict[Any, Any]
    registered: dict[str, _Registered]
    numpy: bool


_latest: _Table | None = None


def dispatch_table() -> dict[type, Reducer]:
    """Return every reducer for a pickler to use, including those known to `copyreg`.

    It is the same one for as long as none is added or removed: do not change it.
    """
    global _latest
    latest = _latest
    numpy = sys.modules.get("numpy") is not None
    # To compare takes a fifth of the time that making one does, which is most of a small dump.
    if (
        latest is None
        or latest.known != copyreg.dispatch_table
        or latest.registered != _by_name
        or latest.numpy is not numpy
    ):
        latest = _latest = _new_table(numpy)
    return latest.reducers


def _new_table(numpy: bool) -> _Table:
    known, registered = dict(copyreg.dispatch_table), dict(_by_name)
    table: dict[type, Reducer] = {**known, memoryview: reduce_memoryview}  # type: ignore[dict-item]
    if numpy:
        from proxyflow.serialize.arrays import REDUCERS

        table.update(REDUCERS)
    for entry in registered.values():
        table[entry.cls] = _reducer_of(entry)
    return _Table(table, known, registered, numpy)


def _reducer_of(entry: _Registered) -> Reducer:
    def reduce(obj: Any) -> tuple[Any, ...]:
        meta, buffers = entry.dump(obj)
        return load_registered, (entry.name, meta, [PickleBuffer(buffer) for buffer in buffers])

    return reduce


def load_registered(name: str, meta: Any, buffers: Sequence[Any]) -> Any:
    """Rebuild an object with the serializer of that name."""
    entry = _by_name.get(name)
    if entry is None:
        raise SerializationError(
            f"no serializer named {name!r} is registered in this process",
            remedy="call register_serializer wherever objects are read",
        )
    return entry.load(meta, [memoryview(buffer) for buffer in buffers])


def reduce_memoryview(view: memoryview) -> tuple[Any, ...]:
    """Reduce a memoryview of any layout to its memory, its format and its shape."""
    if view.format.removeprefix("@") in _CASTABLE and (view.ndim == 1 or view.nbytes):
        if not view.c_contiguous:
            copy = memoryview(view.tobytes() if view.readonly else bytearray(view.tobytes()))
            return rebuild_memoryview, (PickleBuffer(copy), view.format, view.shape)
        return rebuild_memoryview, (PickleBuffer(view), view.format, view.shape)
    # Formats of several characters and views of no elements in several dimensions cannot be cast
    # to. NumPy, where they mostly come from, gives the same format back (ctypes' "<i" as "i").
    try:
        import numpy as np
    except ImportError as error:
        raise SerializationError(
            f"a memoryview of format {view.format!r} and shape {view.shape} needs NumPy",
            remedy="install numpy",
        ) from error
    return memoryview, (np.asarray(view),)


def rebuild_memoryview(buffer: Any, format: str, shape: tuple[int, ...]) -> memoryview:
    """See a memoryview of that format and shape in a buffer."""
    flat = memoryview(buffer).cast("B")
    return flat.cast(format) if len(shape) == 1 else flat.cast(format, shape)  # type: ignore[call-overload, no-any-return]
