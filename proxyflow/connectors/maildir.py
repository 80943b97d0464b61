"""Objects as messages of a maildir: a store that is a queue as well.

Each session is a `FileStore <proxyflow.storage.maildir.FileStore>`, and each object a message that
waits in it: :attr:`MaildirConnector.queue`. An object is read wherever it stands, also while
somebody has claimed it. Streams lie beside it::

    ROOT/
      k3v5qa2mbx/           one session, see session.py
        tmp/ new/ cur/      its objects
        streams/NAME/       its topics, see storage/maildir/topic.py
        streamed/           the objects of its topics, see maildirtopic.py
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from proxyflow.connectors.filekey import closed, ended
from proxyflow.connectors.maildirkey import (
    OBJECT_NAME,
    STREAMED,
    MaildirKey,
    MaildirKeySeries,
    new_key,
    reported,
    split,
)
from proxyflow.connectors.maildirtopic import MaildirTopic, streamed_objects
from proxyflow.connectors.others import OtherSessions
from proxyflow.connectors.protocol import Buffer, StoredObject
from proxyflow.connectors.root import as_directory, check_local
from proxyflow.connectors.session import (
    SESSION_NAME,
    SessionDirectory,
    SessionHold,
    open_directory,
)
from proxyflow.connectors.sweep import sweep
from proxyflow.connectors.url import StoreURL
from proxyflow.connectors.waiting import wait_in
from proxyflow.errors import (
    ConfigError,
    InvalidKeyError,
    StoreClosedError,
    StoreUnreachableError,
)
from proxyflow.storage.fileio import Descriptor
from proxyflow.storage.maildir import FileStore, MaildirError

__all__ = ["MaildirConnector", "MaildirKey"]

T = TypeVar("T")

_OPTIONS = frozenset({"durable", "clear"})


class _Session:
    """A session's directory, the queue in it, and what its streams carry."""

    def __init__(self, directory: SessionDirectory, durable: bool) -> None:
        self.directory = directory
        self.path = os.path.join(directory.root, directory.name)
        self.queue = FileStore(self.path, durable=durable, directory=directory.opened())
        self._streamed: FileStore | None = None

    @property
    def streamed(self) -> FileStore | None:
        """What streams carry; None if there have been none."""
        if self._streamed is None:
            self._streamed = streamed_objects(self.directory.opened(), self.path)
        return self._streamed

    def place_of(self, name: str) -> FileStore | None:
        """Return where an object is if it is there."""
        return self.streamed if name.startswith(STREAMED) else self.queue

    def close(self, *, remove: bool) -> None:
        for place in (self.queue, self._streamed):
            if place is not None:
                place.close()
        self.directory.close(remove=remove)


def _sweep(root: str) -> list[str]:
    """Remove what dead owners left, and of the living what their dead workers were writing."""
    swept = sweep(root)
    for name in os.listdir(root) if os.path.isdir(root) else []:
        if SESSION_NAME.fullmatch(name):
            # Another user's, about to come or go, or somebody else removes the same: for later.
            with contextlib.suppress(OSError, MaildirError):
                _remove_partial(os.path.join(root, name))
    return swept


def _remove_partial(path: str) -> None:
    directory = Descriptor(open_directory(path))
    # Claims are not given back: that is for who uses the queue.
    for place in (FileStore(path, directory=directory), streamed_objects(directory, path)):
        if place is not None:
            place.remove_partial()


