"""A local directory as an area.

A file is written without a name (``O_TMPFILE``) and linked into place when complete: a killed
writer leaves nothing, and linking fails where the name is taken. File systems without unnamed
files, such as NFS, get a named one in ``partial/`` that `sweep_partial` removes later.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import IO

from .area import Area, Buffer, Entry
from .locks import FileLock

__all__ = ["LocalArea"]

_NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL})
_PARTIAL = "partial"


class LocalArea:
    """The area below the directory `root`; other users see nothing of it.

    Parameters
    ----------
    root
        Absolute path. Directories below it are created as needed, `root` itself is not: a missing
        root is an unmounted disk.
    durable
        Whether every file is on the disk (``fsync``) before it becomes visible.
    """

    locks = True

    def __init__(self, root: str, *, durable: bool = False) -> None:
        self.root = root.rstrip("/") or "/"
        self.durable = durable
        self.url = f"file://{self.root}"

    def child(self, name: str) -> Area:
        """Return the area one directory below."""
        return LocalArea(f"{self.root}/{name}", durable=self.durable)

    def make_root(self) -> None:
        """Create the root directory, for its owner alone."""
        try:
            os.makedirs(self.root, mode=0o700, exist_ok=True)
        except FileExistsError as error:
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory", self.root) from error
        except FileNotFoundError as error:
            # A link to nothing on the way, or /proc. Missing is what a blob is, not a store.
            raise NotADirectoryError(
                errno.ENOTDIR, "No directory can be made there", self.root
            ) from error

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}"

    def make_parents(self, path: str) -> None:
        """Create the directories above `path`, but never the root."""
        parent = os.path.dirname(path)
        if not parent:
            return
        try:
            os.mkdir(self._full(parent), 0o700)
        except FileExistsError:
            return
        except FileNotFoundError:
            if "/" not in parent:
                raise  # the root is missing
            self.make_parents(parent)
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._full(parent), 0o700)

    def read(self, path: str) -> bytes:
        """Return the bytes of a file."""
        # By descriptor: a file object costs as much again as the reading of a small tag.
        fd = os.open(self._full(path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            data = os.read(fd, size)
            if len(data) == size:
                return data
            with open(fd, "rb", buffering=0, closefd=False) as file:
                return data + file.readall()
        finally:
            os.close(fd)

    def create(self, path: str, data: bytes) -> None:
        """Store a small file at once; FileExistsError when the path is taken."""
        writer = self.writer(path)
        try:
            writer.write(data)
        except BaseException:
            writer.abort()
            raise
        writer.commit()

    def writer(self, path: str, *, replace: bool = False) -> LocalWriter:
        """Start a file that nobody sees before its `commit`."""
        return LocalWriter(self, path, replace=replace)

    def open(self, path: str) -> IO[bytes]:
        """Return a file for reading."""
        return open(self._full(path), "rb", buffering=0)

    def size(self, path: str) -> int:
        """Return the number of bytes."""
        return os.stat(self._full(path)).st_size

    def local_path(self, path: str) -> str | None:
        """Return the absolute path on this host, ``None`` where there is none."""
        return self._full(path)

    def names(self, directory: str) -> list[str]:
        """Return the file names directly in a directory."""
        try:
            return os.listdir(self._full(directory))
        except FileNotFoundError:
            self._check_root()
            return []

    def _check_root(self) -> None:
        """Raise FileNotFoundError if the root is gone: that is a dead volume, not an empty one."""
        os.stat(self.root)

    def scan(self, directory: str) -> Iterator[Entry]:
        """Yield every file below a directory."""
        try:
            entries = list(os.scandir(self._full(directory)))
        except FileNotFoundError:
            self._check_root()
            return
        for entry in entries:
            path = f"{directory}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from self.scan(path)
                continue
            try:
                info = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # removed since it was listed
            yield Entry(path, info.st_size, info.st_mtime)

    def remove(self, paths: Iterable[str]) -> None:
        """Remove files; those already gone do not matter."""
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._full(path))

    def lock(self, name: str, *, wait: bool = True) -> AbstractContextManager[bool]:
        """Hold a lock of that name; yield whether it is held."""
        path = f"lock/{name}"
        return FileLock(self._full(path), wait=wait, prepare=lambda: self.make_parents(path))

    def sweep_partial(self, before: float) -> int:
        """Remove what killed writers left behind before that moment; count it."""
        old = [entry.path for entry in self.scan(_PARTIAL) if entry.modified < before]
        self.remove(old)
        return len(old)

    def remove_directory(self, directory: str) -> None:
        """Remove a directory if it is empty."""
        try:
            os.rmdir(self._full(directory))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise

    def free(self) -> int | None:
        """Return the bytes left, ``None`` where nobody can tell."""
        info = os.statvfs(self.root)
        return info.f_bavail * info.f_frsize


class LocalWriter:
    """A file without a visible name until `commit`."""

    def __init__(self, area: LocalArea, path: str, *, replace: bool) -> None:
        self._area = area
        self._path = path
        self._replace = replace
        self._partial: str | None = None
        self._fd = self._open_unnamed()

    def _open_unnamed(self) -> int:
        parent = os.path.dirname(self._area._full(self._path))
        flags = os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC
        try:
            return os.open(parent, flags, 0o600)
        except FileNotFoundError:
            self._area.make_parents(self._path)
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
            return self._open_partial()
        try:
            return os.open(parent, flags, 0o600)
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
            return self._open_partial()

    def _open_partial(self) -> int:
        self._partial = f"{_PARTIAL}/{secrets.token_hex(12)}"
        self._area.make_parents(self._partial)
        self._area.make_parents(self._path)
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        return os.open(self._area._full(self._partial), flags, 0o600)

    def write(self, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        while view:
            view = view[os.write(self._fd, view) :]

    def commit(self) -> None:
        try:
            if self._area.durable:
                os.fsync(self._fd)
            self._link()
            if self._area.durable:
                _sync_directory(os.path.dirname(self._area._full(self._path)))
        finally:
            self.abort()

    def _link(self) -> None:
        target = self._area._full(self._path)
        if self._replace:
            # A link never replaces, so the file gets a name of its own first.
            self._area.make_parents(f"{_PARTIAL}/x")
            named = self._area._full(f"{_PARTIAL}/{secrets.token_hex(12)}")
            self._link_to(named)
            os.rename(named, target)
        else:
            self._link_to(target)

    def _link_to(self, target: str) -> None:
        if self._partial is not None:
            os.link(self._area._full(self._partial), target)
        else:
            # Only linkat() follows the magic link of an unnamed file; any descriptor makes Python
            # use it, and is ignored as the path is absolute.
            os.link(f"/proc/self/fd/{self._fd}", target, src_dir_fd=self._fd)

    def abort(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._partial is not None:
            self._area.remove([self._partial])
            self._partial = None


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
