"""What a connector must do, and what it may do besides.

:class:`Connector` and :class:`DeferrableConnector` are ProxyStore's protocols
(https://docs.proxystore.dev/latest/api/connectors/protocols/), so connectors are exchangeable
between the two libraries. Everything that makes a store faster or safer is an optional capability,
a small protocol of its own: a store asks ``isinstance(connector, ViewReader)`` and does without
where the answer is no.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import IO, Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from proxyflow.connectors.url import StoreURL
from proxyflow.storage.copying import Source

__all__ = [
    "Addressable",
    "Buffer",
    "ChangeTeller",
    "Connector",
    "DeferrableConnector",
    "FileOpener",
    "FrameBatchWriter",
    "FrameWriter",
    "FreshReader",
    "Hold",
    "Holdable",
    "Key",
    "KeyScanner",
    "KeySeries",
    "KeyWaiter",
    "SeriesMaker",
    "SessionMember",
    "SourceWriter",
    "StoredObject",
    "Sweeper",
    "ViewReader",
    "is_connector",
]

Buffer: TypeAlias = bytes | bytearray | memoryview
Key: TypeAlias = Any
"""A NamedTuple of the connector's own; small, hashable and picklable."""


@runtime_checkable
class Connector(Protocol):
    """A storage system seen as put, get, exists and evict of bytes."""

    def put(self, obj: Buffer) -> Key:
        """Store an object and return its key."""
        ...

    def put_batch(self, objs: Sequence[Buffer]) -> list[Key]:
        """Store several objects and return their keys in the same order."""
        ...

    def get(self, key: Key) -> Buffer | None:
        """Return the object, or None if nothing is stored under the key."""
        ...

    def get_batch(self, keys: Sequence[Key]) -> list[Any]:
        """Return several objects in the order of their keys, None for each missing one."""
        ...

    def exists(self, key: Key) -> bool:
        """Return whether an object is stored under the key."""
        ...

    def evict(self, key: Key) -> None:
        """Remove the object; removing a missing one is no error."""
        ...

    def close(self) -> None:
        """Release what the connector holds."""
        ...

    def config(self) -> dict[str, Any]:
        """Return what `from_config` needs to open the same store elsewhere; picklable."""
        ...

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Return a connector for the configuration of another one."""
        ...


_METHODS = [name for name in vars(Connector) if not name.startswith("_")]


def is_connector(obj: object) -> bool:
    """Return whether an object is a connector; a class of connectors is none."""
    # Not `isinstance`: from Python 3.12 on that overlooks what a wrapper hands on by `__getattr__`.
    return not isinstance(obj, type) and all(hasattr(obj, name) for name in _METHODS)


@runtime_checkable
class DeferrableConnector(Connector, Protocol):
    """A connector whose keys can be made before their objects."""

    def new_key(self, obj: Buffer | None = None) -> Key:
        """Return a key under which nothing is stored yet."""
        ...

    def set(self, key: Key, obj: Buffer) -> None:
        """Store an object under a key made before; a reader sees all of it or nothing."""
        ...


@runtime_checkable
class FrameWriter(Protocol):
    """Writes an object given in pieces without joining them."""

    def put_frames(self, frames: Sequence[Buffer]) -> Key:
        """Store the pieces as one object and return its key."""
        ...

    def set_frames(self, key: Key, frames: Sequence[Buffer]) -> None:
        """Store the pieces as one object under a key made before."""
        ...


@runtime_checkable
class SourceWriter(Protocol):
    """Lets an object be written right to where it will lie, which spares a pass over its bytes."""

    def put_source(self, source: Source) -> Key:
        """Store an object and return its key."""
        ...

    def set_source(self, key: Key, source: Source) -> None:
        """Store an object under a key made before."""
        ...


@runtime_checkable
class FrameBatchWriter(Protocol):
    """Writes several objects for less than it takes to write each by itself."""

    def put_frames_batch(self, objs: Sequence[Sequence[Buffer]]) -> list[Key]:
        """Store several objects, each given in pieces, and return their keys in the same order.

        When one of them cannot be stored, none is.
        """
        ...


@runtime_checkable
class ViewReader(Protocol):
    """Reads an object in place, without copying it."""

    def get_view(self, key: Key) -> memoryview | None:
        """Return the object as private, writable memory, or None if it is missing.

        Writing to it changes neither the stored object nor what another reader sees. It stays
        valid when the object is evicted and when the connector is closed.
        """
        ...


@runtime_checkable
class SeriesMaker(Protocol):
    """Makes keys by number, so that a number is all that has to travel of each."""

    def new_series(self) -> KeySeries:
        """Return a series of keys under which nothing is stored yet, nor made by anybody else."""
        ...


class KeySeries(Protocol):
    """Keys by number; picklable."""

    def __call__(self, number: int) -> Key:
        """Return the key of a number."""
        ...


@runtime_checkable
class FreshReader(Protocol):
    """Reads an object straight into memory that is the caller's own."""

    def get_fresh(self, key: Key) -> memoryview | None:
        """Return the object in memory that nobody else has, writable; None if it is missing."""
        ...


@runtime_checkable
class ChangeTeller(Protocol):
    """Tells which objects may be replaced: those are not cached where they are read."""

    def may_change(self, key: Key) -> bool:
        """Return whether the object of this key may become another one; asks nobody."""
        ...


@runtime_checkable
class FileOpener(Protocol):
    """Has files of the user's own beside the objects."""

    def open_file(self, path: str) -> IO[bytes]:
        """Open one of them for reading."""
        ...


class StoredObject(NamedTuple):
    """What a scan tells of one object."""

    key: Key
    nbytes: int
    modified: float
    """When it was stored, in seconds since the epoch."""


@runtime_checkable
class KeyScanner(Protocol):
    """Lists the objects of its session."""

    def scan(self) -> Iterable[StoredObject]:
        """Yield every object of the session, in no order."""
        ...


@runtime_checkable
class KeyWaiter(Protocol):
    """Waits for an object without asking again and again."""

    def wait(self, key: Key, timeout: float | None = None) -> bool:
        """Return True once the object exists, False when `timeout` seconds are over."""
        ...


@runtime_checkable
class SessionMember(Protocol):
    """Belongs to a session: the run that owns its objects."""

    @property
    def session(self) -> str:
        """Name of the session."""
        ...

    @property
    def owner(self) -> bool:
        """Whether this very connector, in this process, ends the session by closing."""
        ...


class Hold(Protocol):
    """Keeps a session alive."""

    def close(self) -> None:
        """Let go; the last to let go of a session, its owner included, ends it."""
        ...


@runtime_checkable
class Holdable(Protocol):
    """Has sessions that another process can keep alive beyond their owner."""

    @staticmethod
    def hold_url(url: StoreURL) -> Hold:
        """Keep alive the session that a URL names; opens none of its objects."""
        ...


@runtime_checkable
class Addressable(Protocol):
    """Can be written as a URL that opens the same session of the same store."""

    @property
    def url(self) -> str:
        """That URL; holds no secret."""
        ...


@runtime_checkable
class Sweeper(Protocol):
    """Removes what dead owners left behind."""

    def sweep(self) -> list[str]:
        """Remove the sessions whose owner is dead and return their names."""
        ...