class MaildirConnector:
    """Objects as messages of a maildir in a directory.

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

    Raises
    ------
    StoreUnreachableError
        If the directory cannot be made or opened.
    StoreFullError
        If there is no room for the directories of a session.
    ConfigError
        If no directory can have the name.
    StoreClosedError
        If the session to join has ended.

    Examples
    --------
    >>> import tempfile
    >>> directory = tempfile.TemporaryDirectory()
    >>> connector = MaildirConnector(directory.name)
    >>> key = connector.put(b"some bytes")
    >>> message = connector.queue.claim()
    >>> connector.get(key) == message.read() == b"some bytes"
    True
    >>> message.ack()
    >>> connector.get(key) is None
    True
    >>> connector.close()
    >>> directory.cleanup()
    """

    key_type = MaildirKey

    def __init__(
        self,
        store_dir: str,
        clear: bool = True,
        *,
        session: str | None = None,
        durable: bool = False,
    ) -> None:
        self.store_dir = as_directory(store_dir)
        self.clear = clear
        self.durable = durable
        self._own = self._start() if session is None else self._join(session)
        self._name = self._own.directory.name
        self._others = OtherSessions(self._join)

    def _start(self) -> _Session:
        # What cannot be removed now must not keep a new run from starting.
        with contextlib.suppress(StoreUnreachableError):
            _sweep(self.store_dir)
        directory = SessionDirectory.create(
            self.store_dir, keep=not self.clear, durable=self.durable
        )
        session = _Session(directory, self.durable)
        try:
            with reported(self.store_dir, directory.name):
                session.queue.prepare()
        except BaseException:
            session.close(remove=True)
            raise
        return session

    def _join(self, name: str) -> _Session:
        return _Session(SessionDirectory.join(self.store_dir, name), self.durable)

    @classmethod
    def from_url(cls, url: StoreURL) -> MaildirConnector:
        """Return the connector that ``maildir:///directory?durable=1#session`` names."""
        check_local(url, _OPTIONS)
        return cls(
            url.path, url.flag("clear", True), session=url.session, durable=url.flag("durable")
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
        return SessionHold([url.path], url.session)

    @staticmethod
    def sweep_url(url: StoreURL) -> list[str]:
        """Remove what dead owners left in the directory `url` names; opens no session."""
        check_local(url, _OPTIONS)
        return _sweep(url.path)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "owner" if self.owner else "joined"
        return f"<MaildirConnector {self.store_dir!r} session {self.session} ({state})>"

    # -- what and where it is ------------------------------------------------------------------

    @property
    def session(self) -> str:
        """Name of the session, which is the name of its directory."""
        return self._name

    @property
    def owner(self) -> bool:
        """Whether closing this connector ends the session."""
        return self._own.directory.owner

    @property
    def url(self) -> str:
        """URL that opens the same session."""
        options = {"durable": "1"} if self.durable else {}
        return str(StoreURL("maildir", "", self.store_dir, options, self.session))

    @property
    def queue(self) -> FileStore:
        """The objects of this session as a queue.

        What is claimed there can be read by its key until it is acknowledged, which evicts it.
        """
        self._check_open()
        return self._own.queue

    def config(self) -> dict[str, Any]:
        """Return what `from_config` needs to join this session."""
        return {
            "store_dir": self.store_dir,
            "clear": self.clear,
            "session": self.session,
            "durable": self.durable,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MaildirConnector:
        """Return a connector for a configuration, joining its session."""
        return cls(**config)

    @property
    def _closed(self) -> bool:
        return self._own.directory.closed

    # -- writing -------------------------------------------------------------------------------

    def new_key(self, obj: Buffer | None = None) -> MaildirKey:
        """Return a key under which nothing is stored yet; `obj` is not looked at."""
        return new_key(self.session)

    def new_series(self) -> MaildirKeySeries:
        """Return keys by number under which nothing is stored yet."""
        return MaildirKeySeries.of(self.session)

    def put(self, obj: Buffer) -> MaildirKey:
        """Store an object and return its key.

        Raises
        ------
        StoreFullError
            If there is no room; nothing is left behind.
        """
        return self.put_frames([obj])

    def put_batch(self, objs: Sequence[Buffer]) -> list[MaildirKey]:
        """Store several objects; when one fails, none of them stays."""
        keys: list[MaildirKey] = []
        try:
            for obj in objs:
                keys.append(self.put(obj))
        except BaseException:
            for key in keys:
                self.evict(key)
            raise
        return keys

    def set(self, key: MaildirKey, obj: Buffer) -> None:
        """Store an object under a key made by `new_key`, replacing one that waits there."""
        self.set_frames(key, [obj])

    def put_frames(self, frames: Sequence[Buffer]) -> MaildirKey:
        """Store the pieces as one object, without joining them, and return its key."""
        key = self.new_key()
        self.set_frames(key, frames)
        return key

    def set_frames(self, key: MaildirKey, frames: Sequence[Buffer]) -> None:
        """Store the pieces as one object under a key, without joining them."""
        session, name = self._locate(key)
        if name.startswith(STREAMED):
            raise InvalidKeyError(
                "only a stream sets this",
                store=self.store_dir,
                key=key,
                remedy="append the object to the stream",
            )
        with self._reported(key):
            session.queue.put(frames, name=name)

    # -- reading -------------------------------------------------------------------------------

    def get(self, key: MaildirKey) -> bytes | None:
        """Return the object, or None if nothing is stored under the key."""
        view = self.get_view(key)
        return None if view is None else bytes(view)

    def get_batch(self, keys: Sequence[MaildirKey]) -> list[bytes | None]:
        """Return several objects in the order of their keys, None for each missing one."""
        return [self.get(key) for key in keys]

    def get_view(self, key: MaildirKey) -> memoryview | None:
        """Return the object as private, writable memory: a copy-on-write mapping of the file.

        Small objects, and all of them while half of the descriptors this process may have open
        are mappings, are copied instead.
        """
        return self._reach(key, FileStore.open_view, None)

    def exists(self, key: MaildirKey) -> bool:
        """Return whether an object is stored under the key."""
        return self._reach(key, FileStore.exists, False)

    def wait(self, key: MaildirKey, timeout: float | None = None) -> bool:
        """Return True once the object exists, False when `timeout` seconds are over.

        Raises
        ------
        StoreClosedError
            If the session ends while waiting: the object cannot come any more.
        """
        session, _ = self._locate(key)

        def check_possible() -> None:
            self._check_open()
            if not os.path.isdir(session.path):
                raise ended(self.store_dir, key)

        # What a stream carries is there before its key is known.
        path = os.path.join(session.path, "new")
        return wait_in((path,), lambda: self.exists(key), check_possible, timeout)

    def scan(self) -> Iterator[StoredObject]:
        """Yield every object of the session, in no order."""
        with reported(self.store_dir, self.session):
            for place in filter(None, (self.queue, self._own.streamed)):
                for stored in place.scan():
                    if OBJECT_NAME.fullmatch(stored.name):
                        key = MaildirKey(f"{self.session}.{stored.name}")
                        yield StoredObject(key, stored.nbytes, stored.modified)

    # -- removing ------------------------------------------------------------------------------

    def evict(self, key: MaildirKey) -> None:
        """Remove the object, claimed or not; removing a missing one is no error.

        What has been read of it stays valid: a mapping outlives the name of its file.
        """
        self._reach(key, FileStore.discard, False)

    def sweep(self) -> list[str]:
        """Remove the sessions in this directory whose owner is dead and return their names."""
        return _sweep(self.store_dir)

    def close(self, clear: bool | None = None) -> None:
        """End the session if this connector owns it, else just let go of it.

        Parameters
        ----------
        clear
            Whether the owner removes the objects; overrides what the connector was made with.
        """
        clear = self.clear if clear is None else clear
        for session in [self._own, *self._others.take_all()]:
            session.close(remove=clear)

    def __enter__(self) -> MaildirConnector:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- streams -------------------------------------------------------------------------------

    def open_topic(self, name: str) -> MaildirTopic:
        """Return a topic of the session, made when there is none of that name.

        Raises
        ------
        StoreFullError
            If there is no room for its directories.
        StoreClosedError
            If the session has ended.
        """
        self._check_open()
        return MaildirTopic(
            self._own.directory.opened(),
            self.store_dir,
            self.session,
            name,
            durable=self.durable,
        )

    # -- keys ----------------------------------------------------------------------------------

    def _locate(self, key: MaildirKey) -> tuple[_Session, str]:
        """Return the session that may hold the object, and its name there."""
        self._check_open()
        session, name = split(key, self.store_dir)
        return (self._own if session == self._name else self._others.get(session)), name

    def _check_open(self) -> None:
        if self._closed:
            raise closed(self.store_dir)

    def _reported(self, key: MaildirKey) -> contextlib.AbstractContextManager[None]:
        return reported(self.store_dir, split(key, self.store_dir)[0], key)

    def _reach(self, key: MaildirKey, action: Callable[[FileStore, str], T], missing: T) -> T:
        """Do something with an object; what has ended with its session is missing."""
        try:
            session, name = self._locate(key)
            with self._reported(key):
                place = session.place_of(name)
                return missing if place is None else action(place, name)
        except StoreClosedError:
            self._check_open()
            return missing
