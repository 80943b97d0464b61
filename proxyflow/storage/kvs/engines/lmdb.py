"""The embedded engine: LMDB, for all processes of one host.

Every commit is an ACID transaction that has reached the disk when it returns. The directory has to
be on a local file system: LMDB maps it into memory, and its locks do not reach other hosts.

Records::

    e <directory> 0 <name>     an entry
    e <directory> 1 <digest>   an entry whose name is too long for a key of LMDB; its record
                               begins with the name
    p <value> <number>         a part of a large value
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, TypeVar

from proxyflow.storage.kvs import entries
from proxyflow.storage.kvs.engine import Change, View
from proxyflow.storage.kvs.engines.lmdb_environment import Environment, environment_at
from proxyflow.storage.kvs.entries import Directory, Entry, Kind, Value
from proxyflow.storage.kvs.errors import ClosedError, DamagedError, StorageFullError
from proxyflow.storage.kvs.keys import Names
from proxyflow.storage.kvs.overlay import Parts
from proxyflow.storage.watch import DirectoryWatch

__all__ = ["LMDBEngine"]

T = TypeVar("T")

ENTRY, PART = b"e", b"p"
SHORT, LONG = b"\0", b"\1"
PREFIX_BYTES = 1 + entries.IDENTITY_BYTES

# LMDB's own limit is 511 bytes for the whole key.
SHORT_NAME_BYTES = 511 - PREFIX_BYTES - 1

_NAME_LENGTH = struct.Struct("<I")
_PART_NUMBER = struct.Struct(">I")

# Closed after each commit that changed something: an event for those who watch the directory.
CHANGED = "changed"


def _prefix(directory: Directory) -> bytes:
    return ENTRY + directory.identity


def _key(directory: Directory, name: bytes) -> bytes:
    if len(name) <= SHORT_NAME_BYTES:
        return _prefix(directory) + SHORT + name
    return _prefix(directory) + LONG + hashlib.blake2b(name, digest_size=32).digest()


def _record(name: bytes, stored: bytes) -> bytes:
    if len(name) <= SHORT_NAME_BYTES:
        return stored
    return _NAME_LENGTH.pack(len(name)) + name + stored


def _split_record(key: memoryview, record: memoryview) -> tuple[bytes, memoryview]:
    """Return the name and the stored entry of a record."""
    if key[PREFIX_BYTES : PREFIX_BYTES + 1] == SHORT:
        return bytes(key[PREFIX_BYTES + 1 :]), record
    if record.nbytes < _NAME_LENGTH.size:
        raise DamagedError("an entry of the tree is cut short")
    (length,) = _NAME_LENGTH.unpack_from(record)
    start = _NAME_LENGTH.size
    return bytes(record[start : start + length]), record[start + length :]


def _part_key(identity: bytes, number: int) -> bytes:
    return PART + identity + _PART_NUMBER.pack(number)


class _View:
    """A transaction of LMDB."""

    def __init__(self, transaction: Any) -> None:
        self._transaction = transaction

    def prefetch(self, directory: Directory, paths: Iterable[Names]) -> None:
        """Nothing is far away."""

    def entry(self, directory: Directory, name: bytes) -> Entry | None:
        stored = self._stored(directory, name)
        return None if stored is None else entries.decode(stored)

    def _stored(self, directory: Directory, name: bytes) -> bytes | None:
        key = _key(directory, name)
        record = self._transaction.get(key)
        if record is None:
            return None
        return bytes(_split_record(memoryview(key), memoryview(record))[1])

    def children(self, directory: Directory) -> list[tuple[bytes, Kind]]:
        # Sorted once more: names too long for a key come in the order of their digests.
        return sorted(
            ((name, entries.kind_of(stored)) for name, stored in self._below(directory)),
            key=lambda child: child[0],
        )

    def _below(self, directory: Directory) -> Iterator[tuple[bytes, memoryview]]:
        prefix = _prefix(directory)
        with self._transaction.cursor() as cursor:
            found = cursor.set_range(prefix)
            while found and cursor.key()[:PREFIX_BYTES] == prefix:
                yield _split_record(memoryview(cursor.key()), memoryview(cursor.value()))
                found = cursor.next()

    def read(self, values: Sequence[Value]) -> list[bytes]:
        # Joining copies once, out of the map.
        return [b"".join(self._pieces(value, 0, value.size)) for value in values]

    def readinto(self, value: Value, offset: int, target: memoryview) -> None:
        filled = 0
        for piece in self._pieces(value, offset, target.nbytes):
            target[filled : filled + len(piece)] = piece
            filled += len(piece)

    def _pieces(self, value: Value, offset: int, count: int) -> Iterator[bytes | memoryview]:
        if value.inline is not None:
            yield value.inline[offset : offset + count]
            return
        for number, start, stop in value.ranges(offset, count):
            part = self._transaction.get(_part_key(value.identity, number))
            if part is None or len(part) != value.sizes[number]:
                raise DamagedError("a part of the value is missing or cut short")
            yield memoryview(part)[start:stop]


class _Change(_View):
    """A writing transaction of LMDB."""

    part_bytes = entries.PART_BYTES

    def __init__(self, transaction: Any) -> None:
        super().__init__(transaction)
        self.written = False
        self.added = False

    def link(self, directory: Directory, name: bytes, entry: Entry, parts: Parts = ()) -> None:
        self.remove(directory, name)
        self.added = True
        if isinstance(entry, Value):
            for number, part in enumerate(parts):
                # A record is contiguous; only parts of small pieces are joined for that.
                data = part[0] if len(part) == 1 else b"".join(part)
                self._transaction.put(_part_key(entry.identity, number), data)
        self._transaction.put(_key(directory, name), _record(name, entries.encode(entry)))
        self.written = True

    def remove(self, directory: Directory, name: bytes) -> None:
        stored = self._stored(directory, name)
        if stored is not None:
            self._transaction.delete(_key(directory, name))
            self._release(entries.decode(stored))
            self.written = True

    def _release(self, entry: Entry) -> None:
        # No recursion: directories may be nested by the thousand.
        pending = [entry]
        while pending:
            released = pending.pop()
            if isinstance(released, Directory):
                below = [(name, bytes(stored)) for name, stored in self._below(released)]
                for name, stored in below:
                    self._transaction.delete(_key(released, name))
                    pending.append(entries.decode(stored))
            elif isinstance(released, Value):
                for number in range(len(released.sizes)):
                    self._transaction.delete(_part_key(released.identity, number))


class _Commit(Generic[T]):
    """What is done in a writing transaction, and once more if the disk is full."""

    def __init__(self, environment: Environment, change: Callable[[Change], T]) -> None:
        self._environment = environment
        self._change = change
        self.written = False

    def __call__(self, transaction: Any) -> T:
        return self._apply(transaction, refill=True)

    def on_a_full_disk(self) -> T:
        """Do it with the room that is kept for that."""
        try:
            return self._environment.run(self._with_reserve, write=True)
        finally:
            self._environment.reserve.refill()

    def _with_reserve(self, transaction: Any) -> T:
        # Here, where no other process can write before this one.
        self._environment.reserve.release()
        return self._apply(transaction, refill=False)

    def _apply(self, transaction: Any, *, refill: bool) -> T:
        writer = _Change(transaction)
        result = self._change(writer)
        if writer.added:
            self._environment.check_room(transaction, refill=refill)
        self.written = writer.written
        return result


class _Watcher:
    """Wakes for the commits of all processes."""

    def __init__(self, path: str) -> None:
        self._watch = DirectoryWatch(path)

    def wait(self, timeout: float | None) -> bool:
        return self._watch.wait(timeout)

    def __enter__(self) -> _Watcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._watch.close()


class LMDBEngine:
    """The tree in a directory of this host.

    Parameters
    ----------
    path
        The directory; made if it is missing.
    """

    def __init__(self, path: str) -> None:
        environment = environment_at(path)
        self.url = environment.url
        self._environment: Environment | None = environment
        # An error in opening is one of `open`, not of the first call.
        try:
            environment.clear_dead_readers()
        except BaseException:
            environment.release()
            raise

    def _opened(self) -> Environment:
        if self._environment is None:
            raise ClosedError("the handle was closed", store=self.url)
        return self._environment

    def read(self, look: Callable[[View], T]) -> T:
        """Return what `look` makes of a snapshot; writers are not held up."""
        return self._opened().run(lambda transaction: look(_View(transaction)), write=False)

    def write(self, change: Callable[[Change], T], namespace: str, *, durable: bool) -> T:
        """Apply what `change` does; it is durable in any case."""
        del namespace, durable

        environment = self._opened()
        commit = _Commit(environment, change)
        try:
            result = environment.run(commit, write=True)
        except StorageFullError:
            result = commit.on_a_full_disk()
        if commit.written:
            _tell(environment.path)
        return result

    def watch(self, namespace: str) -> _Watcher:
        """Return a watcher of the directory; it wakes for the commits to any namespace."""
        del namespace
        return _Watcher(self._opened().path)

    def dropcache(self) -> None:
        """Let the pages that killed processes were looking at be used again."""
        self._opened().clear_dead_readers()

    def close(self) -> None:
        """Let go of the environment."""
        environment, self._environment = self._environment, None
        if environment is not None:
            environment.release()


def _tell(path: str) -> None:
    """Wake those who watch the directory."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    # The commit is done, whatever happens here; who watches looks again within a second anyway.
    with contextlib.suppress(OSError):
        os.close(os.open(os.path.join(path, CHANGED), flags, 0o600))
