"""The values a filespace hands out: entries, listings, statistics."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from .entry import Entry, Kind

__all__ = [
    "Conflict",
    "Content",
    "DataStoreInfo",
    "DirEntry",
    "FilespaceInfo",
    "FilespaceStatistics",
    "LinkedFile",
    "LinkedFilesResult",
    "SyncMode",
]


class SyncMode(Enum):
    """Whether unlinking a filespace publishes what is pending."""

    SYNC_NONE = "none"
    """Only ``sync_all()`` publishes; what is pending at ``unlink()`` is given up."""

    SYNC_ALL = "all"
    """``unlink()`` and leaving the ``with`` block call ``sync_all()`` first."""


@dataclass(frozen=True, slots=True)
class DirEntry:
    """One name in a directory, as ``read_dir()`` and ``get_entry()`` return it.

    `entry_id` stays with the file when it is moved; `digest` is the XXH3-128 of the content (for
    an external file the checksum it was linked with, for a file being written nothing).
    """

    name: str
    type: str
    """``"file"``, ``"dir"`` or ``"link"``."""
    size: int
    ctime: float
    """When it was created, in seconds since the epoch."""
    mtime: float
    """When it was last modified, in seconds since the epoch."""
    entry_id: str
    digest: str = ""
    data_store: str = ""
    """The data store of an external file."""

    def is_file(self) -> bool:
        """Return whether this is a file, external ones included."""
        return self.type == "file"

    def is_dir(self) -> bool:
        """Return whether this is a directory."""
        return self.type == "dir"

    def is_link(self) -> bool:
        """Return whether this is a symbolic link."""
        return self.type == "link"

    def is_external(self) -> bool:
        """Return whether the bytes of this file are an object of a data store."""
        return bool(self.data_store)

    @classmethod
    def of(cls, name: str, entry: Entry) -> DirEntry:
        """Return what users see of `entry`."""
        kind = Kind.FILE if entry.kind is Kind.EXTERNAL else entry.kind
        return cls(
            name=name,
            type=kind.value,
            size=entry.size,
            ctime=entry.created / 1e9,
            mtime=entry.modified / 1e9,
            entry_id=entry.id,
            digest=entry.digest,
            data_store=entry.store,
        )


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a file: how long, which digest, and where if it is a file of this host.

    `digest` is the XXH3-128 of a file's content (nothing while it is being written), and the
    checksum an external file was linked with. The file at `local_path` is never changed: it may
    be mapped, and must not be written.
    """

    size: int
    digest: str
    local_path: str | None = None


@dataclass(frozen=True, slots=True)
class FilespaceInfo:
    """A filespace of a workspace."""

    id: str
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class FilespaceStatistics:
    """Counters over a whole filespace; external files are counted apart from files.

    Those by kind are ``None`` where what is behind the filespace does not count by kind.
    """

    entries_count: int
    data_size: int
    external_files_count: int
    external_files_size: int
    file_count: int | None = None
    directory_count: int | None = None
    symlink_count: int | None = None


@dataclass(frozen=True, slots=True)
class Conflict:
    """A change that found its name taken by another client's, and the name it took instead."""

    path: str
    renamed: str

    def __str__(self) -> str:
        return f"{self.path} was changed by another client too; this one's is {self.renamed}"


@dataclass(frozen=True, slots=True)
class DataStoreInfo:
    """A data store; holds no secret."""

    name: str
    kind: str
    """``"s3"`` or ``"local"``."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Bucket, region, endpoint and so on, or the root directory."""
    credentials: str = ""
    """Where the credentials come from: environment variables, or the process that gave them."""


@dataclass(frozen=True, slots=True)
class LinkedFile:
    """An external file: its path, and the object behind it."""

    path: str
    entry_id: str
    object_id: str


@dataclass(frozen=True, slots=True)
class LinkedFilesResult:
    """A page of external files; pass `cursor` to the next call while `has_more`."""

    entries: list[LinkedFile]
    has_more: bool = False
    cursor: str = ""
