"""The file system of a filespace at LucidLink."""

from __future__ import annotations

import contextlib
import os
from typing import IO, Any

from .errors import FsExistsError, FsNotADirectoryError, FsNotFoundError, UnsupportedOperationError
from .filesystem import Filesystem, Path
from .lucidlink_sdk import sdk, translated
from .models import DirEntry, FilespaceStatistics
from .paths import join, split

__all__ = ["LucidLinkFilesystem"]


class LucidLinkFilesystem(Filesystem):
    """`Filesystem` over a ``lucidlink.FileSystem``."""

    def __init__(self, file_system: Any, root_path: str) -> None:
        self.native = file_system
        self._utils = sdk().FsUtils(file_system)
        self._root = split(root_path)

    def path(self, path: Path) -> str:
        """Return `path`, which is below the root of the link, as the service knows it."""
        done: list[str] = []
        for name in split(path):
            if name == "..":
                del done[-1:]
            else:
                done.append(name)
        return join((*self._root, *done))

    def read_dir(self, path: Path) -> list[DirEntry]:
        """See `Filesystem.read_dir`."""
        with translated():
            entries = [_entry(found) for found in self.native.read_dir(self.path(path))]
        return sorted(entries, key=lambda entry: entry.name)

    def create_dir(self, path: Path) -> None:
        """See `Filesystem.create_dir`; the service makes one level at a time."""
        where = self.path(path)
        parts = split(where)
        for depth in range(1, len(parts)):
            with contextlib.suppress(FsExistsError), translated():
                self.native.create_dir(join(parts[:depth]))
        with translated():
            self.native.create_dir(where)

    def delete_dir(self, path: Path, recursive: bool = False) -> None:
        """See `Filesystem.delete_dir`."""
        with translated():
            if recursive:
                self._utils.delete_tree(self.path(path))
            else:
                self.native.delete_dir(self.path(path))

    def move(self, src: Path, dst: Path) -> None:
        """See `Filesystem.move`."""
        with translated():
            self.native.move(self.path(src), self.path(dst))

    def delete(self, path: Path) -> None:
        """See `Filesystem.delete`."""
        with translated():
            self.native.delete(self.path(path))

    def truncate(self, path: Path, size: int) -> None:
        """See `Filesystem.truncate`."""
        with translated():
            self.native.truncate(self.path(path), size)

    def get_entry(self, path: Path) -> DirEntry:
        """See `Filesystem.get_entry`."""
        with translated():
            return _entry(self.native.get_entry(self.path(path)))

    def statistics(self) -> FilespaceStatistics:
        """See `Filesystem.statistics`; the service counts entries of all kinds together."""
        with translated():
            found = self.native.statistics()
        return FilespaceStatistics(
            entries_count=found.entries_count,
            data_size=found.storage_size,
            external_files_count=found.external_files_count,
            external_files_size=found.external_files_size,
        )

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
        """See `Filesystem.open`; there are no locks."""
        if lock_type:
            raise UnsupportedOperationError("LucidLink's SDK 1.x has no file locks")
        with translated():
            stream: IO[Any] = self.native.open(
                self.path(path),
                mode,
                buffering=buffering,
                encoding=encoding,
                errors=errors,
                newline=newline,
            )
        return stream

    def read_file(self, path: Path) -> bytes:
        """See `Filesystem.read_file`."""
        with translated():
            return bytes(self._utils.read_bytes(self.path(path)))

    def write_file(self, path: Path, data: Any) -> None:
        """See `Filesystem.write_file`; the service empties the file first."""
        with translated():
            self._utils.write_bytes(self.path(path), data)

    def create_symlink(self, target_path: Path, link_path: Path) -> None:
        """See `Filesystem.create_symlink`."""
        with translated():
            self.native.create_symlink(os.fspath(target_path), self.path(link_path))

    def read_symlink(self, link_path: Path) -> str:
        """See `Filesystem.read_symlink`."""
        with translated():
            return str(self.native.read_symlink(self.path(link_path)))

    def file_exists(self, path: Path) -> bool:
        """See `Filesystem.file_exists`."""
        entry = self._find(path)
        return entry is not None and entry.is_file()

    def dir_exists(self, path: Path) -> bool:
        """See `Filesystem.dir_exists`."""
        entry = self._find(path)
        return entry is not None and entry.is_dir()

    def _find(self, path: Path) -> DirEntry | None:
        try:
            return self.get_entry(path)
        except (FsNotFoundError, FsNotADirectoryError):
            return None


def _entry(found: Any) -> DirEntry:
    kind = "link" if found.is_symlink else "dir" if found.is_dir else "file"
    return DirEntry(
        name=found.name,
        type=kind,
        size=found.size,
        ctime=found.created_at / 1e9,
        mtime=found.modified_at / 1e9,
        entry_id=found.id,
    )
