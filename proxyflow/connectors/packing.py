"""Small objects of sessions, packed many to a file: their keys, and the files that are mapped."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

from proxyflow.connectors.filekey import PACKED_NAME, FileKey, failure
from proxyflow.connectors.protocol import StoredObject
from proxyflow.connectors.recycling import Recycler
from proxyflow.connectors.session import SESSION_NAME
from proxyflow.connectors.trimming import trimming
from proxyflow.forking import renew_in_child
from proxyflow.storage import fileio
from proxyflow.storage.arena import PREFIX, SIZE, Arena
from proxyflow.storage.copying import Source
from proxyflow.storage.fileio import Descriptor

__all__ = ["Packs"]

# The most bytes an object may have to be packed: 32 KiB and what is written with them. New pages
# cost more the more there are: storing, reading and removing one takes a quarter of a file's time
# at 1 KiB, half at 8 KiB, three quarters at 32 KiB, and from 64 KiB on as long.
_LARGEST = 33 << 10
assert SIZE >= 4 * _LARGEST

# How many arenas to keep mapped. Before Python 3.13 each takes a descriptor, of often 1024.
_MOST = 128
_SHARE_OF_DESCRIPTORS = 8

_KEY = re.compile(rf"({SESSION_NAME.pattern})\.{PACKED_NAME.pattern}")

Locate = Callable[..., tuple[list[Descriptor], str]]
"""Returns the directories of a key's session, none if that has ended; raises if it is no key."""


class Packs:
    """The small objects of one connector's session, and those of others that keys lead to.

    Parameters
    ----------
    store
        The store's directory, for errors.
    session
        The session.
    recycler
        Writes to the session's directory; None to pack nothing.
    """

    def __init__(self, store: str, session: str, recycler: Recycler | None) -> None:
        self._store = store
        self._session = session
        self._recycler = recycler
        self._most = fileio.descriptors(_SHARE_OF_DESCRIPTORS, _MOST)
        self._latest: Arena | None
        # By session and name; the oldest is forgotten first.
        self._mapped: dict[tuple[str, str], Arena]
        self.renew_after_fork()
        renew_in_child(self)

    def renew_after_fork(self) -> None:
        """Map anew what is needed: what the parent fills is not mapped any more."""
        # Re-entrant: the garbage collector may evict something in the midst of it.
        self._lock = threading.RLock()
        self._latest = None
        self._mapped = {}

    # -- writing -------------------------------------------------------------------------------

    def put(self, source: Source) -> FileKey | None:
        """Store an object if it is small and there is room; return its key, else None."""
        recycler = self._recycler
        if recycler is None or source.nbytes > _LARGEST:
            return None
        try:
            arena, slot = recycler.pack(b"".join(source.frames))
        except OSError:
            # No room, or no session any more: who stores it as a file knows what to do, or to say.
            return None
        if arena is not self._latest:
            self._begin(arena)
            trimming.add(recycler)
        return _key(self._session, arena.name, slot)

    def _begin(self, arena: Arena) -> None:
        latest, self._latest = self._latest, arena
        if latest is not None and latest.finished:
            self._mapped.pop((self._session, latest.name), None)
        self._remember((self._session, arena.name), arena)

    # -- reading and removing ------------------------------------------------------------------

    def read(self, key: FileKey, locate: Locate) -> bytes | None:
        """Return a copy of an object; None if it is missing, or none of these."""
        found = self._find(key, locate)
        return None if found is None else found[0].read(found[1])

    def holds(self, key: FileKey, locate: Locate) -> bool:
        """Return whether an object is stored here under a key."""
        found = self._find(key, locate)
        return found is not None and found[0].holds(found[1])

    def remove(self, key: FileKey, locate: Locate) -> bool:
        """Remove an object; return whether it was stored here."""
        found = self._find(key, locate)
        if found is None or not found[0].remove(found[1]):
            return False
        if found[0].finished:
            self._mapped.pop((key[0].partition(".")[0], found[0].name), None)
        return True

    def _find(self, key: Any, locate: Locate) -> tuple[Arena, int] | None:
        """Return arena and slot that a key names; None if there is no such arena."""
        # What is no key at all is for `locate` to refuse, here or later.
        filename = key[0] if isinstance(key, tuple) and len(key) == 1 else None
        match = _KEY.fullmatch(filename) if isinstance(filename, str) else None
        if match is None:
            return None
        session, name, slot = match.groups()
        arena = self._mapped.get((session, name))
        if arena is None:
            arena = self._map(session, name, key, locate)
        return None if arena is None else (arena, int(slot, 16))

    def _map(self, session: str, name: str, key: FileKey, locate: Locate) -> Arena | None:
        for directory in locate(key, missing_ok=True)[0]:
            try:
                arena = Arena.open(name, directory)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise failure(error, self._store, key) from error
            self._remember((session, name), arena)
            return arena
        return None

    def _remember(self, place: tuple[str, str], arena: Arena) -> None:
        with self._lock:
            # Not closed: another thread may be reading. It goes when nobody does.
            places = list(self._mapped)
            for oldest in places[: max(0, len(places) - self._most + 1)]:
                self._mapped.pop(oldest, None)
            self._mapped[place] = arena
        trimming.add(self)

    def trim(self) -> bool:
        """Unmap what holds nothing any more; return whether anything is left."""
        for place, arena in list(self._mapped.items()):
            if arena is not self._latest and not arena.in_use:
                # Nobody else may come by to notice that its writer is dead.
                arena.seal_if_orphan()
            if arena.finished:
                self._mapped.pop(place, None)
        latest = self._latest
        if latest is not None and latest.finished:
            self._latest = None
        return bool(self._mapped)

    def scan(self, directory: Descriptor) -> Iterator[StoredObject]:
        """Yield the small objects in the session's directory, in no order."""
        for name in fileio.names(directory.fd):
            if not name.startswith(PREFIX):
                continue
            name = name.removeprefix(PREFIX)
            try:
                arena = Arena.open(name, directory)
            except OSError:
                # Gone, or not one yet; what is not one will never be.
                continue
            for slot, nbytes, stored in arena.objects():
                yield StoredObject(_key(self._session, name, slot), nbytes, stored)

    def close(self) -> None:
        """Let go of everything; what is stored stays."""
        trimming.discard(self)
        self._recycler = self._latest = None
        with self._lock:
            self._mapped = {}


def _key(session: str, name: str, slot: int) -> FileKey:
    return FileKey(f"{session}.{name}p{slot:07x}")
