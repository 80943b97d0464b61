"""What the file system of a linked filespace promises, whatever is behind it."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import IO, Any, TypeAlias

from .errors import FsError
from .models import Content, DirEntry, FilespaceStatistics

__all__ = ["Filesystem", "Path"]

Path: TypeAlias = str | os.PathLike[str]


class Filesystem(ABC):
    """Files, directories and symbolic links of a filespace; get it from ``filespace.fs``.

    Paths are absolute and ``/``-separated. Symbolic links are followed, except that
    ``get_entry``, ``delete``, ``move`` and ``read_symlink`` act on a link itself; a relative
    target starts at the link's own directory. Errors are `FsError`, which are also the matching
    builtin: ``FileNotFoundError``, ``FileExistsError``, ``NotADirectoryError``,
    ``IsADirectoryError``, ``PermissionError``; after ``unlink()`` every call raises
    `FilespaceNotLinkedError`.

    The calls, and what they mean, are those of LucidLink's SDK (``lucidlink.Filesystem``).
    """

    @abstractmethod
    def read_dir(self, path: Path) -> list[DirEntry]:
        """Return the entries of a directory, sorted by name.

        Raises
        ------
        FsNotFoundError
            If `path` does not exist.
        FsNotADirectoryError
            If `path` is not a directory.
        """

    def list_dir(self, path: Path) -> list[str]:
        """Return the names in a directory, sorted; raises as `read_dir` does."""
        return [entry.name for entry in self.read_dir(path)]

    @abstractmethod
    def create_dir(self, path: Path) -> None:
        """Create a directory, with the parents that are missing.

        Raises
        ------
        FsExistsError
            If `path` exists, as whatever.
        FsNotADirectoryError
            If a parent is not a directory.
        """

    @abstractmethod
    def delete_dir(self, path: Path, recursive: bool = False) -> None:
        """Delete a directory: an empty one, or with `recursive` all that is in it.

        External files below it are unlinked; their objects stay.

        Raises
        ------
        FsNotFoundError
            If `path` does not exist.
        FsNotADirectoryError
            If `path` is not a directory, or is a symbolic link.
        FsDirectoryNotEmptyError
            If it has entries and `recursive` is false.
        FsError
            With ``EBUSY`` for the root.
        """

    @abstractmethod
    def move(self, src: Path, dst: Path) -> None:
        """Rename a file, directory or link; never overwrites.

        Raises
        ------
        FsNotFoundError
            If `src`, or the directory of `dst`, does not exist.
        FsExistsError
            If `dst` exists.
        FsError
            With ``EINVAL`` if `dst` is inside `src`.
        """

    @abstractmethod
    def delete(self, path: Path) -> None:
        """Delete a file, an external file's entry, or a symbolic link itself.

        Raises
        ------
        FsNotFoundError
            If `path` does not exist.
        FsIsADirectoryError
            If `path` is a directory.
        """

    @abstractmethod
    def truncate(self, path: Path, size: int) -> None:
        """Shorten or extend (by zeros) a file to `size` bytes.

        Raises
        ------
        FsNotFoundError
            If `path` does not exist.
        InvalidArgumentError
            If `size` is negative.
        FsPermissionError
            With ``EROFS`` for an external file.
        """

    @abstractmethod
    def get_entry(self, path: Path) -> DirEntry:
        """Return what is known of a file, directory or link.

        Raises
        ------
        FsNotFoundError
            If `path` does not exist.
        """

    @abstractmethod
    def statistics(self) -> FilespaceStatistics:
        """Return counters over the whole filespace, this client's pending changes included."""

    @abstractmethod
    def open(
        self,
        path: Path,
        mode: str = "rb",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        lock_type: str = "",
        *,
        lock_timeout: float = 10.0,
    ) -> IO[Any]:
        """Open a file as a stream; the arguments are those of the builtin ``open()``.

        Parameters
        ----------
        path
            The file; its directory must exist.
        mode
            r, w or a, each with + and with b or t (without either: text); there is no x.
        buffering, encoding, errors, newline
            As for the builtin; text is UTF-8 unless `encoding` says otherwise.
        lock_type
            ``"shared"`` or ``"exclusive"`` to hold a lock on the path until the file is closed,
            across processes. Advisory: it binds those who ask for a lock too.
        lock_timeout
            How many seconds to wait for a lock others hold.

        Raises
        ------
        FsNotFoundError
            If the file (in a reading mode) or its directory does not exist.
        FsIsADirectoryError
            If `path` is a directory.
        FsPermissionError
            With ``EROFS`` for an external file in a writing mode.
        FsLockedError
            With ``EBUSY`` if others keep the lock for `lock_timeout` seconds.
        InvalidArgumentError
            For an invalid mode, lock type, buffering or newline.
        """

    def read_file(self, path: Path) -> bytes:
        """Return the whole content of a file; raises as `open` does for reading."""
        with self.open(path, "rb") as file:
            return bytes(file.read())

    @abstractmethod
    def write_file(self, path: Path, data: Any) -> None:
        """Make `data` the whole content of a file, created if need be.

        Parameters
        ----------
        path
            The file; its directory must exist.
        data
            Anything with the buffer protocol.

        Raises
        ------
        FsNotFoundError
            If the directory does not exist.
        FsIsADirectoryError
            If `path` is a directory.
        FsPermissionError
            With ``EROFS`` for an external file.
        FsNoSpaceError
            If there is no room; the file is as it was before.
        """

    def write_buffers(self, path: Path, buffers: Iterable[Any], *, replaces: bool = False) -> None:
        """Make the concatenation of `buffers` the content of a file; as `write_file`.

        With `replaces`, what another client makes the content at the same time is replaced, where
        else both would be kept under two names.
        """
        self.write_file(path, b"".join(buffers))

    def content(self, path: Path) -> Content:
        """Return size and digest of a file's content and, if it is on this host, where.

        Raises
        ------
        FsNotFoundError
            If `path` does not exist.
        """
        entry = self.get_entry(path)
        return Content(entry.size, entry.digest)

    def view(self, path: Path, *, writable: bool = False) -> memoryview:
        """Return the content of a file, mapped rather than read if it is on this host.

        A mapped view is not verified against the digest, for that would read it all; its length
        is. It stays valid when the file is replaced or deleted. With `writable`, writing to it
        changes this view alone. Raises as `read_file` does.
        """
        data = self.read_file(path)
        return memoryview(bytearray(data) if writable else data)

    @abstractmethod
    def create_symlink(self, target_path: Path, link_path: Path) -> None:
        """Create a symbolic link at `link_path` that leads to `target_path`, existing or not.

        Raises
        ------
        FsExistsError
            If `link_path` exists.
        FsNotFoundError
            If the directory of `link_path` does not exist.
        InvalidArgumentError
            If `target_path` is empty.
        """

    @abstractmethod
    def read_symlink(self, link_path: Path) -> str:
        """Return where a symbolic link leads, as it was given.

        Raises
        ------
        FsNotFoundError
            If `link_path` does not exist.
        FsError
            With ``EINVAL`` if it is not a symbolic link.
        """

    @abstractmethod
    def file_exists(self, path: Path) -> bool:
        """Return whether `path` leads to a file."""

    @abstractmethod
    def dir_exists(self, path: Path) -> bool:
        """Return whether `path` leads to a directory."""


def root_busy(path: Path) -> FsError:
    """Return the error for an operation the root does not allow."""
    return FsError.at(os.fspath(path), "The root can be neither moved nor deleted", code=16)
