"""What runs on the server: looking at several entries, and applying changes, as one step each.

The scripts know entries and directories, as every engine does, and nothing of keys, links or
namespaces. Each begins by checking that entries seen earlier are still as they were; a list of
several looks is thereby as good as one, and changes are applied to what they were meant for.

Keys are not declared beforehand: they follow from what is found. Redis Cluster does not allow that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from proxyflow.storage.kvs.engines.resp import Command

__all__ = [
    "APPLIED",
    "APPLY",
    "LIST",
    "LOOK",
    "LOST",
    "STALE",
    "Script",
    "directory_key",
    "part_key",
]

# What a script answers where it has nothing to tell.
STALE, APPLIED, LOST = 0, 1, 2

# Directories are hashes under kvs:d:<identity>, parts are strings under kvs:p:<identity>:<number>.
DIRECTORY_PREFIX = b"kvs:d:"
PART_PREFIX = b"kvs:p:"


def directory_key(identity: bytes) -> bytes:
    """Return the key of a directory."""
    return DIRECTORY_PREFIX + identity


def part_key(identity: bytes, number: int) -> bytes:
    """Return the key of a part of a large value."""
    return PART_PREFIX + identity + b":%d" % number


@dataclass(frozen=True)
class Script:
    """A script in Lua; the server keeps it under its digest."""

    source: bytes
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", hashlib.sha1(self.source).hexdigest().encode())

    def call(self, arguments: Iterable[bytes]) -> Command:
        """Return the command that runs it."""
        return [b"EVALSHA", self.digest, b"0", *arguments]


_CHECK = b"""
-- Globals are looked up anew each time.
local call, ARGV = redis.call, ARGV
local position = 0
local function take()
  position = position + 1
  return ARGV[position]
end
-- Arguments begin with how many entries to check: directory, name, what it held ('' for nothing).
for _ = 1, tonumber(take()) do
  local directory, name, expected = take(), take(), take()
  if (call('HGET', 'kvs:d:' .. directory, name) or '') ~= expected then
    return 0
  end
end
"""

LOOK = Script(
    _CHECK
    + b"""
-- Then how many paths: directory, how many names, names. Each is followed through directories,
-- and answered with the entries on the way, up to the first that is none.
local chains = {}
for walk = 1, take() do
  local directory = take()
  local chain = {}
  for _ = 1, tonumber(take()) do
    local name = take()
    if directory then
      local entry = call('HGET', 'kvs:d:' .. directory, name)
      chain[#chain + 1] = entry
      directory = entry and entry:sub(1, 1) == 'd' and entry:sub(2)
    end
  end
  chains[walk] = chain
end
return chains
"""
)

LIST = Script(
    _CHECK
    + b"""
-- Then a directory, answered with names and the first byte of what is there.
local found = call('HGETALL', 'kvs:d:' .. take())
for at = 2, #found, 2 do
  found[at] = found[at]:sub(1, 1)
end
return found
"""
)

APPLY = Script(
    _CHECK
    + b"""
-- Then the parts that were sent before and must be there.
local parts = {}
for at = 1, tonumber(take()) do
  parts[at] = take()
  if call('EXISTS', parts[at]) == 0 then
    return 2
  end
end

-- Before anything changes: a user who may not publish has the commit refused as a whole. Nobody is
-- told before the script is done.
call('PUBLISH', take(), '')

local function release(entry)
  local pending = {entry}
  while #pending > 0 do
    local released = table.remove(pending)
    local kind = released:sub(1, 1)
    if kind == 'd' then
      local key = 'kvs:d:' .. released:sub(2)
      for _, below in ipairs(call('HVALS', key)) do
        local first = below:sub(1, 1)
        if first == 'd' or first == 'b' then
          pending[#pending + 1] = below
        end
      end
      call('UNLINK', key)
    elseif kind == 'b' then
      for number = 0, (#released - 17) / 8 - 1 do
        call('UNLINK', 'kvs:p:' .. released:sub(2, 17) .. ':' .. number)
      end
    end
  end
end

-- Then how many directories change; for each, how many names to remove, and those, and how many
-- entries to put, and those with their names. Whatever needs memory comes first, so that a server
-- without any refuses the script before it has done a thing.
local replaced = {}
local removed = {}
for _ = 1, tonumber(take()) do
  local directory = 'kvs:d:' .. take()
  for _ = 1, tonumber(take()) do
    local name = take()
    replaced[#replaced + 1] = call('HGET', directory, name) or nil
    removed[#removed + 1] = {directory, name}
  end
  for _ = 1, tonumber(take()) do
    local name, entry = take(), take()
    replaced[#replaced + 1] = call('HGET', directory, name) or nil
    call('HSET', directory, name, entry)
  end
end
for _, place in ipairs(removed) do
  call('HDEL', place[1], place[2])
end
for _, key in ipairs(parts) do
  call('PERSIST', key)
end
for _, entry in ipairs(replaced) do
  release(entry)
end
return 1
"""
)
