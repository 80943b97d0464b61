"""A hub in a directory, on a local or a shared POSIX file system."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from . import slots
from .blobs import Tagged
from .errors import FsNoSpaceError, HubUnavailableError
from .flock import FileLock

__all__ = ["DirectoryBlobs"]


class DirectoryBlobs:
    """Blobs as the files of a directory.

    Parameters
    ----------
    root
        The directory; made if missing.

    Raises
    ------
    HubUnavailableError
        If the directory cannot be made or is not one.
    """

    keeps_open_files = True

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        self.url = self.root
        try:
            _make_dirs(self.root)
        except OSError as error:
            raise HubUnavailableError(f"hub directory {self.root}: {error.strerror}") from error

    def read(self, name: str) -> bytes | None:
        """See `Blobs.read`."""
        tagged = self.read_tagged(name)
        return None if tagged is None else tagged.data

    def read_tagged(self, name: str, known: Any = None) -> Tagged | None:
        """See `Blobs.read_tagged`."""
        try:
            with open(self._path(name), "rb", buffering=0) as file:
                if known is not None and slots.last_tag(file.fileno()) == known:
                    return Tagged(b"", known)
                last = slots.read_last(file.fileno())
                if last is not None:
                    return Tagged(last.data, last.tag)
                data = file.read()
                return Tagged(data, data)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unavailable(error) from error

    def serialised(self, name: str, timeout: float) -> AbstractContextManager[object]:
        """See `Blobs.serialised`."""
        path = self._path(name + ".lock")
        _make_dirs(os.path.dirname(path))
        try:
            return FileLock(path, timeout=timeout)
        except TimeoutError as error:
            raise HubUnavailableError(
                f"hub {self.url}: {error} for more than {timeout:g} s; nothing was published"
            ) from error

    def swap(self, name: str, tag: Any, data: bytes) -> Any | None:
        """See `Blobs.swap`."""
        path = self._path(name)
        if tag is None:
            if os.path.exists(path):
                return None
            # Most blobs are written once: no room for other versions.
            self._replace(path, data)
            return data
        with open(path, "r+b", buffering=0) as file:
            last = slots.read_last(file.fileno())
            if (file.read() if last is None else last.tag) != tag:
                return None
            following = slots.overwrite(file.fileno(), last, data) if last is not None else None
        if following is None:
            number = 1 if last is None else last.number + 1
            following = slots.Version.of(number, data)
            self._replace(path, slots.new_file(following))
        return following.tag

    def _replace(self, path: str, data: bytes) -> None:
        _make_dirs(os.path.dirname(path))
        # One name for the next file is enough: `serialised` lets one writer in at a time, and
        # what a killed one left is overwritten by whoever comes next.
        _write_file(path + ".next", data, os.O_TRUNC)
        os.rename(path + ".next", path)
        _sync_dir(os.path.dirname(path))

    def write(self, blobs: Mapping[str, bytes]) -> None:
        """See `Blobs.write`."""
        paths = {self._path(name): data for name, data in blobs.items()}
        for folder in {os.path.dirname(path) for path in paths}:
            _make_dirs(folder)
        for path, data in paths.items():
            _write_file(path, data, os.O_EXCL, sync=False)
        # Synced in a second pass: the first fsync makes the file system write most of the rest,
        # which is several times faster than waiting for each file in turn.
        _sync_files(list(paths))

    def delete(self, names: list[str]) -> None:
        """See `Blobs.delete`."""
        for name in names:
            try:
                os.unlink(self._path(name))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._unavailable(error) from error

    def delete_folder(self, folder: str) -> None:
        """See `Blobs.delete_folder`."""
        try:
            shutil.rmtree(self._path(folder))
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unavailable(error) from error

    def prune(self, folder: str) -> None:
        """See `Blobs.prune`."""
        try:
            os.rmdir(self._path(folder))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise self._unavailable(error) from error

    def names(self, prefix: str) -> Iterator[str]:
        """See `Blobs.names`."""
        top = self._path(prefix)
        for folder, _, files in os.walk(top):
            for file in files:
                yield os.path.relpath(os.path.join(folder, file), self.root)

    def spool(self, folder: str) -> str:
        """See `Blobs.spool`."""
        path = self._path(folder)
        _make_dirs(path)
        return path

    def publish(self, folder: str, items: list[str]) -> None:
        """See `Blobs.publish`."""
        path = self._path(folder)
        try:
            _sync_files([os.path.join(path, item) for item in items])
        except OSError as error:
            raise self._unavailable(error) from error

    def size(self, name: str) -> int:
        """See `Blobs.size`."""
        return os.stat(self._path(name)).st_size

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """See `Blobs.read_range`."""
        with open(self._path(name), "rb", buffering=0) as file:
            return os.pread(file.fileno(), end - start, start)

    def local_path(self, name: str) -> str | None:
        """See `Blobs.local_path`."""
        return self._path(name)

    def lock(self, name: str, shared: bool, timeout: float) -> FileLock:
        """See `Blobs.lock`."""
        folder = self._path("locks")
        _make_dirs(folder)
        path = os.path.join(folder, hashlib.sha256(name.encode()).hexdigest()[:32])
        return FileLock(path, shared=shared, timeout=timeout, transient=True)

    def close(self) -> None:
        """Do nothing: nothing is kept open."""

    def _path(self, name: str) -> str:
        return os.path.join(self.root, *name.split("/"))

    def _unavailable(self, error: OSError) -> Exception:
        if error.errno == errno.ENOSPC:
            return FsNoSpaceError.at(self.root)
        return HubUnavailableError(f"hub {self.url}: {error.strerror} ({error.filename})")


def _make_dirs(path: str) -> None:
    """Make `path`, durably: a file in a directory that is lost with the power is lost too."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for path in reversed(missing):
        os.makedirs(path, exist_ok=True)
        _sync_dir(os.path.dirname(path))


def _write_file(path: str, data: bytes, flags: int, sync: bool = True) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(fd, left) :]
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def _sync_files(paths: list[str]) -> None:
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    for folder in {os.path.dirname(path) for path in paths}:
        _sync_dir(folder)


def _sync_dir(path: str) -> None:
    _fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(_fd)
    finally:
        os.close(_fd)
