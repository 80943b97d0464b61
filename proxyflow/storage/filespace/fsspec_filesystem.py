"""Filespaces as an fsspec file system: ``filespace://WORKSPACE/FILESPACE/path``.

So pandas, Dask, Arrow and everything else that speaks fsspec reads and writes filespaces. It is
registered with fsspec under the protocol ``filespace`` when the package is installed.
"""

from __future__ import annotations

import io
import os
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ClassVar

from fsspec.spec import AbstractFileSystem  # type: ignore[import-untyped]
from fsspec.transaction import Transaction  # type: ignore[import-untyped]

from .errors import (
    FsExistsError,
    FsIsADirectoryError,
    FsNotFoundError,
    InvalidArgumentError,
)
from .filespace import Filespace
from .filesystem import Filesystem
from .models import DirEntry
from .streams import BUFFER_BYTES
from .workspace import Workspace

__all__ = ["FilespaceFileSystem"]


class FilespaceTransaction(Transaction):  # type: ignore[misc]
    """A transaction: files take their names, and all of it is published, when it completes."""

    def complete(self, commit: bool = True) -> None:
        """Give the files written in the block their names, or drop them; then publish."""
        fs = self.fs  # forgotten by the end of the transaction
        super().complete(commit)
        fs.sync_all()


class FilespaceFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """An fsspec file system over the filespaces of a hub.

    Every change is published when the call that makes it returns (for a file: when it is closed),
    and what others have published is seen at once. Inside ``with fs.transaction:`` all changes
    are published together at the end. Missing parent directories are made.

    Parameters
    ----------
    hub
        The hub of the workspace in the URL. Without it the environment variable
        ``FILESPACE_HUB_<WORKSPACE>`` (the name in capitals, anything but letters and digits as
        ``_``) says where that is.
    hub_options
        What a hub reached through fsspec takes.
    max_age
        For how many seconds metadata is used without asking the hub for newer.

    Examples
    --------
    >>> import fsspec
    >>> fsspec.register_implementation("filespace", FilespaceFileSystem, clobber=True)
    >>> options = {"hub": "memory://docs-fsspec"}
    >>> with fsspec.open("filespace://docs/data/a/b.txt", "w", **options) as file:
    ...     _ = file.write("text")
    >>> fs = fsspec.filesystem("filespace", **options)
    >>> fs.ls("docs/data/a", detail=False)
    ['docs/data/a/b.txt']
    >>> fs.cat("docs/data/a/b.txt")
    b'text'
    """

    protocol: ClassVar[str] = "filespace"
    root_marker: ClassVar[str] = ""
    transaction_type: ClassVar[type[Transaction]] = FilespaceTransaction

    def __init__(
        self,
        hub: str | None = None,
        hub_options: dict[str, Any] | None = None,
        max_age: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(hub=hub, hub_options=hub_options, max_age=max_age, **options)
        self._hub, self._hub_options, self._max_age = hub, hub_options, max_age
        self._pid = os.getpid()
        self._workspaces: dict[str, Workspace] = {}
        self._linked: dict[str, Filespace] = {}

    def filespace(self, path: str, create: bool = False) -> Filespace:
        """Return the filespace `path` is in, linked; with `create` it may be new.

        Raises
        ------
        FsNotFoundError
            If there is none.
        """
        workspace_name, name, _ = self._parts(path)
        if not name:
            raise FsIsADirectoryError.at(path)
        workspace = self._workspace(workspace_name)
        key = f"{workspace_name}/{name}"
        linked = self._linked.get(key)
        if linked is None or not linked.is_linked:
            if not create and workspace.find_filespace(name) is None:
                raise FsNotFoundError.at(path)
            linked = self._linked[key] = workspace.link_filespace(name=name)
        return linked

    def sync_all(self) -> None:
        """Publish what is pending in all filespaces used so far."""
        for filespace in self._linked.values():
            filespace.sync_all()

    def close(self) -> None:
        """Publish what is pending and unlink; the file system can be used again."""
        for workspace in self._workspaces.values():
            workspace.stop()
        self._workspaces, self._linked = {}, {}

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """Return the entries of a directory, or the one of a file."""
        path = self._strip_protocol(path)
        workspace, name, below = self._parts(path)
        if not name:
            found = [
                {"name": f"{workspace}/{info.name}", "size": 0, "type": "directory"}
                for info in self._workspace(workspace).list_filespaces()
            ]
        else:
            fs = self.filespace(path).fs
            if fs.dir_exists(below):
                entries = fs.read_dir(below)
                found = [self._facts(fs, f"{path}/{one.name}", one) for one in entries]
            else:
                found = [self.info(path)]
        return found if detail else [one["name"] for one in found]

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Return what is known of a path; of a symbolic link, what it leads to."""
        path = self._strip_protocol(path)
        workspace, name, below = self._parts(path)
        if not name:
            self._workspace(workspace)
            return {"name": path, "size": 0, "type": "directory"}
        fs = self.filespace(path).fs
        return self._facts(fs, path, fs.get_entry(below))

    def ukey(self, path: str) -> str:
        """Return what changes whenever the content of `path` does."""
        info = self.info(path)
        return f"{info['entry_id']}-{info['digest']}-{info['size']}"

    def created(self, path: str) -> datetime:
        """Return when `path` was created."""
        return datetime.fromtimestamp(self.info(path)["created"], UTC)

    def modified(self, path: str) -> datetime:
        """Return when `path` was last modified."""
        return datetime.fromtimestamp(self.info(path)["mtime"], UTC)

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        """Create a directory, or a filespace."""
        path = self._strip_protocol(path)
        workspace, name, below = self._parts(path)
        if below == "/":
            self._workspace(workspace).create_filespace(name)
            return
        fs = self.filespace(path, create=create_parents).fs
        if not create_parents and not fs.dir_exists(below.rpartition("/")[0] or "/"):
            raise FsNotFoundError.at(path)
        fs.create_dir(below)
        self._publish(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Create a directory and its parents."""
        if self.isdir(path):
            if not exist_ok:
                raise FsExistsError.at(path)
            return
        self.mkdir(path)

    def rmdir(self, path: str) -> None:
        """Delete an empty directory."""
        path = self._strip_protocol(path)
        self.filespace(path).fs.delete_dir(self._parts(path)[2])
        self._publish(path)

    def rm_file(self, path: str) -> None:
        """Delete a file."""
        path = self._strip_protocol(path)
        self.filespace(path).fs.delete(self._parts(path)[2])
        self._publish(path)

    def rm(
        self, path: str | list[str], recursive: bool = False, maxdepth: int | None = None
    ) -> None:
        """Delete files, and with `recursive` directories; published together."""
        for one in reversed(self.expand_path(path, recursive=recursive, maxdepth=maxdepth)):
            fs, below = self.filespace(one).fs, self._parts(one)[2]
            if fs.get_entry(below).is_dir():
                fs.delete_dir(below)
            else:
                fs.delete(below)
        self._publish_all()

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Copy a file, or make the directory that a directory is copied to."""
        path1, path2 = self._strip_protocol(path1), self._strip_protocol(path2)
        if self.isdir(path1):
            self.makedirs(path2, exist_ok=True)
            return
        data = self.filespace(path1).fs.view(self._parts(path1)[2])
        target, below = self._prepared(path2)
        target.write_file(below, data)
        self._publish(path2)

    def mv(
        self,
        path1: str,
        path2: str,
        recursive: bool = False,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Move a file or directory; within a filespace nothing is copied."""
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        if self._parts(source)[:2] != self._parts(target)[:2] or maxdepth is not None:
            super().mv(path1, path2, recursive=recursive, maxdepth=maxdepth, **kwargs)
            return
        if source == target:
            return
        # Raises if there is nothing to move, before the target makes room for it.
        moved = self.filespace(source).fs.get_entry(self._parts(source)[2])
        if self.isdir(target):
            target = f"{target}/{source.rpartition('/')[2]}"
        fs, below = self._prepared(target)
        if fs.file_exists(below) and not self.isdir(source):
            if fs.get_entry(below).entry_id == moved.entry_id:
                return  # one file by two paths, as a link leads to its directory
            fs.delete(below)  # published together with the move: nobody sees it missing
        fs.move(self._parts(source)[2], below)
        self._publish(target)

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        if mode == "rb":
            raw = self.filespace(path).fs.open(self._parts(path)[2], "rb", buffering=0)
            return ReadFile(raw, BUFFER_BYTES) if isinstance(raw, io.RawIOBase) else raw
        fs, below = self._prepared(path)
        if "x" in mode:
            if self.exists(path):
                raise FsExistsError.at(path)
            mode = mode.replace("x", "w")
        if autocommit:
            return WrittenFile(fs, below, below, mode, lambda: self._publish(path))
        hidden = f"{below.rpartition('/')[0]}/.{uuid.uuid4().hex}"
        return WrittenFile(fs, hidden, below, mode, lambda: None)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        stripped = super()._strip_protocol(path)
        return stripped.strip("/") if isinstance(stripped, str) else stripped

    def _workspace(self, name: str) -> Workspace:
        if not name:
            raise InvalidArgumentError("a path of the form WORKSPACE/FILESPACE/path is needed")
        if self._pid != os.getpid():
            # After a fork the links are the parent's.
            self._pid, self._workspaces, self._linked = os.getpid(), {}, {}
        if name not in self._workspaces:
            self._workspaces[name] = self._opened(name)
        return self._workspaces[name]

    def _opened(self, name: str) -> Workspace:
        variable = "FILESPACE_HUB_" + re.sub(r"[^A-Z0-9]", "_", name.upper())
        hub = self._hub or os.environ.get(variable)
        if not hub:
            raise InvalidArgumentError(
                f"where is workspace {name!r}? Give hub=... or set {variable}"
            )
        workspace = Workspace(hub, name, storage_options=self._hub_options, max_age=self._max_age)
        if workspace.name != name:
            raise InvalidArgumentError(f"hub {hub} is workspace {workspace.name!r}, not {name!r}")
        return workspace

    def _parts(self, path: str) -> tuple[str, str, str]:
        workspace, _, rest = self._strip_protocol(path).partition("/")
        name, _, below = rest.partition("/")
        return workspace, name, "/" + below

    def _prepared(self, path: str) -> tuple[Filesystem, str]:
        """Return where to write `path`, its directory made."""
        fs, below = self.filespace(path, create=True).fs, self._parts(path)[2]
        parent = below.rpartition("/")[0]
        if parent and not fs.dir_exists(parent):
            fs.create_dir(parent)
        return fs, below

    def _facts(self, fs: Filesystem, path: str, entry: DirEntry) -> dict[str, Any]:
        facts = {
            "name": path,
            "size": entry.size,
            "type": "directory" if entry.is_dir() else "file",
            "created": entry.ctime,
            "mtime": entry.mtime,
            "islink": entry.is_link(),
            "entry_id": entry.entry_id,
            "digest": entry.digest,
        }
        if entry.is_link():
            below = self._parts(path)[2]
            if fs.dir_exists(below):
                facts["type"] = "directory"
            elif fs.file_exists(below):
                content = fs.content(below)
                facts |= {"size": content.size, "digest": content.digest}
            else:
                facts["type"] = "link"
        return facts

    def _publish(self, path: str) -> None:
        if not self._intrans:
            self.filespace(path).sync_all()

    def _publish_all(self) -> None:
        if not self._intrans:
            self.sync_all()


class ReadFile(io.BufferedReader):
    """A file being read; closed without a warning when nobody has it any more.

    Arrow drops the files it opens through fsspec, whose own files do not warn about that.
    """

    def __del__(self) -> None:
        self.close()


class WrittenFile(io.BufferedRandom):
    """A file being written; in a transaction under a hidden name until `commit`."""

    def __init__(
        self, fs: Filesystem, path: str, final: str, mode: str, publish: Callable[[], None]
    ) -> None:
        update = mode if "+" in mode else mode.replace("b", "") + "+b"
        super().__init__(fs.open(path, update, buffering=0), BUFFER_BYTES)  # type: ignore[arg-type]
        self._fs, self._path, self._final, self._publish = fs, path, final, publish
        self.path = final

    def close(self) -> None:
        """Close the file and publish it."""
        if not self.closed:
            super().close()
            self._publish()

    def commit(self) -> None:
        """Give the file its name; called at the end of a transaction."""
        if self._path != self._final:
            if self._fs.file_exists(self._final):
                self._fs.delete(self._final)
            self._fs.move(self._path, self._final)

    def discard(self) -> None:
        """Delete the file; called when a transaction is given up."""
        if self._path != self._final:
            self._fs.delete(self._path)
