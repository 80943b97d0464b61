"""Opening external files: which object of which data store, verified against its entry."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from .client import Client
from .datastores import Keyring, S3Credentials, credentials_of
from .entry import Entry, Kind
from .errors import DataStoreNotFoundError, HubCorruptError
from .streams import Binary
from .tree import STORES

__all__ = ["ObjectFacts", "Source", "Sources"]


class ObjectFacts(NamedTuple):
    """An object of a data store: its size and what changes when its content does."""

    object_id: str
    size: int
    checksum: str


class Source(Protocol):
    """Reads objects of one data store; errors name the path of the external file."""

    def facts(self, object_id: str, path: str) -> ObjectFacts:
        """Return size and checksum of an object."""

    def objects(self, prefix: str) -> Iterator[ObjectFacts]:
        """Yield the objects whose identifiers start with `prefix`."""

    def open(self, facts: ObjectFacts, path: str, on_close: Callable[[], None] | None) -> Binary:
        """Return a reader of the object, which must be the one of these facts."""


class Sources:
    """The data stores of one link, each connected when it is first read.

    Parameters
    ----------
    client
        The link.
    keyring
        The credentials given to this process.
    """

    def __init__(self, client: Client, keyring: Keyring) -> None:
        self._client, self.keyring = client, keyring
        self._open: dict[tuple[str, S3Credentials | None], Source] = {}
        self._lock = threading.Lock()

    def entry(self, name: str) -> Entry:
        """Return the entry of a data store; raises `DataStoreNotFoundError`."""
        with self._client.lock:
            entry = self._client.tree().lookup((*STORES, name))
        if entry is None or entry.kind is not Kind.STORE:
            label = self._client.hub.label
            raise DataStoreNotFoundError(f"{label} has no data store {name!r}")
        return entry

    def get(self, name: str) -> Source:
        """Return the data store `name`, connected."""
        return self.connect(name, self.entry(name))

    def connect(self, name: str, entry: Entry, credentials: S3Credentials | None = None) -> Source:
        """Return the data store of `entry`, with `credentials` instead of its own if given."""
        kind = entry.config.get("kind")
        if kind not in ("s3", "local"):
            raise HubCorruptError(f"data store {name!r} is of the unknown kind {kind!r}")
        if kind == "s3" and credentials is None:
            credentials = credentials_of(name, entry, self.keyring)
        with self._lock:
            source = self._open.get((entry.version, credentials))
            if source is None:
                source = _connect(name, entry, credentials)
                self._open[entry.version, credentials] = source
            return source

    def open(self, entry: Entry, path: str, on_close: Callable[[], None] | None) -> Binary:
        """Return a reader of the external file `entry`."""
        facts = ObjectFacts(entry.target, entry.size, entry.digest)
        return self.get(entry.store).open(facts, path, on_close)


def _connect(name: str, entry: Entry, credentials: S3Credentials | None) -> Source:
    if credentials is None:
        from .localstore import LocalSource

        return LocalSource(name, str(entry.config["root"]))
    from .s3store import S3Source

    return S3Source(name, entry.config, credentials)
