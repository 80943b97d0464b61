"""What a hub needs of the storage under it: named blobs, one of which can be swapped atomically.

Two storages have it: a directory (`directory.DirectoryBlobs`) and an object store reached through
fsspec (`objects.ObjectBlobs`). Everything above is the same for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

__all__ = ["Blobs", "Tagged", "open_blobs"]


class Tagged(NamedTuple):
    """A blob and what identifies this version of it to `Blobs.swap`."""

    data: bytes
    tag: Any


class Handle(Protocol):
    """A lock that is held until released."""

    def release(self) -> None:
        """Let go; doing so twice is allowed."""


class Blobs(Protocol):
    """Named blobs; names are ``/``-separated and made by this package, never by a user."""

    url: str
    keeps_open_files: bool
    """Whether a blob that is deleted stays readable to those who have it open."""

    def read(self, name: str) -> bytes | None:
        """Return the blob, ``None`` if there is none."""

    def read_tagged(self, name: str, known: Any = None) -> Tagged | None:
        """Return the blob with the tag that `swap` compares.

        The data may be left out if the tag is `known`.
        """

    def serialised(self, name: str, timeout: float) -> AbstractContextManager[object]:
        """Keep other writers of `name` out, where that is possible and cheap.

        Only a courtesy on an object store; on a directory it is what makes `swap` atomic.
        """

    def swap(self, name: str, tag: Any, data: bytes) -> Any | None:
        """Replace the version `tag` (``None``: absent) by `data`; durable when it returns.

        Return the tag of the new version, ``None`` if the blob is another version by now.
        """

    def write(self, blobs: Mapping[str, bytes]) -> None:
        """Write new blobs under names nobody uses yet; durable when it returns."""

    def delete(self, names: list[str]) -> None:
        """Delete blobs; missing ones are no error."""

    def delete_folder(self, folder: str) -> None:
        """Delete `folder` and everything in it, if it is there."""

    def prune(self, folder: str) -> None:
        """Remove `folder` if it is there and empty."""

    def names(self, prefix: str) -> Iterator[str]:
        """Yield the names below the folder `prefix`."""

    def spool(self, folder: str) -> str:
        """Return the local directory in which the contents of `folder` are written first."""

    def publish(self, folder: str, items: list[str]) -> None:
        """Make files of the spool of `folder` durable blobs of the same name."""

    def size(self, name: str) -> int:
        """Return the size of the blob; `FileNotFoundError` if there is none."""

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """Return part of the blob; `FileNotFoundError` if there is none."""

    def local_path(self, name: str) -> str | None:
        """Return the file the blob is on this host, ``None`` if it is elsewhere."""

    def lock(self, name: str, shared: bool, timeout: float) -> Handle:
        """Lock `name` against other processes; `TimeoutError` if others keep it."""

    def close(self) -> None:
        """Free local resources."""


def open_blobs(url: str, options: Mapping[str, Any]) -> Blobs:
    """Return the storage at `url`: a directory, ``file://...``, or any fsspec URL that can swap.

    Raises
    ------
    MissingDependencyError
        If the URL needs fsspec, or a package below it, and it is not installed.
    HubUnsupportedError
        If the storage cannot replace an object on a condition.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme in ("file", "local"):
        from .directory import DirectoryBlobs

        return DirectoryBlobs(rest if separator else url)
    from .objects import ObjectBlobs

    return ObjectBlobs(url, options)
