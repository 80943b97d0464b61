"""What a storage engine has to do, so that `Tree` can make a KVS of it.

An engine keeps entries in directories and knows nothing of paths, links or namespaces. It gives
consistent pictures to read from, and applies a set of changes as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Protocol, TypeVar

from proxyflow.storage.kvs.entries import Directory, Entry, Kind, Value
from proxyflow.storage.kvs.keys import Names

__all__ = ["Change", "Engine", "View", "Watcher"]

T = TypeVar("T")


class View(Protocol):
    """A picture of the tree in which all answers are of the same moment."""

    def prefetch(self, directory: Directory, paths: Iterable[Names]) -> None:
        """Be told which paths will be walked, to get them in one go where that saves time."""

    def entry(self, directory: Directory, name: bytes) -> Entry | None:
        """Return what the directory holds under a name."""
        ...

    def children(self, directory: Directory) -> list[tuple[bytes, Kind]]:
        """Return the names in a directory, in order, and what each of them is."""
        ...

    def read(self, values: Sequence[Value]) -> list[bytes]:
        """Return the bytes of values that `entry` gave."""
        ...

    def readinto(self, value: Value, offset: int, target: memoryview) -> None:
        """Fill `target` with the bytes of a value from `offset` on."""


class Change(View, Protocol):
    """A view that can be written to; it sees its own writes, and others see all or none."""

    part_bytes: int
    """How many bytes of a large value go into one part."""

    def link(
        self,
        directory: Directory,
        name: bytes,
        entry: Entry,
        parts: Sequence[Sequence[memoryview]] = (),
    ) -> None:
        """Hold `entry` under a name; what was there before is released with all below it."""

    def remove(self, directory: Directory, name: bytes) -> None:
        """Hold nothing under a name; what was there is released with all below it."""


class Watcher(Protocol):
    """Tells when something was committed since it was made, or since it last said so."""

    def wait(self, timeout: float | None) -> bool:
        """Wait until a look is worth it; ``False`` if nothing happened in time."""
        ...

    def __enter__(self) -> Watcher: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Engine(Protocol):
    """A place that holds the tree.

    Both `read` and `write` may call what they are given more than once, when another writer came
    in between; it should do nothing but look at, and change, what it is handed.
    """

    url: str

    def read(self, look: Callable[[View], T]) -> T:
        """Return what `look` makes of a consistent picture."""
        ...

    def write(self, change: Callable[[Change], T], namespace: str, *, durable: bool) -> T:
        """Apply what `change` does, all or nothing; if it raises, nothing.

        Watchers of `namespace` are told. With `durable` the change has reached the disk on return.
        """
        ...

    def watch(self, namespace: str) -> Watcher:
        """Return a watcher of what is committed to a namespace."""
        ...

    def dropcache(self) -> None:
        """Forget what is remembered only to be faster."""

    def close(self) -> None:
        """Give back what is held; closing twice is no error."""
