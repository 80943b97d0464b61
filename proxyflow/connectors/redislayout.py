"""How objects lie in a Redis server: one hash for a session, one field or a few for an object.

Fields of the hash ``proxyflow:SESSION``::

    owner              who began the session
    holders            how many keep it alive
    o:NAME             an object: its head, and its bytes if they fit one part
    p:NAME:NUMBER:AT   the parts of a larger one, written before its head; a random number tells
                       those of one write from those of the next
"""

from __future__ import annotations

import mmap
import os
import re
import struct
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from proxyflow.connectors.protocol import Buffer
from proxyflow.connectors.session import SESSION_NAME
from proxyflow.errors import InvalidKeyError

__all__ = [
    "EVICT",
    "HEAD",
    "PART",
    "PREFIX",
    "Head",
    "RedisKey",
    "check_key",
    "cut",
    "flat",
    "hash_of",
    "new_memory",
    "object_field",
]

PREFIX = b"proxyflow:"

PART = 1 << 20
"""How many bytes to a field: a server that puts a large reply together takes several times as long
as for small ones, and none takes more than 512 MB."""

# Below this size pages as they come are faster than huge ones.
_HUGE_FROM = 4 << 20
_HEAD = struct.Struct("<dQQ")
_NAME = re.compile(r"[a-z2-7]{14}")

HEAD = b"return string.sub(redis.call('HGET', KEYS[1], ARGV[1]) or '', 1, 24)"
"""Script that returns the head of the object in a field, and nothing of its bytes."""

EVICT = b"""
local field = 'o:' .. ARGV[1]
local size = redis.call('HSTRLEN', KEYS[1], field)
if size == 24 then
  local _, nbytes, number = struct.unpack('<dc8c8', redis.call('HGET', KEYS[1], field))
  local low, high = struct.unpack('<I4I4', nbytes)
  local hex = ''
  for i = 8, 1, -1 do hex = hex .. string.format('%02x', string.byte(number, i)) end
  for at = 0, math.ceil((low + high * 4294967296) / tonumber(ARGV[2])) - 1 do
    redis.call('HDEL', KEYS[1], 'p:' .. ARGV[1] .. ':' .. hex .. ':' .. at)
  end
end
return redis.call('HDEL', KEYS[1], field)
"""
"""Script that removes an object with its parts, in one round trip."""


class RedisKey(NamedTuple):
    """Key of an object in a :class:`RedisConnector`."""

    session: str
    name: str


def check_key(key: Any, store: str) -> None:
    """Refuse what is not a key.

    Raises
    ------
    InvalidKeyError
        If it is not.

    Examples
    --------
    >>> check_key(RedisKey("k3v5qa2mbx", "abcdefghijklmn"), "redis://host")
    >>> check_key(RedisKey("k3v5qa2mbx", "owner"), "redis://host")
    Traceback (most recent call last):
        ...
    proxyflow.errors.InvalidKeyError: not a key of this store; store redis://host; key ...
    """
    if not (
        isinstance(key, tuple)
        and len(key) == 2
        and all(isinstance(part, str) for part in key)
        and SESSION_NAME.fullmatch(key[0])
        and _NAME.fullmatch(key[1])
    ):
        raise InvalidKeyError("not a key of this store", store=store, key=key)


def hash_of(session: str) -> bytes:
    """Return the key of the hash that a session is."""
    return PREFIX + session.encode()


def object_field(key: RedisKey) -> bytes:
    """Return the field of an object."""
    return b"o:" + key.name.encode()


class Head(NamedTuple):
    """What is known of an object without its bytes."""

    modified: float
    nbytes: int
    number: int
    """Tells the parts of one write from those of another."""

    @classmethod
    def new(cls, nbytes: int) -> Head:
        """Return the head of an object that is about to be written."""
        return cls(time.time(), nbytes, int.from_bytes(os.urandom(8)))

    @classmethod
    def read(cls, data: Any) -> Head | None:
        """Return the head at the start of a field; None if there is none."""
        return cls(*_HEAD.unpack_from(data)) if len(data) >= _HEAD.size else None

    def pack(self) -> memoryview:
        """Return the head as bytes."""
        return memoryview(_HEAD.pack(*self))

    @staticmethod
    def content(data: Any) -> memoryview:
        """Return what follows the head in a field."""
        return memoryview(data)[_HEAD.size :]

    def parts(self, key: RedisKey) -> list[bytes]:
        """Return the fields of the parts."""
        count = -(-self.nbytes // PART) if self.nbytes > PART else 0
        prefix = b"p:%s:%016x:" % (key.name.encode(), self.number)
        return [prefix + b"%d" % at for at in range(count)]


def flat(frames: Sequence[Buffer]) -> list[memoryview]:
    """Return pieces as flat bytes."""
    views = [memoryview(frame) for frame in frames]
    return [view.cast("B") for view in views if view.nbytes]


def cut(pieces: list[memoryview]) -> Iterator[list[memoryview]]:
    """Yield the concatenation of pieces in parts, without copying any.

    Examples
    --------
    >>> [sum(map(len, part)) for part in cut([memoryview(bytes(PART + 1)), memoryview(b"ab")])]
    [1048576, 3]
    """
    part: list[memoryview] = []
    room = PART
    for piece in pieces:
        while piece.nbytes:
            part.append(piece[:room])
            piece = piece[room:]
            room -= part[-1].nbytes
            if not room:
                yield part
                part, room = [], PART
    if part:
        yield part


def new_memory(nbytes: int) -> memoryview:
    """Return new memory, in huge pages where that pays and the system has them."""
    if nbytes < _HUGE_FROM:
        return memoryview(bytearray(nbytes))
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            # A kernel without them; the memory is good all the same.
            return memoryview(memory)
    return memoryview(memory)
