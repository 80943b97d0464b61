"""Values: what a program puts, as the bytes that are stored, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final, final

__all__ = ["MISSING", "Buffer", "Content", "Missing", "as_content", "decode", "encode", "same"]

# What has the buffer protocol; collections.abc.Buffer is newer than Python 3.11.
Buffer = bytes | bytearray | memoryview

# A value to be stored: contiguous pieces, in order, not joined.
Content = tuple[memoryview, ...]


@final
class Missing:
    """The type of `MISSING`; false, and equal to nothing but itself."""

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> str:
        # Pickled by name, so that `is MISSING` holds in the process that reads it.
        return "MISSING"


MISSING: Final = Missing()
"""No entry at all, where ``None`` would be a value (JSON ``null``)."""


def as_content(buffers: Iterable[Any]) -> Content:
    """Return buffers as flat views of bytes; an object without a buffer is a TypeError."""
    return tuple([_flat(memoryview(buffer)) for buffer in buffers])


def _flat(view: memoryview) -> memoryview:
    # cast() refuses what is not contiguous and what holds a zero in its shape.
    if view.nbytes == 0:
        return memoryview(b"")
    if not view.c_contiguous:
        return memoryview(view.tobytes())
    return view.cast("B")


def encode(value: Any, *, raw: bool = False) -> Content:
    """Return the pieces that `value` is stored as.

    Raises
    ------
    TypeError
        The value is neither JSON nor bytes.
    AttributeError
        `raw` was asked for, and the value is neither bytes nor a string.
    """
    if isinstance(value, Buffer):
        # As with all other values, what counts is what it is now, not at the commit.
        return as_content([bytes(value)])
    if raw:
        return as_content([value.encode("utf-8")])
    return as_content([json.dumps(value).encode("utf-8")])


def decode(stored: bytes) -> Any:
    r"""Guess what was stored: JSON if it parses, else a string if it is UTF-8, else bytes.

    Examples
    --------
    >>> decode(b'{"a": 1}'), decode(b"{"), decode(b"\xff")
    ({'a': 1}, '{', b'\xff')
    """
    try:
        text = stored.decode("utf-8")
    except UnicodeDecodeError:
        return stored
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        # No JSON, a number of more digits than int() takes, or nested too deeply to be parsed.
        return text


def same(stored: bytes | None, expected: Any) -> bool:
    """Tell whether the stored bytes are the value that a program would have put.

    Compared as stored values are: ``True`` is not ``1``, the order of an object's members and
    the blanks between them do not matter.
    """
    if stored is None or expected is MISSING:
        return stored is None and expected is MISSING
    wanted = b"".join(encode(expected))
    return stored == wanted or _canonical(decode(stored)) == _canonical(decode(wanted))


def _canonical(value: Any) -> Any:
    return value if isinstance(value, bytes) else json.dumps(value, sort_keys=True)
