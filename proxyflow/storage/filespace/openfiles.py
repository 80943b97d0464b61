"""Opening, reading and mapping files of the embedded filespace."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any

from proxyflow.storage.fileio import mappings

from .blobs import Handle
from .client import Client
from .contents import Pending
from .entry import Entry, Kind, new_entry
from .errors import (
    FsContentError,
    FsLockedError,
    InvalidArgumentError,
)
from .filesystem import Path
from .models import Content
from .ops import Put
from .paths import Parts, join
from .sources import Sources
from .streams import Binary, Mode, StoredFile, check_layers, wrap

if TYPE_CHECKING:
    from .hubfs import HubFilesystem

__all__ = ["OpenFiles"]

LOCK_TYPES = ("", "shared", "exclusive")


class OpenFiles:
    """What ``open`` and its relatives of one link share.

    Parameters
    ----------
    client
        The link.
    sources
        Opens external files.
    """

    def __init__(self, client: Client, sources: Sources) -> None:
        self._client, self._sources = client, sources

    def open(
        self,
        fs: HubFilesystem,
        path: Path,
        layers: tuple[str, int, str | None, str | None, str | None],
        lock_type: str,
        lock_timeout: float,
    ) -> IO[Any]:
        """Open a file; see `Filesystem.open`."""
        mode = Mode.parse(layers[0])
        check_layers(mode, *layers[1:])
        if lock_type not in LOCK_TYPES:
            raise InvalidArgumentError(f"lock_type {lock_type!r} is none of {LOCK_TYPES}")
        lock = self._lock(fs, path, lock_type, lock_timeout) if lock_type else None
        try:
            if mode.writes:
                raw: Binary = self._writer(fs, path, mode, lock, lock_type)
            else:
                release = lock.release if lock is not None else None
                raw = self._reader(fs, path, release)[1]
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        stream = wrap(raw, mode, *layers[1:])
        self._client.track(stream)
        return stream

    def read(self, fs: HubFilesystem, path: Path) -> bytes:
        """Return a whole content, verified."""
        entry, raw = self._reader(fs, path)
        with raw:
            data: bytes = raw.read(-1)
        self._verify(entry, data, path)
        return data

    def content(self, fs: HubFilesystem, path: Path) -> Content:
        """Return the facts of a content."""
        _, entry = fs.lookup(path)
        entry = self._client.view.sized(entry)
        local = self._local_path(entry) if entry.kind is Kind.FILE else None
        return Content(entry.size, entry.digest, local)

    def view(self, fs: HubFilesystem, path: Path, writable: bool) -> memoryview:
        """Return a content, mapped if it is a file of this host that nobody changes."""
        entry, raw = self._reader(fs, path)
        with raw:
            mapped = isinstance(raw, StoredFile) and entry.size > 0
            if mapped and not self._client.contents.being_written(entry.content):
                view = mappings.map(raw.fileno(), entry.size)
                if view is not None:
                    return view if writable else view.toreadonly()
            data = raw.read(-1)
            self._verify(entry, data, path)
            return memoryview(bytearray(data) if writable else data)

    def _reader(
        self, fs: HubFilesystem, path: Path, on_close: Callable[[], None] | None = None
    ) -> tuple[Entry, Binary]:
        """Open the content of the file at `path`; read the metadata again if it has moved on."""
        seen = ""
        while True:
            where, entry = fs.lookup(path)
            name = fs.shown(where)
            if entry.kind is Kind.EXTERNAL:
                return entry, self._sources.open(entry, name, on_close)
            try:
                return entry, self._open_content(entry, name, on_close)
            except FileNotFoundError as error:
                if entry.content == seen:
                    raise FsContentError.at(
                        name, f"Content {entry.content} is missing in the hub"
                    ) from error
                # Replaced or deleted by another client since the metadata was read.
                seen = entry.content
                self._client.refresh()

    def _open_content(self, entry: Entry, name: str, on_close: Callable[[], None] | None) -> Binary:
        local = self._local_path(entry)
        if local is None:
            return self._client.hub.open_content(entry.content, entry.size, name, on_close)
        closed = (lambda whole: on_close()) if on_close is not None else None
        raw = StoredFile(local, "rb", name, closed)
        size = os.fstat(raw.fileno()).st_size
        if self._client.contents.get(entry.content) is None and size != entry.size:
            raw.close()
            raise FsContentError.at(
                name, f"Content in the hub has {size} bytes instead of {entry.size}"
            )
        return raw

    def _local_path(self, entry: Entry) -> str | None:
        pending = self._client.contents.get(entry.content)
        if pending is not None:
            return pending.path
        hub = self._client.hub
        return hub.blobs.local_path(hub.name("content", entry.content))

    def _verify(self, entry: Entry, data: bytes, path: Path) -> None:
        if entry.kind is not Kind.FILE or not entry.digest:
            return
        if self._client.contents.get(entry.content) is not None:
            return  # may be one that is being written
        import xxhash

        if xxhash.xxh3_128_hexdigest(data) != entry.digest:
            raise FsContentError.at(os.fspath(path), "Content in the hub does not match its digest")

    def _writer(
        self, fs: HubFilesystem, path: Path, mode: Mode, lock: Handle | None, lock_type: str
    ) -> StoredFile:
        if mode.base == "r":
            fs.lookup(path)
        client = self._client
        with client.lock:
            where, old = fs.writable(path)
            shared = client.contents.get(old.content) if old is not None else None
            if mode.base != "w" and old is not None and shared is not None and shared.writers:
                content, pending = old.content, shared
                client.contents.join(pending)
            else:
                content, pending = self._new_version(fs, path, where, old, mode)

        def closed(whole: bool) -> None:
            client.when_idle(lambda: self._finish(content, pending, whole, where, lock, lock_type))

        try:
            return StoredFile(pending.path, mode.raw, fs.shown(where), closed)
        except BaseException:
            with client.lock:
                if client.contents.leave(pending):
                    client.view.abandon(content)
            raise

    def _new_version(
        self, fs: HubFilesystem, path: Path, where: Parts, old: Entry | None, mode: Mode
    ) -> tuple[str, Pending]:
        """Make a content to write, and give it the name at once: this client sees it grow."""
        if mode.base == "w" or old is None:
            content, pending = self._client.contents.create(fs.shown(where))
        else:
            source = self._reader(fs, path)[1]
            with source:
                content, pending = self._client.contents.create(fs.shown(where), source)
        entry = old if old is not None else new_entry(Kind.FILE)
        entry = replace(entry, content=content, size=0, digest="")
        self._client.record(Put(where, entry, old.version if old is not None else None))
        return content, pending

    def _finish(
        self,
        content: str,
        pending: Pending,
        whole: bool,
        where: Parts,
        lock: Handle | None,
        lock_type: str,
    ) -> None:
        client = self._client
        try:
            if not client.is_linked:
                return
            with client.lock:
                last = client.contents.leave(pending)
                if not whole:
                    client.view.abandon(content)
                elif last:
                    client.view.completed(content)
            if lock_type == "exclusive" and whole:
                client.sync(only=where)
        finally:
            if lock is not None:
                lock.release()

    def _lock(self, fs: HubFilesystem, path: Path, lock_type: str, timeout: float) -> Handle:
        client = self._client
        with client.lock:
            client.check()
            where = fs.resolve(path)
        name = f"{client.hub.folder}{join(where)}"
        try:
            lock = client.hub.blobs.lock(name, lock_type == "shared", timeout)
        except TimeoutError as error:
            raise FsLockedError.at(os.fspath(path)) from error
        try:
            client.refresh()
        except BaseException:
            lock.release()
            raise
        return lock
