"""The engine for tests: the tree in this process.

``memory://name`` is shared by all handles of the process that name it, and gone with the last of
them; ``memory://`` is a new one each time. A forked child has a copy, like of any memory.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TypeVar

from proxyflow.storage.kvs import entries, fork
from proxyflow.storage.kvs.engine import Change, View
from proxyflow.storage.kvs.entries import Directory, Entry, Kind, Link, Value
from proxyflow.storage.kvs.errors import ClosedError
from proxyflow.storage.kvs.keys import Names
from proxyflow.storage.kvs.overlay import Overlay, Parts

__all__ = ["MemoryEngine"]

T = TypeVar("T")


class _Store:
    """Directories and large values, under one lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.commits: Counter[str] = Counter()
        self.directories: dict[Directory, dict[bytes, Entry]] = {}
        self.values: dict[bytes, bytes] = {}
        fork.track(self)

    def before_fork(self) -> None:
        self.lock.acquire()

    def after_fork_in_parent(self) -> None:
        self.lock.release()

    def after_fork_in_child(self) -> None:
        # Those who waited on the old condition are threads of the parent.
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)

    def entry(self, directory: Directory, name: bytes) -> Entry | None:
        return self.directories.get(directory, {}).get(name)

    def apply(self, overlay: Overlay) -> None:
        for identity, parts in overlay.parts():
            self.values[identity] = b"".join(piece for part in parts for piece in part)
        for directory, staged in overlay.changes():
            names = self.directories.setdefault(directory, {})
            for name, entry in staged.items():
                self.release(names.pop(name, None))
                if entry is not None:
                    names[name] = entry

    def release(self, entry: Entry | None) -> None:
        pending = [entry]
        while pending:
            match pending.pop():
                case Directory() as directory:
                    pending.extend(self.directories.pop(directory, {}).values())
                case Value(identity=identity):
                    self.values.pop(identity, None)


_named: weakref.WeakValueDictionary[str, _Store] = weakref.WeakValueDictionary()
_naming = threading.Lock()


def _forget_naming() -> None:
    # A thread of the parent may have held the lock.
    global _naming
    _naming = threading.Lock()


os.register_at_fork(after_in_child=_forget_naming)


class _View:
    """The store itself, looked at while its lock is held."""

    def __init__(self, store: _Store) -> None:
        self._store = store

    def prefetch(self, directory: Directory, paths: Iterable[Names]) -> None:
        """Nothing is far away."""

    def entry(self, directory: Directory, name: bytes) -> Entry | None:
        return self._store.entry(directory, name)

    def children(self, directory: Directory) -> list[tuple[bytes, Kind]]:
        names = self._store.directories.get(directory, {})
        return sorted((name, _kind(entry)) for name, entry in names.items())

    def read(self, values: Sequence[Value]) -> list[bytes]:
        return [self._bytes(value) for value in values]

    def readinto(self, value: Value, offset: int, target: memoryview) -> None:
        target[:] = memoryview(self._bytes(value))[offset : offset + target.nbytes]

    def _bytes(self, value: Value) -> bytes:
        return self._store.values[value.identity] if value.inline is None else value.inline


class _Change(_View):
    """The store with changes on top."""

    part_bytes = entries.PART_BYTES

    def __init__(self, store: _Store) -> None:
        super().__init__(store)
        self.overlay = Overlay(store.entry)

    def entry(self, directory: Directory, name: bytes) -> Entry | None:
        return self.overlay.entry(directory, name)

    def link(self, directory: Directory, name: bytes, entry: Entry, parts: Parts = ()) -> None:
        self.overlay.link(directory, name, entry, parts)

    def remove(self, directory: Directory, name: bytes) -> None:
        self.overlay.remove(directory, name)


def _kind(entry: Entry) -> Kind:
    match entry:
        case Directory():
            return Kind.DIRECTORY
        case Link():
            return Kind.LINK
        case Value():
            return Kind.SMALL


class _Watcher:
    """Counts the commits of a namespace."""

    def __init__(self, store: _Store, namespace: str) -> None:
        self._store = store
        self._namespace = namespace
        self._seen = store.commits[namespace]

    def wait(self, timeout: float | None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._store.lock:
            while self._store.commits[self._namespace] == self._seen:
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    return False
                self._store.changed.wait(remaining)
            self._seen = self._store.commits[self._namespace]
            return True

    def __enter__(self) -> _Watcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is held."""


class MemoryEngine:
    """The tree in the memory of this process.

    Parameters
    ----------
    name
        Handles of the same name share one tree; an empty name is a tree of its own.
    """

    def __init__(self, name: str) -> None:
        self.url = f"memory://{name}"
        with _naming:
            store = _named.get(name) if name else None
            if store is None:
                store = _Store()
            if name:
                _named[name] = store
        self._store: _Store | None = store

    def _opened(self) -> _Store:
        if self._store is None:
            raise ClosedError("the handle was closed", store=self.url)
        return self._store

    def read(self, look: Callable[[View], T]) -> T:
        """Return what `look` makes of the tree, no writer being in between."""
        store = self._opened()
        with store.lock:
            return look(_View(store))

    def write(self, change: Callable[[Change], T], namespace: str, *, durable: bool) -> T:
        """Apply what `change` does; durable it is as long as the process lives."""
        del durable
        store = self._opened()
        with store.lock:
            writer = _Change(store)
            result = change(writer)
            store.apply(writer.overlay)
            store.commits[namespace] += 1
            store.changed.notify_all()
            return result

    def watch(self, namespace: str) -> _Watcher:
        """Return a watcher of what is committed to a namespace."""
        return _Watcher(self._opened(), namespace)

    def dropcache(self) -> None:
        """Nothing is remembered."""

    def close(self) -> None:
        """Let go of the tree."""
        self._store = None
