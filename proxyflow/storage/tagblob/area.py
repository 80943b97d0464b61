"""An area: the few file operations that volumes and the catalogue stand on.

Two kinds exist, a local directory and a place on a file system that fsspec knows; the layers above
are written once. Paths are relative, made of checked names only, and use ``/``.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import IO, Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from .errors import ConfigError, DDFSError, StoreFull, Unavailable

__all__ = [
    "Area",
    "AreaWriter",
    "Buffer",
    "Entry",
    "local_root",
    "open_area",
    "present",
    "reported",
]

Buffer = bytes | bytearray | memoryview

#: EFBIG is a limit of the volume as well: a file larger than its file system or quota allows.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Entry(NamedTuple):
    """A stored file: path relative to its area, size, seconds since the epoch."""

    path: str
    size: int
    modified: float


class AreaWriter(Protocol):
    """A file being written; nobody sees it before `commit`."""

    def write(self, data: Buffer) -> None:
        """Add bytes at the end."""
        ...

    def commit(self) -> None:
        """Make the file visible; FileExistsError when the path is taken."""
        ...

    def abort(self) -> None:
        """Give up; nothing becomes visible."""
        ...


class Area(Protocol):
    """File operations below one place.

    Missing files raise FileNotFoundError, taken ones FileExistsError; every other failure is the
    file system's own exception, to be translated by `reported`.
    """

    url: str
    #: Whether `lock` excludes other processes; otherwise only exclusive creation does.
    locks: bool

    def child(self, name: str) -> Area:
        """Return the area one directory below."""
        ...

    def read(self, path: str) -> bytes:
        """Return the bytes of a file."""
        ...

    def create(self, path: str, data: bytes) -> None:
        """Store a small file at once; FileExistsError when the path is taken."""
        ...

    def writer(self, path: str, *, replace: bool = False) -> AreaWriter:
        """Start a file that nobody sees before its `commit`."""
        ...

    def open(self, path: str) -> IO[bytes]:
        """Return a file for reading."""
        ...

    def size(self, path: str) -> int:
        """Return the number of bytes."""
        ...

    def local_path(self, path: str) -> str | None:
        """Return the absolute path on this host, ``None`` where there is none."""
        ...

    def names(self, directory: str) -> list[str]:
        """Return the file names directly in a directory; none when it is missing."""
        ...

    def scan(self, directory: str) -> Iterator[Entry]:
        """Yield every file below a directory."""
        ...

    def remove(self, paths: Iterable[str]) -> None:
        """Remove files; those already gone do not matter."""
        ...

    def lock(self, name: str, *, wait: bool = True) -> AbstractContextManager[bool]:
        """Hold a lock of that name; yield whether it is held."""
        ...

    def sweep_partial(self, before: float) -> int:
        """Remove what writers killed before that moment left behind; return how many."""
        ...

    def remove_directory(self, directory: str) -> None:
        """Remove an empty directory, where directories are things of their own."""
        ...

    def free(self) -> int | None:
        """Return the bytes left, ``None`` where nobody can tell."""
        ...


def local_root(url: str) -> str | None:
    """Return the directory a URL or path means, ``None`` when it is not a local one.

    Examples
    --------
    >>> local_root("file:///srv/ddfs"), local_root("/srv/ddfs"), local_root("s3://bucket/ddfs")
    ('/srv/ddfs', '/srv/ddfs', None)
    """
    if url.startswith("/"):
        return url
    parts = urlsplit(url)
    if parts.scheme != "file":
        return None
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ConfigError("a file URL needs an absolute path", store=url, remedy="file:///path")
    if parts.query or parts.fragment:
        raise ConfigError(
            "options do not go into this URL",
            store=url,
            remedy="pass them as parameters: DDFS(url, volumes=3, replicas=2)",
        )
    return parts.path


def open_area(
    url: str, *, durable: bool = False, storage_options: Mapping[str, Any] | None = None
) -> Area:
    """Return the area at a ``file:///`` URL, an absolute path or an fsspec URL.

    Raises
    ------
    ConfigError
        The URL has no scheme, or fsspec does not know it.
    MissingDependencyError
        It is not local and fsspec, or what it needs for the scheme, is not installed.
    """
    root = local_root(url)
    if root is not None:
        from .area_local import LocalArea

        return LocalArea(root, durable=durable)
    if "://" not in url:
        raise ConfigError(
            "not a URL or an absolute path",
            store=url,
            remedy=f"write http://{url} for a server, file:///path for a directory",
        )
    from .area_fsspec import FsspecArea

    return FsspecArea(url, storage_options)


class reported:  # noqa: N801 - used like a function; a class costs a third of a generator
    """Turn a file system's failure into an error of ours that names the store.

    Missing and taken paths pass: they mean something to the caller.

    Parameters
    ----------
    store, name
        What the error names.
    """

    __slots__ = ("_name", "_store")

    def __init__(self, store: str, name: str | None = None) -> None:
        self._store = store
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not isinstance(error, OSError):
            return
        if isinstance(error, (FileNotFoundError, FileExistsError, DDFSError)):
            return  # some of ours are OSErrors too, and say more
        if error.errno in _FULL:
            raise StoreFull(
                "no room left",
                store=self._store,
                name=self._name,
                remedy="free space or add a volume",
            ) from error
        raise Unavailable(
            f"the volume does not answer: {error.strerror or error}",
            store=self._store,
            name=self._name,
            remedy="check that it is mounted, reachable and writable",
        ) from error


class present(reported):  # noqa: N801 - as above
    """Report what is missing as a dead volume, where nothing but its root can be missing."""

    __slots__ = ()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, FileNotFoundError):
            if local_root(self._store) is None:
                text, remedy = "there is no such bucket", "create it, or correct the URL"
            else:
                text, remedy = "the volume is gone", "mount it again, or let gc restore replicas"
            raise Unavailable(text, store=self._store, remedy=remedy) from error
        super().__exit__(kind, error, traceback)
