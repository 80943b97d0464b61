"""What a handle talks to: `Tree` over one of the engines, or a Flux broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from proxyflow.storage.kvs.engine import Watcher
from proxyflow.storage.kvs.keys import Names
from proxyflow.storage.kvs.values import Content

__all__ = [
    "FLUX_KVS_NO_MERGE",
    "FLUX_KVS_SYNC",
    "FLUX_KVS_TXN_COMPACT",
    "Backend",
    "MakeDirectory",
    "Operation",
    "Put",
    "State",
    "Symlink",
    "Unlink",
]

FLUX_KVS_NO_MERGE = 1
"""Commit flag: do not merge with other commits (these engines never do)."""

FLUX_KVS_TXN_COMPACT = 2
"""Commit flag: operations that cancel each other may be left out."""

FLUX_KVS_SYNC = 4
"""Commit flag: return once the change is on disk; only for the primary namespace."""


class Put(NamedTuple):
    """Store a value."""

    names: Names
    content: Content


class MakeDirectory(NamedTuple):
    """Put an empty directory, whatever was there."""

    names: Names


class Unlink(NamedTuple):
    """Remove an entry and all below it."""

    names: Names


class Symlink(NamedTuple):
    """Put a link to a path from the root."""

    names: Names
    target: Names


Operation = Put | MakeDirectory | Unlink | Symlink


@dataclass(frozen=True, slots=True)
class State:
    """What is found under a key, links followed.

    Attributes
    ----------
    directory
        Whether it is a directory.
    size
        Length in bytes; 0 for a directory.
    mark
        Another one whenever the value was put anew with other content.
    """

    directory: bool
    size: int
    mark: bytes


class Backend(Protocol):
    """The operations of a KVS, on keys that are split and namespaces that are named.

    Every one raises `NamespaceError` for an unknown namespace and `LinkLoopError` for a path of
    more than ten links.
    """

    url: str

    def state(self, namespace: str, names: Names) -> State | None:
        """Return what is under a key, ``None`` if nothing is."""
        ...

    def read(self, namespace: str, keys: Sequence[Names]) -> list[bytes | None]:
        """Return the values of keys, of one moment; ``None`` where nothing is.

        Raises
        ------
        IsDirectoryError
            One of them is a directory.
        """
        ...

    def readinto(self, namespace: str, names: Names, target: memoryview, offset: int) -> int:
        """Fill `target` from `offset` of a value on; return how many bytes there were.

        Raises
        ------
        KeyNotFoundError
            Nothing is there.
        IsDirectoryError
            The key is a directory.
        """
        ...

    def children(self, namespace: str, names: Names) -> list[tuple[str, bool]]:
        """Return the sorted names in a directory, and whether each is a directory itself.

        Raises
        ------
        KeyNotFoundError
            Nothing is there.
        NotDirectoryError
            A value is there.
        """
        ...

    def commit(self, namespace: str, operations: Sequence[Operation], flags: int) -> None:
        """Apply operations in order, all or nothing."""

    def swap(
        self,
        namespace: str,
        names: Names,
        expected: Callable[[bytes | None], bool],
        content: Content | None,
    ) -> bool:
        """Put `content`, or unlink if it is ``None``, if the value there is as expected."""
        ...

    def watch(self, namespace: str, names: Names) -> Watcher:
        """Return a watcher of a key."""
        ...

    def namespace_create(self, namespace: str, owner: int | None, flags: int) -> None:
        """Make a namespace; NamespaceExistsError if there is one."""

    def namespace_remove(self, namespace: str) -> None:
        """Remove a namespace with everything in it; a missing one is no error."""

    def namespace_list(self) -> list[str]:
        """Return the names of all namespaces, ``primary`` first."""
        ...

    def dropcache(self) -> None:
        """Forget what is remembered only to be faster."""

    def close(self) -> None:
        """Give back what is held; closing twice is no error."""
