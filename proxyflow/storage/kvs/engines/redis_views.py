"""What is read and written of the tree on a Redis server, in as few round trips as can be.

All that a view has seen is of one moment: each script begins by checking that what was seen before
is still there.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from typing import Any

from proxyflow.storage.kvs import entries
from proxyflow.storage.kvs.engines.redis_client import UNDER_WAY, Client
from proxyflow.storage.kvs.engines.redis_scripts import (
    APPLIED,
    APPLY,
    LIST,
    LOOK,
    LOST,
    STALE,
    directory_key,
    part_key,
)
from proxyflow.storage.kvs.engines.resp import Command
from proxyflow.storage.kvs.entries import Directory, Entry, Kind, Value
from proxyflow.storage.kvs.errors import (
    DamagedError,
    KVSError,
    StorageFullError,
    UnreachableError,
)
from proxyflow.storage.kvs.keys import Names
from proxyflow.storage.kvs.overlay import Overlay, Parts

__all__ = ["PART_BYTES", "ReadingView", "Seen", "StaleError", "WritingView"]

# A server that puts a large reply together takes several times as long as for small ones, and none
# takes more than 512 MB.
PART_BYTES = 1024 * 1024

# Replies up to this size are asked for by the dozen.
SMALL_BYTES = 64 * 1024
SMALL_UNDER_WAY = 64

# Parts of a value are sent before the commit that makes them reachable. If that never comes, the
# server forgets them after this time.
UPLOAD_SECONDS = 3600

# A directory and a name in it.
Place = tuple[bytes, bytes]

# What was stored in a place when it was looked at.
Seen = dict[Place, bytes | None]


class StaleError(Exception):
    """What was seen earlier has changed; everything has to be looked at again."""


class _View:
    """Entries as they were seen, all of the same moment: the last look."""

    def __init__(self, client: Client, known: Seen) -> None:
        self._client = client
        self._known = known
        self.seen: Seen = {}

    def prefetch(self, directory: Directory, paths: Iterable[Names]) -> None:
        unseen: dict[tuple[bytes, Names], None] = {}
        for path in paths:
            rest = self._unseen(directory.identity, path)
            if rest is not None:
                unseen[rest] = None
        if unseen:
            self._look(list(unseen))

    def _unseen(self, here: bytes, path: Names) -> tuple[bytes, Names] | None:
        """Return from where on a path has not been seen, ``None`` if all of it has."""
        for at, name in enumerate(path):
            place = (here, name)
            if place not in self.seen:
                if place not in self._known:
                    return here, path[at:]
                self.seen[place] = self._known[place]
            stored = self.seen[place]
            if stored is None or stored[:1] != Kind.DIRECTORY:
                return None
            here = stored[1:]
        return None

    def _look(self, walks: list[tuple[bytes, Names]]) -> None:
        arguments = [*self.checks(), b"%d" % len(walks)]
        for here, path in walks:
            arguments += (here, b"%d" % len(path), *path)
        (chains,) = self._client.exchange([LOOK.call(arguments)])
        if chains == STALE:
            raise StaleError
        assert isinstance(chains, list)
        for (here, path), chain in zip(walks, chains, strict=True):
            assert isinstance(chain, list)
            for name, stored in zip(path, chain, strict=False):
                assert stored is None or isinstance(stored, bytes)
                self.seen[here, name] = stored
                here = b"" if stored is None else stored[1:]

    def checks(self) -> list[bytes]:
        """Return the arguments by which a script makes sure that nothing seen has changed."""
        arguments = [b"%d" % len(self.seen)]
        for (directory, name), stored in self.seen.items():
            arguments += [directory, name, stored or b""]
        return arguments

    def entry(self, directory: Directory, name: bytes) -> Entry | None:
        place = (directory.identity, name)
        if place not in self.seen:
            self.prefetch(directory, [(name,)])
        stored = self.seen[place]
        return None if stored is None else entries.decode(stored)

    def children(self, directory: Directory) -> list[tuple[bytes, Kind]]:
        (found,) = self._client.exchange([LIST.call([*self.checks(), directory.identity])])
        if found == STALE:
            raise StaleError
        assert isinstance(found, list)
        names, kinds = found[::2], found[1::2]
        return sorted(
            (
                (name, entries.kind_of(kind))
                for name, kind in zip(names, kinds, strict=True)
                if isinstance(name, bytes) and isinstance(kind, bytes)
            ),
            key=lambda child: child[0],
        )

    def read(self, values: Sequence[Value]) -> list[bytes]:
        found: list[bytes | io.BytesIO] = []
        commands: list[Command] = []
        targets: list[memoryview] = []
        for value in values:
            if value.inline is not None:
                found.append(value.inline)
                continue
            # Gives out what has been received into it as bytes, without a copy.
            memory = io.BytesIO(bytes(value.size))
            self._fetch(value, 0, memory.getbuffer(), commands, targets)
            found.append(memory)
        self._receive(commands, targets)
        return [data if isinstance(data, bytes) else data.getvalue() for data in found]

    def readinto(self, value: Value, offset: int, target: memoryview) -> None:
        if value.inline is not None:
            target[:] = value.inline[offset : offset + target.nbytes]
            return
        commands: list[Command] = []
        targets: list[memoryview] = []
        self._fetch(value, offset, target, commands, targets)
        self._receive(commands, targets)

    @staticmethod
    def _fetch(
        value: Value,
        offset: int,
        target: memoryview,
        commands: list[Command],
        targets: list[memoryview],
    ) -> None:
        filled = 0
        for number, start, stop in value.ranges(offset, target.nbytes):
            key = part_key(value.identity, number)
            whole = stop - start == value.sizes[number]
            commands.append([b"GET", key] if whole else [b"GETRANGE", key, start, stop - 1])
            targets.append(target[filled : filled + stop - start])
            filled += stop - start

    def _receive(self, commands: list[Command], targets: list[memoryview]) -> None:
        if not commands:
            return
        largest = max(target.nbytes for target in targets)
        under_way = SMALL_UNDER_WAY if largest <= SMALL_BYTES else UNDER_WAY
        replies = self._client.fetch(commands, targets, under_way=under_way)
        if replies == [target.nbytes for target in targets]:
            return
        # Replaced by a commit since it was looked at; or is it still what the entry says?
        self._look([])
        raise DamagedError(
            "a part of the value is missing or cut short",
            store=self._client.url,
            remedy="the server must not evict keys: set maxmemory-policy to noeviction",
        )


class ReadingView(_View):
    """A view that first looks where it remembers a directory to be, without a script.

    A directory is held under one name from when it is made until it is removed, and all that is in
    it and below goes in that same step. So one that holds something is where it was.
    """

    def __init__(self, client: Client, known: Seen) -> None:
        super().__init__(client, {})
        self._remembered = known

    def prefetch(self, directory: Directory, paths: Iterable[Names]) -> None:
        """Look into the one directory, or follow the paths from where nothing is known."""
        paths = list(paths)
        if self.seen or not self._glance(directory.identity, paths):
            super().prefetch(directory, paths)

    def _glance(self, here: bytes, paths: list[Names]) -> bool:
        """Look into the directory that all paths lead to; tell whether that says all."""
        parents = {path[:-1] for path in paths}
        if len(parents) != 1 or () in paths:
            return False
        seen: Seen = {}
        for name in parents.pop():
            stored = self._remembered.get((here, name))
            if stored is None:
                return False
            seen[here, name] = stored
            here = stored[1:]
        found = self._held(here, [path[-1] for path in paths])
        if seen and not any(found):
            # Removed, or really without these; a root is always there.
            return False
        for path, stored in zip(paths, found, strict=True):
            seen[here, path[-1]] = stored
        self.seen = seen
        return True

    def _held(self, here: bytes, names: list[bytes]) -> Sequence[Any]:
        key = directory_key(here)
        if len(names) == 1:
            return self._client.exchange([[b"HGET", key, names[0]]])
        (found,) = self._client.exchange([[b"HMGET", key, *names]])
        assert isinstance(found, list)
        return found


class WritingView(_View):
    """A view with changes on top, sent in one go at the end."""

    part_bytes = PART_BYTES

    def __init__(self, client: Client, known: Seen) -> None:
        super().__init__(client, known)
        self.overlay = Overlay(super().entry)

    def entry(self, directory: Directory, name: bytes) -> Entry | None:
        """Return the staged entry, or else the one on the server."""
        return self.overlay.entry(directory, name)

    def link(self, directory: Directory, name: bytes, entry: Entry, parts: Parts = ()) -> None:
        """Stage an entry."""
        self.overlay.link(directory, name, entry, parts)

    def remove(self, directory: Directory, name: bytes) -> None:
        """Stage that there is no entry."""
        self.overlay.remove(directory, name)

    def made(self) -> Seen:
        """Return where directories have been put, or something has been removed."""
        return {
            (directory.identity, name): None if entry is None else entries.encode(entry)
            for directory, staged in self.overlay.changes()
            for name, entry in staged.items()
            if entry is None or isinstance(entry, Directory)
        }

    def apply(self, channel: bytes) -> None:
        """Make the changes, all or none; StaleError if something seen has changed."""
        uploads: list[Command] = []
        keys: list[bytes] = []
        for identity, parts in self.overlay.parts():
            for number, part in enumerate(parts):
                keys.append(part_key(identity, number))
                uploads.append([b"SET", keys[-1], part, b"EX", UPLOAD_SECONDS])
        changes = list(self.overlay.changes())
        arguments = [*self.checks(), b"%d" % len(keys), *keys, channel, b"%d" % len(changes)]
        for directory, staged in changes:
            removed: list[bytes] = []
            put: list[bytes] = []
            for name, entry in staged.items():
                if entry is None:
                    removed.append(name)
                else:
                    put += (name, entries.encode(entry))
            arguments += (directory.identity, b"%d" % len(removed), *removed)
            arguments += (b"%d" % (len(put) // 2), *put)
        try:
            self._check_applied(
                self._client.exchange([*uploads, APPLY.call(arguments)], repeatable=False)[-1]
            )
        except UnreachableError:
            # Perhaps they are in use by now.
            raise
        except (StaleError, KVSError):
            self._withdraw(keys)
            raise

    def _check_applied(self, answer: object) -> None:
        if answer == STALE:
            raise StaleError
        if answer == LOST:
            raise StorageFullError(
                "the server dropped parts of the value before the commit", store=self._client.url
            )
        assert answer == APPLIED

    def _withdraw(self, parts: list[bytes]) -> None:
        """Remove what was sent for a commit that was refused, to have its memory back at once."""
        if parts:
            # They expire as well.
            with contextlib.suppress(KVSError):
                self._client.exchange([[b"UNLINK", *parts]])
