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
import re
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from proxyflow.connectors.protocol import Buffer, StoredObject
from proxyflow.connectors.session import (
    SESSION_NAME,
    SessionDirectory,
    SessionHold,
    new_name,
    sweep,
)
from proxyflow.connectors.url import StoreURL
from proxyflow.errors import (
    ConfigError,
    InvalidKeyError,
    StoreClosedError,
    StoreFullError,
    StoreUnreachableError,
)
from proxyflow.storage import fileio
from proxyflow.storage.watch import DirectoryWatch

__all__ = ["FileConnector", "FileKey"]

# Session and object name. Neither can hold a separator, a leading dot or a NUL, so no key that
# matches can name anything but an object.
_KEY = re.compile(rf"({SESSION_NAME.pattern})\.([a-z2-7]{{14}})")

# Below this size reading into fresh memory is faster than setting up and tearing down a mapping.
_MAP_FROM = 64 * 1024
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class FileKey(NamedTuple):
    """Key of an object in a :class:`FileConnector`.

    Parameters
    ----------
    filename
        Session and object name, separated by a dot.
    """

    filename: str


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

    Raises
    ------
    StoreUnreachableError
        If a directory cannot be made or opened.
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

    def __init__(
        self,
        store_dir: str,
        clear: bool = True,
        *,
        session: str | None = None,
        durable: bool = False,
        spill: str | None = None,
    ) -> None:
        self.store_dir = os.path.abspath(os.fspath(store_dir))
        self.clear = clear
        self.durable = durable
        self.spill = None if spill is None else os.path.abspath(os.fspath(spill))
        roots = [self.store_dir] if self.spill is None else [self.store_dir, self.spill]
        self._directories = self._open_directories(roots, session)
        self._name = self._directories[0].name
        self._others: dict[str, list[SessionDirectory]] = {}
        self._lock = threading.Lock()

    def _open_directories(self, roots: list[str], session: str | None) -> list[SessionDirectory]:
        if session is not None:
            return [SessionDirectory.join(root, session) for root in roots]
        opened: list[SessionDirectory] = []
        try:
            for root in roots:
                sweep(root)
                name = opened[0].name if opened else None
                opened.append(SessionDirectory.create(root, name=name, keep=not self.clear))
        except BaseException:
            for directory in opened:
                directory.close()
            raise
        return opened

    @classmethod
    def from_url(cls, url: StoreURL) -> FileConnector:
        """Return the connector that ``file:///directory?durable=1&spill=/second#session`` names."""
        url.check_options(frozenset({"durable", "spill", "clear"}))
        if url.authority not in ("", "localhost") or not url.path:
            raise ConfigError(
                f"{url} does not name a directory of this host",
                remedy="write three slashes: file:///directory",
            )
        return cls(
            url.path,
            url.flag("clear", True),
            session=url.session,
            durable=url.flag("durable"),
            spill=url.options.get("spill"),
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

    @staticmethod
    def sweep_url(url: StoreURL) -> list[str]:
        """Remove what dead owners left in the directories `url` names; opens no session."""
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
        return str(StoreURL("file", "", self.store_dir, options, self.session))

    def config(self) -> dict[str, Any]:
        """Return what `from_config` needs to join this session."""
        return {
            "store_dir": self.store_dir,
            "clear": self.clear,
            "session": self.session,
            "durable": self.durable,
            "spill": self.spill,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FileConnector:
        """Return a connector for a configuration, joining its session."""
        return cls(**config)

    @property
    def _closed(self) -> bool:
        return self._directories[0].fd < 0

    # -- writing -------------------------------------------------------------------------------

    def new_key(self, obj: Buffer | None = None) -> FileKey:
        """Return a key under which nothing is stored yet; `obj` is not looked at."""
        return FileKey(f"{self.session}.{new_name(14)}")

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
        """Store the pieces as one object, without joining them, and return its key."""
        key = self.new_key()
        self.set_frames(key, frames)
        return key

    def set_frames(self, key: FileKey, frames: Sequence[Buffer]) -> None:
        """Store the pieces as one object under a key, without joining them."""
        directories, name = self._locate(key)
        for directory in directories:
            try:
                self._write(directory, name, frames)
            except OSError as error:
                if error.errno not in _FULL:
                    raise self._unreachable(error, key) from error
                full = error
            else:
                return
        raise StoreFullError(
            f"no room for {sum(memoryview(f).nbytes for f in frames):,} bytes",
            store=self.store_dir,
            key=key,
            remedy="evict what is not needed, give the store a spill directory "
            "(file:///...?spill=/second/directory), or choose a larger one",
        ) from full

    def _write(self, directory: SessionDirectory, name: str, frames: Sequence[Buffer]) -> None:
        # The file has no name until it is complete: a writer that is killed or runs out of room
        # leaves nothing, and a reader can never meet half an object.
        fd = fileio.open_unnamed(directory.fd)
        try:
            fileio.write_frames(fd, frames)
            if self.durable:
                os.fsync(fd)
            fileio.publish(fd, directory.fd, name)
        except BaseException:
            fileio.discard(fd, directory.fd)
            raise
        finally:
            os.close(fd)
        if self.durable:
            os.fsync(directory.fd)

    # -- reading -------------------------------------------------------------------------------

    def get(self, key: FileKey) -> bytes | None:
        """Return the object, or None if nothing is stored under the key."""
        with self._opened(key) as fd:
            return None if fd is None else fileio.read(fd)

    def get_batch(self, keys: Sequence[FileKey]) -> list[bytes | None]:
        """Return several objects in the order of their keys, None for each missing one."""
        return [self.get(key) for key in keys]

    def get_view(self, key: FileKey) -> memoryview | None:
        """Return the object as private, writable memory: a copy-on-write mapping of the file.

        Small objects, and all of them while half of the descriptors this process may have open
        are mappings, are copied instead.
        """
        with self._opened(key) as fd:
            if fd is None:
                return None
            size = os.fstat(fd).st_size
            if size >= _MAP_FROM:
                view = fileio.mappings.map(fd, size)
                if view is not None:
                    return view
            data = bytearray(size)
            fileio.read_into(fd, memoryview(data))
            return memoryview(data)

    def exists(self, key: FileKey) -> bool:
        """Return whether an object is stored under the key."""
        directories, name = self._locate(key, missing_ok=True)
        for directory in directories:
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
                return stat.S_ISREG(status.st_mode)
        return False

    def wait(self, key: FileKey, timeout: float | None = None) -> bool:
        """Return True once the object exists, False when `timeout` seconds are over.

        Raises
        ------
        StoreClosedError
            If the session ends while waiting: the object cannot come any more.
        """
        directories, _ = self._locate(key)
        deadline = None if timeout is None else time.monotonic() + timeout
        with DirectoryWatch(directories[0].path) as watch:
            while not self.exists(key):
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    return False
                self._check_alive(key)
                watch.wait(remaining)
        return True

    @contextlib.contextmanager
    def _opened(self, key: FileKey) -> Iterator[int | None]:
        """Open the object's file, wherever it stands; None if it is missing."""
        directories, name = self._locate(key, missing_ok=True)
        fd = None
        for directory in directories:
            try:
                fd = os.open(name, _READ, dir_fd=directory.fd)
                break
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._unreachable(error, key) from error
        try:
            if fd is not None and not stat.S_ISREG(os.fstat(fd).st_mode):
                raise InvalidKeyError("not an object but something else", store=self, key=key)
            yield fd
        finally:
            if fd is not None:
                os.close(fd)

    # -- removing ------------------------------------------------------------------------------

    def evict(self, key: FileKey) -> None:
        """Remove the object; removing a missing one is no error.

        What has been read of it stays valid: a mapping outlives the name of its file.
        """
        directories, name = self._locate(key, missing_ok=True)
        for directory in directories:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory.fd)

    def scan(self) -> Iterator[StoredObject]:
        """Yield every object of the session, in no order."""
        self._check_open()
        for directory in self._directories:
            for name in os.listdir(directory.fd):
                if _KEY.fullmatch(f"{self.session}.{name}"):
                    with contextlib.suppress(FileNotFoundError):
                        status = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
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
        with self._lock:
            others, self._others = list(self._others.values()), {}
        for directory in [*self._directories, *(d for opened in others for d in opened)]:
            directory.close(remove=clear)

    def __enter__(self) -> FileConnector:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- keys ----------------------------------------------------------------------------------

    def _locate(
        self, key: FileKey, *, missing_ok: bool = False
    ) -> tuple[list[SessionDirectory], str]:
        """Return the directories that may hold the object, and its name in them.

        Keys come out of pickles and are not to be trusted: one that does not have the exact form
        of a key is refused before it gets near the file system.
        """
        self._check_open()
        filename = key[0] if isinstance(key, tuple) and len(key) == 1 else None
        match = _KEY.fullmatch(filename) if isinstance(filename, str) else None
        if match is None:
            raise InvalidKeyError("not a key of this store", store=self.store_dir, key=key)
        session, name = match.groups()
        if session == self._name:
            return self._directories, name
        try:
            return self._join(session), name
        except StoreClosedError:
            if missing_ok:
                return [], name
            raise

    def _join(self, session: str) -> list[SessionDirectory]:
        """Return the directories of another session of the same store."""
        with self._lock:
            opened = self._others.get(session)
            if opened is None:
                if len(self._others) >= 16:
                    for directory in self._others.pop(next(iter(self._others))):
                        directory.close()
                roots = [directory.root for directory in self._directories]
                opened = [SessionDirectory.join(root, session) for root in roots]
                self._others[session] = opened
            return opened

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError("the store has been closed", store=self.store_dir)

    def _check_alive(self, key: FileKey) -> None:
        self._check_open()
        if not os.path.isdir(self._locate(key)[0][0].path):
            raise StoreClosedError(
                f"session {self.session} has ended", store=self.store_dir, key=key
            )

    def _unreachable(self, error: OSError, key: FileKey) -> Exception:
        if error.errno == errno.ENOENT:
            return StoreClosedError(
                f"session {self.session} has ended: its directory is gone",
                store=self.store_dir,
                key=key,
                remedy="keep the store that started the run open until its tasks are done",
            )
        if error.errno == errno.ELOOP:
            return InvalidKeyError("not an object but a link", store=self.store_dir, key=key)
        return StoreUnreachableError(
            f"the store's directory does not answer: {error.strerror}",
            store=self.store_dir,
            key=key,
        )
