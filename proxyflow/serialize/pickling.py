"""Pickle protocol 5 out of band: an object to a stream and buffers, and back.

Plain pickle is tried first, as it is several times quicker than cloudpickle; its result is used
unless it refers to something that another process cannot import.
"""

from __future__ import annotations

import pickle
import reprlib
from collections.abc import Callable, Iterator, Sequence
from pickle import PickleBuffer
from types import CellType, FunctionType, SimpleNamespace
from typing import Any

from proxyflow.errors import ProxyflowError, SerializationError
from proxyflow.serialize.chunks import Piece
from proxyflow.serialize.mainmodule import modules_by_value
from proxyflow.serialize.reducers import dispatch_table

__all__ = ["IN_BAND", "dump", "load"]

IN_BAND = 4096
"""Buffers below this many bytes are copied into the stream: cheaper than a frame of their own."""

_PROTOCOL = 5

_PICKLER_OUTPUT = (pickle.PROTO, pickle.FRAME)
"""How a piece that the pickler made itself starts; others are somebody's bytes."""

_NOT_BY_NAME = (pickle.PicklingError, AttributeError, TypeError)
"""What pickle raises, depending on version and type, for what it cannot pickle by name."""

_DEEPEST_PATH = 16

_Stream = tuple[list[Piece], list[memoryview]]


def dump(obj: object) -> _Stream:
    """Pickle an object without copying its large buffers, byte strings and byte arrays.

    Returns
    -------
    stream
        The pickle in pieces.
    buffers
        What travels beside it, flat.

    Raises
    ------
    SerializationError
        Neither pickle nor cloudpickle can do it; the message names the part concerned.

    Examples
    --------
    >>> stream, buffers = dump({"answer": 42})
    >>> load(b"".join(stream), buffers)
    {'answer': 42}
    """
    try:
        return _dump(obj)
    except (ProxyflowError, MemoryError):
        raise
    except Exception as error:
        raise SerializationError(
            f"cannot serialize {_name(obj)}{_locate(obj)}: {type(error).__name__}: {error}",
            remedy="leave that part out with __getstate__, or see register_serializer",
        ) from error


def _dump(obj: object) -> _Stream:
    try:
        stream, buffers = _collect(_plain_pickler, obj)
    except _NOT_BY_NAME:
        return _collect(_by_value_pickler, obj)
    if _names_unimportable(stream):
        return _collect(_by_value_pickler, obj)
    return stream, buffers


def _collect(make_pickler: Callable[..., pickle.Pickler], obj: object) -> _Stream:
    pieces: list[Any] = []
    buffers: list[memoryview] = []

    def keep(buffer: PickleBuffer) -> bool:
        """Keep a large buffer out of band; true asks the pickler to take it in band."""
        raw = buffer.raw()
        if len(raw) < IN_BAND:
            return True
        buffers.append(raw)
        return False

    # The C pickler writes its output piece by piece, and hands large bytes and bytearrays to
    # write() as they are: collecting them in a list saves the copy that dumps() would make.
    make_pickler(SimpleNamespace(write=pieces.append), _PROTOCOL, buffer_callback=keep).dump(obj)
    return [_flat(piece) for piece in pieces], buffers


def _plain_pickler(*args: Any, **options: Any) -> pickle.Pickler:
    pickler = pickle.Pickler(*args, **options)
    pickler.dispatch_table = dispatch_table()
    return pickler


def _by_value_pickler(*args: Any, **options: Any) -> pickle.Pickler:
    from proxyflow.serialize.byvalue import ByValuePickler

    return ByValuePickler(*args, **options)


def _flat(piece: Any) -> Piece:
    return piece if isinstance(piece, bytes | bytearray) else PickleBuffer(piece).raw()


def _names_unimportable(stream: Sequence[Piece]) -> bool:
    """Tell whether the stream may name something of ``__main__`` or of a by-value module.

    Looking for the names in the finished stream costs nothing beside a pickler that is asked
    about every object. A string that merely looks so costs time, nothing else.
    """
    names = [name.encode() for name in modules_by_value()]
    # Plain loops: for a small object, generators would take longer than looking.
    for piece in stream:
        if isinstance(piece, bytes) and piece.startswith(_PICKLER_OUTPUT):
            for name in names:
                if name in piece:
                    return True
    return False


def load(stream: Piece, buffers: Sequence[memoryview]) -> Any:
    """Unpickle an object; its buffers are the given ones.

    Raises
    ------
    SerializationError
        The pickle is intact and yet does not become an object here, say for want of a module.
    """
    try:
        return pickle.loads(stream, buffers=buffers)
    except (ProxyflowError, MemoryError):
        raise
    except Exception as error:
        raise SerializationError(
            f"cannot rebuild the object: {type(error).__name__}: {error}",
            remedy="make the modules it was written with importable, in the same versions",
        ) from error


def _name(obj: object) -> str:
    cls = type(obj)
    return f"an object of type {cls.__module__}.{cls.__qualname__}"


def _locate(obj: object) -> str:
    """Return where in the object the part is that cannot be pickled, if that can be told."""
    path = ""
    for _ in range(_DEEPEST_PATH):
        for step, part in _parts(obj):
            if not _can_dump(part):
                path += step
                obj = part
                break
        else:
            break
    return f", because of its part {path} ({_name(obj)})" if path else ""


def _can_dump(obj: object) -> bool:
    try:
        _dump(obj)
    except Exception:  # noqa: BLE001 - that it fails, however, is the answer
        return False
    return True


def _parts(obj: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of an object, each with how one gets there."""
    cls = type(obj)
    if issubclass(cls, dict):
        yield from ((f"[{reprlib.repr(key)}]", value) for key, value in dict.items(obj))
    elif cls in (list, tuple, set, frozenset):
        yield from ((f"[{index}]", value) for index, value in enumerate(obj))
    elif cls is FunctionType:
        for name, cell in zip(obj.__code__.co_freevars, obj.__closure__ or (), strict=True):
            if cell != CellType():  # an empty one has no contents to look at
                yield f".{name}", cell.cell_contents
    else:
        attributes = getattr(obj, "__dict__", None)
        if type(attributes) is dict:
            yield from ((f".{name}", value) for name, value in attributes.items())
