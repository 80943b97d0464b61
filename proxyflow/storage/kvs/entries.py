"""What a directory holds under a name, and how it is written down.

The tree is made of directories with an identity of their own and of entries in them, like inodes
and directory entries. A path is therefore never stored, and what lies below a directory does not
concern whoever lists it. The bytes of an entry::

    v <data>                        a small value, kept in the entry itself
    b <identity> <size> <size> ...  a larger value, kept beside it in parts
    d <identity>                    a directory
    l <target>                      a symbolic link
"""

from __future__ import annotations

import enum
import os
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from proxyflow.storage.kvs.errors import DamagedError
from proxyflow.storage.kvs.keys import Names
from proxyflow.storage.kvs.values import Content

__all__ = [
    "INLINE_BYTES",
    "PART_BYTES",
    "PRIMARY_ROOT",
    "ROOTS",
    "Directory",
    "Entry",
    "Kind",
    "Link",
    "Value",
    "decode",
    "encode",
    "kind_of",
    "new_directory",
    "new_value",
    "split_parts",
]

IDENTITY_BYTES = 16

# Up to here a value travels with its entry: one look-up less, and cheaper than a record of its own.
INLINE_BYTES = 4096

# A record of LMDB has less than 4 GiB; smaller ones let a reader fetch a range.
PART_BYTES = 32 * 1024 * 1024

# Not worth being copied to sit in one part with its neighbours.
LARGE_PIECE_BYTES = 1024 * 1024

_SIZE = struct.Struct("<Q")


class Kind(bytes, enum.Enum):
    """What an entry is: the first byte of what is stored."""

    SMALL = b"v"
    LARGE = b"b"
    DIRECTORY = b"d"
    LINK = b"l"


_KINDS = {bytes(kind): kind for kind in Kind}


class Value(NamedTuple):
    """A value: its bytes if it is small, else the parts where they are."""

    inline: bytes | None
    identity: bytes = b""
    sizes: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Length in bytes."""
        return sum(self.sizes) if self.inline is None else len(self.inline)

    def ranges(self, offset: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Yield (part, start, stop) for each part that holds some of `count` bytes from `offset`.

        Examples
        --------
        >>> list(Value(None, b"...", (10, 10, 10)).ranges(8, 5))
        [(0, 8, 10), (1, 0, 3)]
        """
        end = offset + count
        begin = 0
        for part, size in enumerate(self.sizes):
            start, stop = max(offset - begin, 0), min(end - begin, size)
            if start < stop:
                yield part, start, stop
            begin += size


class Directory(NamedTuple):
    """A directory; its identity is never used again for another."""

    identity: bytes


class Link(NamedTuple):
    """A symbolic link; its target counts from the root of the namespace."""

    target: Names


Entry = Value | Directory | Link

# The directory of all namespaces, and the root of the one that always exists.
ROOTS = Directory(bytes(IDENTITY_BYTES))
PRIMARY_ROOT = Directory(bytes(IDENTITY_BYTES - 1) + b"\x01")


def new_directory() -> Directory:
    """Return an empty directory that no other process can have made."""
    return Directory(_new_identity())


def _new_identity() -> bytes:
    # 128 random bits need no counter that all writers agree on, and survive a fork.
    return os.urandom(IDENTITY_BYTES)


def new_value(content: Content, part_bytes: int) -> tuple[Value, list[list[memoryview]]]:
    """Return the entry for a content, and the parts to be stored beside it."""
    if sum([piece.nbytes for piece in content]) <= INLINE_BYTES:
        return Value(b"".join(content)), []
    parts = list(split_parts(content, part_bytes))
    sizes = tuple(sum(piece.nbytes for piece in part) for part in parts)
    return Value(None, _new_identity(), sizes), parts


def split_parts(content: Iterable[memoryview], limit: int) -> Iterator[list[memoryview]]:
    """Cut a content into parts of at most `limit` bytes, without copying.

    A large piece begins a part, so that an engine that needs contiguous parts joins small pieces
    only.
    """
    part: list[memoryview] = []
    room = limit
    for piece in content:
        if part and piece.nbytes >= LARGE_PIECE_BYTES:
            yield part
            part, room = [], limit
        while piece.nbytes:
            taken, piece = piece[:room], piece[room:]
            part.append(taken)
            room -= taken.nbytes
            if not room:
                yield part
                part, room = [], limit
    if part:
        yield part


def encode(entry: Entry) -> bytes:
    """Return the bytes an entry is stored as."""
    match entry:
        case Value(inline=data) if data is not None:
            return Kind.SMALL + data
        case Value(identity=identity, sizes=sizes):
            return Kind.LARGE + identity + b"".join(_SIZE.pack(size) for size in sizes)
        case Directory(identity):
            return Kind.DIRECTORY + identity
        case Link(target):
            return Kind.LINK + b".".join(target)


def decode(stored: bytes) -> Entry:
    """Return the entry that was stored; DamagedError if these bytes are none."""
    body = stored[1:]
    match kind_of(stored):
        case Kind.SMALL:
            return Value(body)
        case Kind.DIRECTORY if len(body) == IDENTITY_BYTES:
            return Directory(body)
        case Kind.LINK:
            return Link(tuple(name for name in body.split(b".") if name))
        case Kind.LARGE if len(body) > IDENTITY_BYTES and not len(body) % _SIZE.size:
            sizes = tuple(size for (size,) in _SIZE.iter_unpack(body[IDENTITY_BYTES:]))
            return Value(None, body[:IDENTITY_BYTES], sizes)
        case _:
            raise DamagedError("an entry of the tree is cut short or overlong")


def kind_of(stored: bytes | memoryview) -> Kind:
    """Return what a stored entry is, from its first byte; DamagedError if it is nothing known."""
    try:
        return _KINDS[bytes(stored[:1])]
    except KeyError:
        raise DamagedError("an entry of the tree is of no known kind") from None
