"""Paths of a filespace: absolute, ``/``-separated, UTF-8 names of at most 255 bytes."""

from __future__ import annotations

import os
from typing import TypeAlias

from .errors import FsError, InvalidArgumentError

__all__ = ["Parts", "join", "related", "split"]

Parts: TypeAlias = tuple[str, ...]
"""The names of a path from the root down; the root itself is ``()``."""

MAX_NAME_BYTES = 255


def split(path: str | os.PathLike[str]) -> Parts:
    """Return the names in `path`; ``..`` stays, for it may follow a symbolic link.

    Raises
    ------
    InvalidArgumentError
        For NUL, or text that is not valid UTF-8.
    FsError
        With ``ENAMETOOLONG`` for a name of more than 255 bytes.

    Examples
    --------
    >>> split("/data//./x.npy")
    ('data', 'x.npy')
    """
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"a filespace path is a str, not {type(text).__name__}")
    if "\0" in text:
        raise InvalidArgumentError(f"path with an embedded NUL: {text!r}")
    parts = tuple(name for name in text.split("/") if name not in ("", "."))
    for name in parts:
        check_name(name, text)
    return parts


def check_name(name: str, path: str) -> None:
    """Raise unless `name` can be one component of a path."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"path is not valid UTF-8: {path!r}") from error
    if size > MAX_NAME_BYTES:
        raise FsError.at(path, "File name too long", code=36)


def join(parts: Parts) -> str:
    """Return the path of `parts`.

    >>> join(("a", "b"))
    '/a/b'
    """
    return "/" + "/".join(parts)


def related(one: Parts, other: Parts) -> bool:
    """Return whether one path is the other or lies below it.

    >>> related(("a",), ("a", "b")), related(("a", "c"), ("a", "b"))
    (True, False)
    """
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]
