"""Objects as files of a filespace: shared between hosts through a directory or a bucket."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, NamedTuple, TypeVar, cast

from proxyflow.connectors.filekey import OBJECT_NAME, KeyMaker
from proxyflow.connectors.filespacefolder import (
    Link,
    Place,
    SessionFolder,
    is_directory,
    sweep,
    translated,
)
from proxyflow.connectors.protocol import Buffer, StoredObject
from proxyflow.connectors.session import SESSION_NAME
from proxyflow.connectors.url import StoreURL
from proxyflow.errors import (
    ConfigError,
    CorruptObjectError,
    InvalidKeyError,
    StoreClosedError,
)
from proxyflow.periodic import poll
from proxyflow.storage import filespace as fsp
from proxyflow.storage.watch import DirectoryWatch

__all__ = ["FilespaceConnector", "FilespaceKey", "LocalFilespaceConnector"]

T = TypeVar("T")

# A name made before its object is told by its end: its key knows neither length nor digest.
_AHEAD = "w"
_NAME = re.compile(rf"{OBJECT_NAME.pattern}{_AHEAD}?")
_KEY = re.compile(rf"({SESSION_NAME.pattern})\.({_NAME.pattern})")
_MAP_FROM = 64 * 1024
_SYNC = ("put", "batch", "close")
# How long a content that a shared file system does not show whole yet is asked for (seconds).
_PATIENCE = 10.0


class FilespaceKey(NamedTuple):
    """Key of an object in a :class:`FilespaceConnector`.

    Parameters
    ----------
    filename
        Session and object name, separated by a dot.
    nbytes
        Length of the object; -1 if the key was made before it.
    digest
        Its XXH3-128; empty if the key was made before it.
    """

    filename: str
    nbytes: int
    digest: str


class FilespaceConnector:
    """Objects as files of a filespace.

    Parameters
    ----------
    hub
        Where the workspace is kept: a directory, or ``s3://bucket/prefix``.
    workspace, filespace
        Their names; made if missing.
    folder
        The folder of the filespace that the sessions lie in.
    sync
        When what is put becomes visible to others: ``"put"``, before `put` returns; ``"batch"``,
        before `put_batch` returns, single objects with the next one; ``"close"``, when the
        connector is closed or :meth:`sync` is called.
    clear
        Whether closing removes the objects of this session.
    session
        The session to join; by default a new one, which this connector then owns.
    endpoint
        Where the object storage of the hub is, if not where its tools find it by themselves.

    Raises
    ------
    StoreUnreachableError
        If the hub does not answer.
    StoreClosedError
        If the session to join has ended.

    Examples
    --------
    >>> with FilespaceConnector("memory://docs-connector", "lab", "data") as connector:
    ...     key = connector.put(b"some bytes")
    ...     connector.get(key), key.nbytes
    (b'some bytes', 10)
    """

    key_type = FilespaceKey

    def __init__(
        self,
        hub: str,
        workspace: str,
        filespace: str,
        folder: str = "/proxyflow",
        *,
        sync: str = "put",
        clear: bool = True,
        session: str | None = None,
        endpoint: str = "",
    ) -> None:
        if sync not in _SYNC:
            raise ConfigError(f"sync={sync!r} is unknown", remedy=f"use one of {', '.join(_SYNC)}")
        self._place = Place(hub, workspace, filespace, folder, endpoint)
        if endpoint and not hub.startswith("s3"):
            raise ConfigError(f"hub {hub} has no endpoint", remedy="give one to a hub at s3://")
        self._sync_mode, self._clear = sync, clear
        if session is None:
            self._session = SessionFolder.create(self._place, keep=not clear)
        else:
            self._session = SessionFolder.join(self._place, session)
        self._make_key = KeyMaker(self.session)
        self._unwanted: set[str] = set()

    @classmethod
    def from_url(cls, url: StoreURL) -> FilespaceConnector:
        """Return the connector of ``filespace://WORKSPACE/FILESPACE/folder?hub=...#session``."""
        url.check_options(frozenset({"hub", "sync", "clear", "endpoint"}))
        sync, clear = url.options.get("sync", "put"), url.flag("clear", True)
        config = {"sync": sync, "clear": clear, "session": url.session}
        return cls.from_config({**Place.of(url)._asdict(), **config})

    @staticmethod
    def hold_url(url: StoreURL) -> SessionFolder:
        """Keep the session that `url` names alive, beyond its owner if need be."""
        if not url.session:
            raise ConfigError(f"{url} names no session")
        return SessionFolder.hold(Place.of(url), url.session)

    @staticmethod
    def sweep_url(url: StoreURL) -> list[str]:
        """Remove what dead owners left where `url` names; opens no session."""
        place = Place.of(url)
        link = Link(place, create=False)
        try:
            with translated(url):
                return sweep(link.get(), place)
        except StoreClosedError:
            # There is no such filespace, and so nothing in it.
            return []
        finally:
            link.close()

    def __repr__(self) -> str:
        state = "closed" if self._session.closed else "owner" if self.owner else "joined"
        return f"<FilespaceConnector {self._place.url} session {self.session} ({state})>"

    @property
    def session(self) -> str:
        """Name of the session, which is the name of its folder."""
        return self._session.name

    @property
    def owner(self) -> bool:
        """Whether closing this connector ends the session."""
        return self._session.owner

    @property
    def url(self) -> str:
        """URL that opens the same session."""
        url = self._place.url
        options = dict(url.options)
        if self._sync_mode != "put":
            options["sync"] = self._sync_mode
        return str(url.replace(options=options, session=self.session))

    def config(self) -> dict[str, Any]:
        """Return what `from_config` needs to join this session."""
        return {
            **self._place._asdict(),
            "sync": self._sync_mode,
            "clear": self._clear,
            "session": self.session,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FilespaceConnector:
        """Return a connector for a configuration, joining its session."""
        kind = LocalFilespaceConnector if is_directory(config["hub"]) else FilespaceConnector
        return kind(**config)

    # -- writing -------------------------------------------------------------------------------

    def new_key(self, obj: Buffer | None = None) -> FilespaceKey:
        """Return a key under which nothing is stored yet; `obj` is not looked at."""
        return FilespaceKey(self._make_key().filename + _AHEAD, -1, "")

    def may_change(self, key: FilespaceKey) -> bool:
        """Return whether the object of a key may be replaced: it was made before the object."""
        return key.filename.endswith(_AHEAD)

    def put(self, obj: Buffer) -> FilespaceKey:
        """Store an object and return its key."""
        return self.put_frames([obj])

    def put_batch(self, objs: Sequence[Buffer]) -> list[FilespaceKey]:
        """Store several objects with one sync; when one fails, none of them stays."""
        return self.put_frames_batch([[obj] for obj in objs])

    def put_frames_batch(self, objs: Sequence[Sequence[Buffer]]) -> list[FilespaceKey]:
        """Store several objects, each given in pieces, as `put_batch` does."""
        keys: list[FilespaceKey] = []
        try:
            for frames in objs:
                keys.append(self._stored(self._make_key().filename, frames))
            if keys and self._sync_mode != "close":
                self.sync()
        except BaseException:
            self._give_up([key.filename for key in keys])
            raise
        return keys

    def set(self, key: FilespaceKey, obj: Buffer) -> None:
        """Store an object under a key made by `new_key`, replacing one that is there."""
        self.set_frames(key, [obj])

    def put_frames(self, frames: Sequence[Buffer]) -> FilespaceKey:
        """Store the pieces as one object, without joining them, and return its key."""
        filename = self._make_key().filename
        key = self._stored(filename, frames)
        self._publish(filename)
        return key

    def set_frames(self, key: FilespaceKey, frames: Sequence[Buffer]) -> None:
        """Store the pieces as one object under a key made by `new_key`."""
        self._path(key)
        if key.nbytes != -1:
            raise InvalidKeyError(
                "the object of this key is stored",
                store=self._place.url,
                key=key,
                remedy="put the other one, which gives it a key of its own",
            )
        self._stored(key.filename, frames)
        self._publish(key.filename)

    def sync(self) -> None:
        """Make everything put so far visible to others, durably."""
        with translated(self._place.url):
            self._take_back()
            self._filespace().sync_all()

    def _stored(self, filename: str, frames: Sequence[Buffer]) -> FilespaceKey:
        path = self._file(filename)
        with translated(self._place.url, filename):
            fs = self._filespace().fs
            try:
                fs.write_buffers(path, frames, replaces=True)
            except FileNotFoundError:
                raise self._session.ended(filename) from None
            if filename.endswith(_AHEAD):
                # Not looked at: it may have been evicted by now.
                return FilespaceKey(filename, -1, "")
            content = fs.content(path)
        return FilespaceKey(filename, content.size, content.digest)

    def _publish(self, filename: str) -> None:
        if self._sync_mode != "put":
            return
        try:
            self.sync()
        except BaseException:
            self._give_up([filename])
            raise

    def _give_up(self, filenames: list[str]) -> None:
        """Take back what could not be published, now or before the next sync."""
        self._unwanted.update(filenames)
        # Why it could not be is what the caller has to know, not what came of it.
        with contextlib.suppress(fsp.FilespaceError, OSError, StoreClosedError):
            self._take_back()

    def _take_back(self) -> None:
        for filename in list(self._unwanted):
            with contextlib.suppress(FileNotFoundError):
                self._filespace().fs.delete(self._file(filename))
            self._unwanted.discard(filename)

    # -- reading -------------------------------------------------------------------------------

    def get(self, key: FilespaceKey) -> bytes | None:
        """Return the object, verified, or None if nothing is stored under the key.

        Raises
        ------
        CorruptObjectError
            If the content is short or damaged, and stays so.
        """
        return self._read(key, lambda fs, path, size: fs.read_file(path))

    def get_batch(self, keys: Sequence[FilespaceKey]) -> list[bytes | None]:
        """Return several objects in the order of their keys, None for each missing one."""
        return [self.get(key) for key in keys]

    def exists(self, key: FilespaceKey) -> bool:
        """Return whether an object is stored under the key."""
        return self._read(key, lambda fs, path, size: True) is not None

    def wait(self, key: FilespaceKey, timeout: float | None = None) -> bool:
        """Return True once the object exists, False when `timeout` seconds are over.

        Raises
        ------
        StoreClosedError
            If the session ends while waiting.
        """

        def there() -> bool:
            if self.exists(key):
                return True
            with translated(self._place.url, key):
                session = key.filename.partition(".")[0]
                if not self._filespace().fs.dir_exists(self._place.session(session)):
                    raise self._session.ended(key, session)
            return False

        if there():
            return True
        directory = self._filespace().watched
        if directory is None:
            return poll(there, timeout)
        # Asked now and then all the same: the hub's directory may be shared with other hosts.
        with DirectoryWatch(directory) as watch:
            return poll(there, timeout, watch.wait)

    def _read(self, key: FilespaceKey, read: Callable[[fsp.Filesystem, str, int], T]) -> T | None:
        path = self._path(key)
        deadline, pause = time.monotonic() + _PATIENCE, 0.005
        while True:
            try:
                with translated(self._place.url, key):
                    fs = self._filespace().fs
                    entry = fs.get_entry(path)
                    if key.nbytes != -1 and (entry.size, entry.digest) != key[1:]:
                        raise InvalidKeyError(
                            "the key is of another object", store=self._place.url, key=key
                        )
                    return read(fs, path, entry.size)
            except CorruptObjectError:
                # A shared file system may show the names before all of the contents.
                if time.monotonic() > deadline:
                    raise
            except FileNotFoundError:
                return None
            time.sleep(pause)
            pause = min(2 * pause, 0.2)

    def open_file(self, path: str) -> IO[bytes]:
        """Open a file of the filespace for reading, one of a linked data store included.

        Raises
        ------
        FsNotFoundError
            A FileNotFoundError: there is no such file.
        """
        with translated(self._place.url):
            return cast("IO[bytes]", self._filespace().fs.open(path, "rb"))

    # -- removing ------------------------------------------------------------------------------

    def evict(self, key: FilespaceKey) -> None:
        """Remove the object; removing a missing one is no error."""
        if not self.exists(key):
            return
        with translated(self._place.url, key):
            try:
                self._filespace().fs.delete(self._path(key))
            except FileNotFoundError:
                # Another process was faster.
                return
        if self._sync_mode == "put":
            self.sync()

    def scan(self) -> Iterator[StoredObject]:
        """Yield every object of the session, in no order."""
        with translated(self._place.url):
            try:
                entries = self._filespace().fs.read_dir(self._session.path)
            except FileNotFoundError:
                raise self._session.ended() from None
        for entry in entries:
            if _NAME.fullmatch(entry.name):
                facts = (-1, "") if entry.name.endswith(_AHEAD) else (entry.size, entry.digest)
                key = FilespaceKey(f"{self.session}.{entry.name}", *facts)
                yield StoredObject(key, entry.size, entry.mtime)

    def sweep(self) -> list[str]:
        """Remove the sessions whose owner is dead and return their names."""
        with translated(self._place.url):
            return sweep(self._filespace(), self._place)

    def close(self, clear: bool | None = None) -> None:
        """End the session if this connector owns it, else just let go of it."""
        clear = self._clear if clear is None else clear
        if not self._session.closed and not (self.owner and clear):
            self.sync()
        self._session.close(keep=not clear)

    def __enter__(self) -> FilespaceConnector:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _filespace(self) -> fsp.Filespace:
        if self._session.closed:
            raise StoreClosedError("the store has been closed", store=self._place.url)
        return self._session.link.get()

    def _path(self, key: Any) -> str:
        """Return the file of a key, which is not to be trusted."""
        if self._session.closed:
            raise StoreClosedError("the store has been closed", store=self._place.url)
        match key:
            case FilespaceKey(str(filename), int(nbytes), str(digest)) if _KEY.fullmatch(filename):
                ahead = filename.endswith(_AHEAD)
                if (nbytes, digest) == (-1, "") if ahead else nbytes >= 0:
                    return self._file(filename)
        raise InvalidKeyError("not a key of this store", store=self._place.url, key=key)

    def _file(self, filename: str) -> str:
        session, _, name = filename.partition(".")
        return f"{self._place.session(session)}/{name}"


class LocalFilespaceConnector(FilespaceConnector):
    """Objects as files of a filespace whose hub is a directory: they are mapped, not copied."""

    def get_view(self, key: FilespaceKey) -> memoryview | None:
        """Return the object as private, writable memory; mapped unless it is small."""

        def view(fs: fsp.Filesystem, path: str, size: int) -> memoryview:
            if size < _MAP_FROM:
                return memoryview(bytearray(fs.read_file(path)))
            return fs.view(path, writable=True)

        return self._read(key, view)
