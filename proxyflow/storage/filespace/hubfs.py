"""The file system of the embedded filespace: paths and changes; open files are in `openfiles`."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import replace
from typing import IO, Any

from .client import Client, retrying
from .entry import Entry, Kind, new_entry
from .errors import (
    FsDirectoryNotEmptyError,
    FsError,
    FsExistsError,
    FsIsADirectoryError,
    FsNotADirectoryError,
    FsNotFoundError,
    FsPermissionError,
    InvalidArgumentError,
)
from .filesystem import Filesystem, Path, root_busy
from .models import Content, DirEntry, FilespaceStatistics
from .openfiles import OpenFiles
from .ops import Move, Op, Put, Remove
from .paths import Parts, join, split
from .sources import Sources
from .tree import FILES, Tree

__all__ = ["HubFilesystem"]

MAX_LINKS = 40


class HubFilesystem(Filesystem):
    """`Filesystem` over a hub.

    Everything happens in this client's private view; ``sync_all()`` publishes it. A file takes
    part in that once it is closed: what is still open for writing is left for the next sync.

    Parameters
    ----------
    client
        The link.
    root
        The directory that is ``/`` here.
    sources
        Opens external files.
    """

    def __init__(self, client: Client, root: Parts, sources: Sources) -> None:
        self.client = client
        self.root = (*FILES, *root)
        self._files = OpenFiles(client, sources)

    @retrying
    def read_dir(self, path: Path) -> list[DirEntry]:
        """Return the entries of a directory; see `Filesystem.read_dir`."""
        tree = self.client.tree()
        where = self._resolve(tree, path)
        self._directory(tree, where, path)
        sized = self.client.view.sized
        return [DirEntry.of(name, sized(entry)) for name, entry in tree.items(where)]

    @retrying
    def create_dir(self, path: Path) -> None:
        """Create a directory and its parents; see `Filesystem.create_dir`."""
        tree = self.client.tree()
        where = self._resolve(tree, path)
        if tree.lookup(where) is not None:
            raise FsExistsError.at(os.fspath(path))
        self.client.record(*self.missing_dirs(tree, where))

    @retrying
    def delete_dir(self, path: Path, recursive: bool = False) -> None:
        """Delete a directory; see `Filesystem.delete_dir`."""
        tree = self.client.tree()
        where = self._resolve(tree, path, follow=False)
        entry = self._directory(tree, where, path)
        if where == self.root:
            raise root_busy(path)
        if entry.children is not None and not recursive:
            raise FsDirectoryNotEmptyError.at(os.fspath(path))
        below = [Remove(place, found.version) for place, found in tree.walk(where)]
        self.client.record(*reversed(below), Remove(where, entry.version))

    @retrying
    def move(self, src: Path, dst: Path) -> None:
        """Rename an entry; see `Filesystem.move`."""
        tree = self.client.tree()
        source = self._resolve(tree, src, follow=False)
        entry = self._existing(tree, source, src)
        if source == self.root:
            raise root_busy(src)
        target = self._resolve(tree, dst, follow=False)
        if entry.kind is Kind.DIR and source != target and target[: len(source)] == source:
            raise FsError.at(
                os.fspath(src),
                "Cannot move a directory into itself",
                os.fspath(dst),
                code=errno.EINVAL,
            )
        if tree.lookup(target) is not None:
            raise FsExistsError.at(os.fspath(src), other=os.fspath(dst))
        self._directory(tree, target[:-1], dst)
        self.client.record(Move(source, target, entry.id))

    @retrying
    def delete(self, path: Path) -> None:
        """Delete a file or link; see `Filesystem.delete`."""
        tree = self.client.tree()
        where = self._resolve(tree, path, follow=False)
        entry = self._existing(tree, where, path)
        if entry.kind is Kind.DIR:
            raise FsIsADirectoryError.at(os.fspath(path))
        self.client.record(Remove(where, entry.version))

    def truncate(self, path: Path, size: int) -> None:
        """Shorten or extend a file; see `Filesystem.truncate`."""
        if size < 0:
            raise InvalidArgumentError(f"negative size {size}")
        with self.open(path, "r+b", buffering=0) as file:
            file.truncate(size)

    @retrying
    def get_entry(self, path: Path) -> DirEntry:
        """Return what is known of an entry; see `Filesystem.get_entry`."""
        tree = self.client.tree()
        where = self._resolve(tree, path, follow=False)
        entry = self.client.view.sized(self._existing(tree, where, path))
        return DirEntry.of(where[-1] if where != self.root else "", entry)

    @retrying
    def statistics(self) -> FilespaceStatistics:
        """Return counters; costs nothing, they are kept in the metadata."""
        found = self.client.tree().summary(self.root)
        kinds = {kind: found.get(kind, 0) for kind in ("files", "dirs", "links", "externals")}
        return FilespaceStatistics(
            entries_count=sum(kinds.values()),
            data_size=found.get("bytes", 0) + self.client.contents.unsized(),
            external_files_count=kinds["externals"],
            external_files_size=found.get("external_bytes", 0),
            file_count=kinds["files"],
            directory_count=kinds["dirs"],
            symlink_count=kinds["links"],
        )

    @retrying
    def file_exists(self, path: Path) -> bool:
        """Return whether `path` leads to a file."""
        return self._kind(path) in (Kind.FILE, Kind.EXTERNAL)

    @retrying
    def dir_exists(self, path: Path) -> bool:
        """Return whether `path` leads to a directory."""
        return self._kind(path) is Kind.DIR

    @retrying
    def create_symlink(self, target_path: Path, link_path: Path) -> None:
        """Create a symbolic link; see `Filesystem.create_symlink`."""
        target = os.fspath(target_path)
        if not target:
            raise InvalidArgumentError("a symbolic link needs a target")
        split(target)
        self.client.record(Put(self.free(link_path), new_entry(Kind.LINK, target=target)))

    @retrying
    def read_symlink(self, link_path: Path) -> str:
        """Return where a symbolic link leads; see `Filesystem.read_symlink`."""
        tree = self.client.tree()
        entry = self._existing(tree, self._resolve(tree, link_path, follow=False), link_path)
        if entry.kind is not Kind.LINK:
            raise FsError.at(os.fspath(link_path), "Not a symbolic link", code=errno.EINVAL)
        return entry.target

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
        """Open a file; see `Filesystem.open`.

        An exclusive lock is how clients take turns at changing a file. So that the next holder
        finds what this one wrote, closing publishes the change of this file (and what it stands
        on, such as a new directory) before the lock is let go, and taking a lock refreshes.
        """
        layers = (mode, buffering, encoding, errors, newline)
        return self._files.open(self, path, layers, lock_type, lock_timeout)

    def read_file(self, path: Path) -> bytes:
        """Return the whole content of a file, its digest verified.

        Raises
        ------
        FsContentError
            If the content in the hub is short or damaged.
        """
        return self._files.read(self, path)

    def write_file(self, path: Path, data: Any) -> None:
        """Make `data` the whole content of a file, at once; see `Filesystem.write_file`."""
        self.write_buffers(path, [data])

    def write_buffers(self, path: Path, buffers: Iterable[Any], *, replaces: bool = False) -> None:
        """Make the concatenation of `buffers` the content of a file without joining them."""
        views = [memoryview(buffer) for buffer in buffers]
        views = [view.cast("B") for view in views if view.nbytes]
        where, _ = self.writable(path)
        content = self.client.contents.store(views, join(where[1:]))
        try:
            self.assign(path, content, replaces=replaces)
        except BaseException:
            self.client.contents.discard([content])
            raise

    def content(self, path: Path) -> Content:
        """Return size, digest and place of a content; see `Filesystem.content`."""
        return self._files.content(self, path)

    def view(self, path: Path, *, writable: bool = False) -> memoryview:
        """Return the content of a file, mapped if it can be; see `Filesystem.view`."""
        return self._files.view(self, path, writable)

    # What open files and data stores need of paths.

    @retrying
    def lookup(self, path: Path) -> tuple[Parts, Entry]:
        """Return where the file at `path` is, links followed, and its entry."""
        tree = self.client.tree()
        where = self._resolve(tree, path)
        entry = self._existing(tree, where, path)
        if entry.kind is Kind.DIR:
            raise FsIsADirectoryError.at(os.fspath(path))
        return where, entry

    @retrying
    def writable(self, path: Path) -> tuple[Parts, Entry | None]:
        """Return where a file can be written at `path`, and what is there; raise if it cannot."""
        return self._writable(self.client.tree(), path)

    def _writable(self, tree: Tree, path: Path) -> tuple[Parts, Entry | None]:
        where = self._resolve(tree, path)
        entry = tree.lookup(where)
        if where == self.root:
            raise FsIsADirectoryError.at(os.fspath(path))
        if entry is None:
            self._directory(tree, where[:-1], path)
        elif entry.kind is Kind.DIR:
            raise FsIsADirectoryError.at(os.fspath(path))
        elif entry.kind is Kind.EXTERNAL:
            raise FsPermissionError.at(os.fspath(path))
        return where, entry

    @retrying
    def free(self, path: Path) -> Parts:
        """Return where something new can be put at `path`; raise if it cannot."""
        tree = self.client.tree()
        where = self._resolve(tree, path, follow=False)
        if tree.lookup(where) is not None:
            raise FsExistsError.at(os.fspath(path))
        self._directory(tree, where[:-1], path)
        return where

    @retrying
    def assign(self, path: Path, content: str, *, replaces: bool = False) -> None:
        """Give the name `path` to a pending content; the file keeps its identity."""
        self.client.check()
        # What others have changed was brought in before the content was written.
        where, old = self._writable(self.client.view.working, path)
        pending = self.client.contents.get(content)
        assert pending is not None
        entry = old if old is not None else new_entry(Kind.FILE, created=pending.modified)
        entry = replace(
            entry,
            content=content,
            size=pending.size,
            digest=pending.digest,
            modified=pending.modified,
        )
        expect = old.version if old is not None else None
        self.client.record(Put(where, entry, expect, replaces=replaces))

    @retrying
    def resolve(self, path: Path) -> Parts:
        """Return where `path` leads."""
        return self._resolve(self.client.tree(), path)

    def shown(self, where: Parts) -> str:
        """Return `where` as a path of this file system."""
        return join(where[len(self.root) :])

    def missing_dirs(self, tree: Tree, where: Parts) -> list[Op]:
        """Return the changes that make `where` a directory, parents first."""
        missing: list[Op] = []
        for depth in range(len(self.root), len(where) + 1):
            entry = tree.lookup(where[:depth])
            if entry is None:
                missing.append(Put(where[:depth], new_entry(Kind.DIR)))
            elif entry.kind is not Kind.DIR:
                raise FsNotADirectoryError.at(self.shown(where))
        return missing

    def _kind(self, path: Path) -> Kind | None:
        tree = self.client.tree()
        entry = tree.lookup(self._resolve(tree, path))
        return entry.kind if entry is not None else None

    def _resolve(self, tree: Tree, path: Path, follow: bool = True) -> Parts:
        """Return where `path` leads; with `follow` also if its last name is a symbolic link.

        ``..`` and absolute links stop at the root of the link, which is therefore not left.
        """
        done = list(self.root)
        todo = list(reversed(split(path)))
        hops = 0
        while todo:
            name = todo.pop()
            if name == "..":
                del done[max(len(self.root), len(done) - 1) :]
                continue
            done.append(name)
            entry = tree.lookup(tuple(done)) if todo or follow else None
            if entry is None or entry.kind is not Kind.LINK:
                continue
            hops += 1
            if hops > MAX_LINKS:
                message = "Too many levels of symbolic links"
                raise FsError.at(os.fspath(path), message, code=errno.ELOOP)
            done.pop()
            if entry.target.startswith("/"):
                del done[len(self.root) :]
            todo.extend(reversed(split(entry.target)))
        return tuple(done)

    def _existing(self, tree: Tree, where: Parts, path: Path) -> Entry:
        entry = tree.lookup(where)
        if entry is None:
            self._directory(tree, where[:-1], path)
            raise FsNotFoundError.at(os.fspath(path))
        return entry

    def _directory(self, tree: Tree, where: Parts, path: Path) -> Entry:
        """Return the directory `where`; the errors name `path`, which leads there."""
        for depth in range(1, len(where) + 1):
            entry = tree.lookup(where[:depth])
            if entry is None:
                raise FsNotFoundError.at(os.fspath(path))
            if entry.kind is not Kind.DIR:
                raise FsNotADirectoryError.at(os.fspath(path))
        assert entry is not None
        return entry
