"""How objects lie in a Redis server.

A session is one hash, ``proxyflow:SESSION``, with the fields::

    owner     who began the session
    holders   how many keep it alive
    o:NAME    an object: its head, and its bytes if they are few

The bytes of other objects are strings, ``proxyflow:SESSION:NAME:NUMBER:AT``, written before the
head; a random number tells those of one write from those of the next. They expire like the hash;
before their head is written, after `UPLOAD`.
"""

from __future__ import annotations

import functools
import os
from typing import Any, NamedTuple

from proxyflow.connectors.sessionkey import SessionKey

__all__ = [
    "END",
    "EVICT",
    "GIVE_UP",
    "INLINE",
    "PART",
    "PREFIX",
    "RENEW",
    "SHOW",
    "UPLOAD",
    "Head",
    "hash_of",
    "object_field",
]

PREFIX = b"proxyflow:"

INLINE = 12 << 10
"""Up to how many bytes lie in the hash: a longer value the server would copy once more."""

PART = 1 << 20
"""How many bytes to a string: a server that puts a large reply together takes several times as long
as for small ones, and none takes more than 512 MB."""

UPLOAD = 3_600_000
"""Milliseconds for which parts wait for their head: writing may take longer than a lease."""

_HEAD = b"%b:%015d:%016x:"
_HEAD_SIZE = 51

# Heads are text, as scripts read them too.
_PARTS_OF = b"""
local function parts_of(hash, field, head)
  local nbytes = tonumber(string.sub(head, 19, 33)) or 0
  local found = {}
  if nbytes > %d then
    local prefix = hash .. ':' .. string.sub(field, 3) .. ':' .. string.sub(head, 35, 50) .. ':'
    for at = 0, math.ceil(nbytes / %d) - 1 do found[at + 1] = prefix .. at end
  end
  return found
end
""" % (INLINE, PART)

SHOW = b"""
for i = 2, #KEYS do
  if redis.call('PEXPIRE', KEYS[i], ARGV[3]) == 0 then
    return redis.error_reply('OOM a part is missing')
  end
end
return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
"""
"""Script that shows an object, if all its parts are there; from then on they last as long as the
session. Keys: the hash and the parts; arguments: the field, the head and the milliseconds."""

EVICT = (
    _PARTS_OF
    + b"""
local head = redis.call('HGET', KEYS[1], ARGV[1])
if not head then return 0 end
for _, part in ipairs(parts_of(KEYS[1], ARGV[1], head)) do redis.call('UNLINK', part) end
return redis.call('HDEL', KEYS[1], ARGV[1])
"""
)
"""Script that removes an object with its parts. Key: the hash; argument: the field."""

GIVE_UP = (
    b"""
local head = redis.call('HGET', KEYS[1], ARGV[1])
if not head or string.sub(head, 1, %d) ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
"""
    % _HEAD_SIZE
)
"""Script that takes back an object, but not one of another write. Key: the hash; arguments: the
field and the head."""

# Only heads are fetched: all the small objects at once would take as much memory again.
_ALL_PARTS = (
    _PARTS_OF
    + b"""
local function all_parts(hash)
  local found = {}
  for _, field in ipairs(redis.call('HKEYS', hash)) do
    if string.sub(field, 1, 2) == 'o:' and redis.call('HSTRLEN', hash, field) == %d then
      local head = redis.call('HGET', hash, field)
      for _, part in ipairs(parts_of(hash, field, head)) do found[#found + 1] = part end
    end
  end
  return found
end
"""
    % _HEAD_SIZE
)

RENEW = (
    _ALL_PARTS
    + b"""
if redis.call('PEXPIRE', KEYS[1], ARGV[1]) == 0 then return 0 end
for _, part in ipairs(all_parts(KEYS[1])) do redis.call('PEXPIRE', part, ARGV[1]) end
return 1
"""
)
"""Script that puts off the expiry of a session and of all in it. Key: the hash; argument: the
milliseconds."""

END = (
    _ALL_PARTS
    + b"""
if redis.call('HINCRBY', KEYS[1], 'holders', -1) > 0 then return 0 end
for _, part in ipairs(all_parts(KEYS[1])) do redis.call('UNLINK', part) end
return redis.call('UNLINK', KEYS[1])
"""
)
"""Script that lets go of a session, and removes it with all in it if nobody else holds it."""


def hash_of(session: str) -> bytes:
    """Return the key of the hash that a session is."""
    return PREFIX + session.encode()


def object_field(key: SessionKey) -> bytes:
    """Return the field of an object."""
    return b"o:" + key.name.encode()


@functools.lru_cache(maxsize=16)
def _stamp(modified: float) -> bytes:
    # Objects that are written together have one; the digits of a float take long to find.
    return b"%017.6f" % modified


class Head(NamedTuple):
    """What is known of an object without its bytes."""

    modified: float
    nbytes: int
    number: int
    """Tells the parts of one write from those of another."""

    @classmethod
    def new(cls, nbytes: int, now: float) -> Head:
        """Return the head of an object that is about to be written."""
        number = int.from_bytes(os.urandom(8)) if nbytes > INLINE else 0
        return cls(now, nbytes, number)

    @classmethod
    def read(cls, data: Any) -> Head | None:
        """Return the head at the start of a field; None if there is none."""
        try:
            modified, nbytes, number, _ = bytes(data[:_HEAD_SIZE]).split(b":")
            return cls(float(modified), int(nbytes), int(number, 16))
        except ValueError:
            return None

    def pack(self) -> bytes:
        """Return the head as bytes."""
        return _HEAD % (_stamp(self.modified), self.nbytes, self.number)

    @staticmethod
    def content(data: Any) -> memoryview:
        """Return what follows the head in a field."""
        return memoryview(data)[_HEAD_SIZE:]

    @property
    def whole(self) -> bool:
        """Whether the bytes lie in the hash, not in parts."""
        return self.nbytes <= INLINE

    def parts(self, key: SessionKey) -> list[bytes]:
        """Return the keys of the parts."""
        if self.whole:
            return []
        prefix = b"%s:%s:%016x:" % (hash_of(key.session), key.name.encode(), self.number)
        return [prefix + b"%d" % at for at in range(-(-self.nbytes // PART))]
