"""Objects as files in a directory: shared memory, a local disk or a shared file system.

Semantics: ProxyStore's ``FileConnector``
(https://docs.proxystore.dev/latest/api/connectors/file/), with one difference that shows: an
object is published by a single atomic link, so there are no marker files, and a reader sees all of
an object or nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any

from proxyflow.connectors.filekey import (
    STORED_NAME,
    FileKey,
    FileKeySeries,
    KeyMaker,
    closed,
    ended,
    failure,
    not_an_object,
    split_key,
)
from proxyflow.connectors.objectfile import ObjectFile
from proxyflow.connectors.others import OtherSessions
from proxyflow.connectors.packing import Packs
from proxyflow.connectors.protocol import Buffer, StoredObject
from proxyflow.connectors.recycling import Recycler, default_capacity
from proxyflow.connectors.root import as_directory, check_local, in_memory
from proxyflow.connectors.session import SessionDirectory, SessionHold
from proxyflow.connectors.sweep import sweep
from proxyflow.connectors.url import StoreURL
from proxyflow.connectors.waiting import wait_in
from proxyflow.errors import (
    ConfigError,
    StoreClosedError,
    StoreError,
    StoreFullError,
    StoreUnreachableError,
)
from proxyflow.storage import fileio
from proxyflow.storage.copying import Pieces, Source
from proxyflow.storage.fileio import Descriptor

__all__ = ["FileConnector", "FileKey"]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_OPTIONS = frozenset({"durable", "spill", "clear", "capacity"})
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class FileConnector:
    """Objects as files in a directory.

    Parameters
    ----------
    store_dir
        The directory; made with mode 0700 when missing. ``/dev/shm/NAME`` keeps the objects in
        shared memory.
    clear
        Whether closing removes the objects of this session. Only the process that started the
        session does that.
    session
        The session to join; by default a new one, which this connector then owns.
    durable
        Whether an object has reached the disk when `put` returns (``fsync`` of file and
        directory).
    spill
        A second directory, which takes what does not fit into the first.
    capacity
        How many bytes of removed objects to keep for the next ones, for a while: where the
        directory is in memory, that spares them fresh pages. By default a quarter of what is free;
        0 for none. A durable store keeps none, nor does one on a disk.

    Raises
    ------
    StoreUnreachableError
        If a directory cannot be made or opened.
    ConfigError
        If a directory's name is none, or both are the same.
    StoreClosedError
        If the session to join has ended.

    Examples
    --------
    >>> import tempfile
    >>> directory = tempfile.TemporaryDirectory()
    >>> connector = FileConnector(directory.name)
    >>> key = connector.put(b"some bytes")
    >>> connector.get(key), connector.exists(key)
    (b'some bytes', True)
    >>> connector.evict(key)
    >>> connector.get(key) is None
    True
    >>> connector.close()
    >>> directory.cleanup()
    """

    scheme = "file"
    """What its URLs begin with."""

    key_type = FileKey

    packs = False
    """Whether small objects are packed many to a file."""

    def __init__(
        self,
        store_dir: str,
        clear: bool = True,
        *,
        session: str | None = None,
        durable: bool = False,
        spill: str | None = None,
        capacity: int | None = None,
    ) -> None:
        self.store_dir = as_directory(store_dir)
        self.clear = clear
        self.durable = durable
        self.spill = None if spill is None else as_directory(spill)
        if self.spill == self.store_dir:
            raise ConfigError(f"the spill directory is the store's own: {self.spill}")
        roots = [self.store_dir] if self.spill is None else [self.store_dir, self.spill]
        self._directories = self._open_directories(roots, session)
        self._name = self._directories[0].name
        # What others write here may be recycled, whatever this connector does itself.
        self._recycled = in_memory(self.store_dir)
        self.capacity = capacity
        self._recycler = self._make_recycler()
        self._packs = Packs(self.store_dir, self._name, self._recycler if self.packs else None)
        self._make_key = KeyMaker(self._name)
        self._others = OtherSessions(
            lambda name: [SessionDirectory.join(root, name) for root in roots]
        )

    def _make_recycler(self) -> Recycler | None:
        if self.durable or not self._recycled or self.capacity == 0:
            return None
        capacity = self.capacity
        if capacity is None:
            capacity = default_capacity(self.store_dir)
        return Recycler(self._directories[0].opened(), capacity)

    def _recycler_of(self, directory: Descriptor) -> Recycler | None:
        recycler = self._recycler
        return recycler if recycler is not None and recycler.directory is directory else None

    def _open_directories(self, roots: list[str], session: str | None) -> list[SessionDirectory]:
        if session is not None:
            return [SessionDirectory.join(root, session) for root in roots]
        opened: list[SessionDirectory] = []
        try:
            for root in roots:
                # What cannot be removed now must not keep a new run from starting.
                with contextlib.suppress(StoreUnreachableError):
                    sweep(root)
                name = opened[0].name if opened else None
                opened.append(
                    SessionDirectory.create(
                        root, name=name, keep=not self.clear, durable=self.durable
                    )
                )
        except BaseException:
            for directory in opened:
                directory.close()
            raise
        return opened

    @classmethod
    def from_url(cls, url: StoreURL) -> FileConnector:
        """Return the connector that ``file:///directory?durable=1&spill=/second#session`` names."""
        check_local(url, _OPTIONS)
        return cls(
            url.path,
            url.flag("clear", True),
            session=url.session,
            durable=url.flag("durable"),
            spill=url.options.get("spill"),
            capacity=url.size("capacity"),
        )

    @staticmethod
    def hold_url(url: StoreURL) -> SessionHold:
        """Keep the session that `url` names alive, beyond its owner if need be.

        Raises
        ------
        StoreClosedError
            If it has ended.
        StoreUnreachableError
            If it cannot be held from here.
        """
        if not url.session:
            raise ConfigError(f"{url} names no session")
        return SessionHold([url.path, *filter(None, [url.options.get("spill")])], url.session)

    @classmethod
    def sweep_url(cls, url: StoreURL) -> list[str]:
        """Remove what dead owners left in the directories `url` names; opens no session."""
        check_local(url, _OPTIONS)
        roots = [url.path, *filter(None, [url.options.get("spill")])]
        return sorted({name for root in roots for name in sweep(root)})

    def __repr__(self) -> str:
        state = "closed" if self._closed else "owner" if self.owner else "joined"
        return f"<FileConnector {self.store_dir!r} session {self.session} ({state})>"

    # -- what and where it is ------------------------------------------------------------------

    @property
    def session(self) -> str:
        """Name of the session, which is the name of its directory."""
        return self._name

    @property
    def owner(self) -> bool:
        """Whether closing this connector ends the session."""
        return self._directories[0].owner

    @property
    def url(self) -> str:
        """URL that opens the same session."""
        options: dict[str, str] = {}
        if self.durable:
            options["durable"] = "1"
        if self.spill is not None:
            options["spill"] = self.spill
        if self.capacity is not None:
            options["capacity"] = str(self.capacity)
        return str(StoreURL(self.scheme, "", self.store_dir, options, self.session))

    def config(self) -> dict[str, Any]:
        """Return what `from_config` needs to join this session."""
        return {
            "store_dir": self.store_dir,
            "clear": self.clear,
            "session": self.session,
            "durable": self.durable,
            "spill": self.spill,
            "capacity": self.capacity,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FileConnector:
        """Return a connector for a configuration, joining its session."""
        return cls(**config)

    @property
    def _closed(self) -> bool:
        return self._directories[0].closed

    # -- writing -------------------------------------------------------------------------------

    def new_key(self, obj: Buffer | None = None) -> FileKey:
        """Return a key under which nothing is stored yet; `obj` is not looked at."""
        return self._make_key()

    def new_series(self) -> FileKeySeries:
        """Return keys by number under which nothing is stored yet."""
        return FileKeySeries.of(self.session)

    def put(self, obj: Buffer) -> FileKey:
        """Store an object and return its key.

        Raises
        ------
        StoreFullError
            If neither the directory nor the spill directory has room; nothing is left behind.
        """
        return self.put_frames([obj])

    def put_batch(self, objs: Sequence[Buffer]) -> list[FileKey]:
        """Store several objects; when one fails, none of them stays."""
        keys: list[FileKey] = []
        try:
            for obj in objs:
                keys.append(self.put(obj))
        except BaseException:
            for key in keys:
                self.evict(key)
            raise
        return keys

    def set(self, key: FileKey, obj: Buffer) -> None:
        """Store an object under a key made by `new_key`, replacing one that is there."""
        self.set_frames(key, [obj])

    def put_frames(self, frames: Sequence[Buffer]) -> FileKey:
        """Store the pieces as one object, without joining large ones, and return its key."""
        return self.put_source(Pieces(frames))

    def put_source(self, source: Source) -> FileKey:
        """Store what writes itself into memory and return its key."""
        if (packed := self._packs.put(source)) is not None:
            return packed
        key = self.new_key()
        self._store(key, source, keep=True)
        return key

    def set_frames(self, key: FileKey, frames: Sequence[Buffer]) -> None:
        """Store the pieces as one object under a key, without joining them."""
        self.set_source(key, Pieces(frames))

    def set_source(self, key: FileKey, source: Source) -> None:
        """Store what writes itself into memory under a key."""
        # Most likely a result, which another process gets and evicts: it has the pages then.
        self._store(key, source, keep=False)

    def _store(self, key: FileKey, source: Source, *, keep: bool) -> None:
        directories, name = self._locate(key)
        for position, directory in enumerate(directories):
            try:
                self._write(directory, name, source, keep)
            except OSError as error:
                if error.errno not in _FULL:
                    raise self._unreachable(error, key) from error
                full = error
            else:
                if not keep:
                    # What it replaces has been found first so far, if it is in one of these.
                    self._remove(key, name, directories[:position])
                    self._packs.remove(key, self._locate)
                return
        raise StoreFullError(
            f"no room for {source.nbytes:,} bytes",
            store=self.store_dir,
            key=key,
            remedy="evict what is not needed, give the store a spill directory "
            "(file:///...?spill=/second/directory), or choose a larger one",
        ) from full

    def _write(self, directory: Descriptor, name: str, source: Source, keep: bool) -> None:
        recycler = self._recycler_of(directory)
        if recycler is None:
            fileio.write_new(directory.fd, name, source.frames, durable=self.durable)
        else:
            recycler.write(name, source, keep=keep)

    # -- reading -------------------------------------------------------------------------------

    def get(self, key: FileKey) -> bytes | None:
        """Return the object, or None if nothing is stored under the key."""
        if (packed := self._packs.read(key, self._locate)) is not None:
            return packed
        while (found := self._open(key)) is not None:
            with found:
                data = found.read()
            if data is not None:
                return data
        return None

    def get_batch(self, keys: Sequence[FileKey]) -> list[bytes | None]:
        """Return several objects in the order of their keys, None for each missing one."""
        return [self.get(key) for key in keys]

    def get_view(self, key: FileKey) -> memoryview | None:
        """Return the object as private, writable memory: a copy-on-write mapping of the file.

        Small objects, and all of them while half of the descriptors this process may have open
        are mappings, are copied instead.
        """
        if (packed := self._packs.read(key, self._locate)) is not None:
            return memoryview(bytearray(packed))
        while (found := self._open(key)) is not None:
            with found:
                view = found.view()
            if view is not None:
                return view
        return None

    def exists(self, key: FileKey) -> bool:
        """Return whether an object is stored under the key."""
        if self._packs.holds(key, self._locate):
            return True
        directories, name = self._locate(key, missing_ok=True)
        try:
            status = _status(name, directories)
        except OSError as error:
            raise self._unreachable(error, key) from error
        return status is not None and stat.S_ISREG(status.st_mode)

    def wait(self, key: FileKey, timeout: float | None = None) -> bool:
        """Return True once the object exists, False when `timeout` seconds are over.

        Raises
        ------
        StoreClosedError
            If the session ends while waiting: the object cannot come any more.
        """
        session, _ = split_key(key, self.store_dir)
        # What does not fit into the first appears in the next.
        paths = tuple(os.path.join(each.root, session) for each in self._directories)
        self._locate(key)

        def check_possible() -> None:
            self._check_open()
            if not os.path.isdir(paths[0]):
                raise ended(self.store_dir, key)

        return wait_in(paths, lambda: self.exists(key), check_possible, timeout)

    def _open(self, key: FileKey) -> ObjectFile | None:
        """Open the object's file, wherever it stands; None if it is missing."""
        directories, name = self._locate(key, missing_ok=True)
        for directory in directories:
            try:
                fd = os.open(name, _READ, dir_fd=directory.fd)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._unreachable(error, key) from error
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                os.close(fd)
                raise not_an_object(self.store_dir, key)
            # What has been spilled never is, and may lie where a lease takes its time.
            recycled = self._recycled and directory is directories[0]
            return ObjectFile(fd, status, name, directory, recycled=recycled)
        return None

    # -- removing ------------------------------------------------------------------------------

    def evict(self, key: FileKey) -> None:
        """Remove the object; removing a missing one is no error.

        What has been read of it stays valid: a mapping outlives the name of its file.
        """
        if self._packs.remove(key, self._locate):
            return
        # Wherever it is: who replaces one may be killed before the old one is gone.
        directories, name = self._locate(key, missing_ok=True)
        self._remove(key, name, directories)

    def _remove(self, key: FileKey, name: str, directories: Sequence[Descriptor]) -> None:
        # The other way round one that was replaced might come to light.
        for directory in reversed(directories):
            try:
                recycler = self._recycler_of(directory)
                if recycler is None:
                    os.unlink(name, dir_fd=directory.fd)
                else:
                    recycler.remove(name)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._unreachable(error, key) from error

    def scan(self) -> Iterator[StoredObject]:
        """Yield every object of the session, in no order."""
        yield from self._packs.scan(self._directories[0].opened())
        directories = [directory.opened() for directory in self._directories]
        # An object may move to the other directory in the midst of this.
        seen: set[str] = set()
        for position, directory in enumerate(directories):
            for name in fileio.names(directory.fd):
                if not STORED_NAME.fullmatch(name) or name in seen:
                    continue
                status = _status(name, directories[: position + 1])
                if status is not None and stat.S_ISREG(status.st_mode):
                    if len(directories) > 1:
                        seen.add(name)
                    key = FileKey(f"{self.session}.{name}")
                    yield StoredObject(key, status.st_size, status.st_mtime)

    def sweep(self) -> list[str]:
        """Remove the sessions in this directory whose owner is dead and return their names."""
        roots = [directory.root for directory in self._directories]
        return sorted({name for root in roots for name in sweep(root)})

    def close(self, clear: bool | None = None) -> None:
        """End the session if this connector owns it, else just let go of it.

        Parameters
        ----------
        clear
            Whether the owner removes the objects; overrides what the connector was made with.
        """
        clear = self.clear if clear is None else clear
        self._packs.close()
        if self._recycler is not None:
            self._recycler.close()
        others = self._others.take_all()
        for directory in [*self._directories, *(d for opened in others for d in opened)]:
            directory.close(remove=clear)

    def __enter__(self) -> FileConnector:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- keys ----------------------------------------------------------------------------------

    def _locate(self, key: FileKey, *, missing_ok: bool = False) -> tuple[list[Descriptor], str]:
        """Return the directories that may hold the object, and its name in them."""
        self._check_open()
        session, name = split_key(key, self.store_dir)
        directories = self._directories
        if session != self._name:
            try:
                directories = self._others.get(session)
            except StoreClosedError:
                if missing_ok:
                    return [], name
                raise
        return [directory.opened() for directory in directories], name

    def _check_open(self) -> None:
        if self._closed:
            raise closed(self.store_dir)

    def _unreachable(self, error: OSError, key: FileKey) -> StoreError:
        if self._closed:
            # By another thread, in the midst of this call.
            return closed(self.store_dir, key)
        if not os.path.isdir(os.path.join(self.store_dir, split_key(key, self.store_dir)[0])):
            return ended(self.store_dir, key)
        return failure(error, self.store_dir, key)


def _status(name: str, directories: Sequence[Descriptor]) -> os.stat_result | None:
    """Return what there is of a name in the first directory that has it."""
    for directory in directories:
        with contextlib.suppress(FileNotFoundError):
            return os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
    return None
