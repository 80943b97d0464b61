"""Filespaces: shared files whose changes are private until they are published.

A workspace has filespaces, each kept in a hub: a directory, or a bucket of an object store. A
client links a filespace, works on it as on a file system, sees its own changes at once, and
publishes them with ``sync_all()``: all of them in one step, contents before names. Objects in S3,
and files elsewhere, can be linked into it as read-only files.

The names and their meaning are those of LucidLink's Python SDK (``lucidlink.filespace``); the
service itself is reached through the same classes with ``Workspace.lucidlink()``.

Examples
--------
>>> workspace = Workspace("memory://docs-package", name="lab")
>>> writer = workspace.link_filespace(name="data")
>>> reader = workspace.link_filespace(name="data")
>>> writer.fs.write_file("/result.txt", b"42")
>>> reader.fs.file_exists("/result.txt")
False
>>> writer.sync_all()
>>> reader.fs.read_file("/result.txt")
b'42'
>>> writer.unlink(); reader.unlink()
"""

from __future__ import annotations

from .connect import ConnectManager
from .datastores import LocalDataStoreConfig, S3Credentials, S3DataStoreConfig
from .errors import (
    ConnectError,
    DataStoreCredentialsError,
    DataStoreExistsError,
    DataStoreInUseError,
    DataStoreNotFoundError,
    ExternalObjectChangedError,
    ExternalObjectNotFoundError,
    ExternalStoreError,
    ExternalStoreUnavailableError,
    FilespaceError,
    FilespaceExistsError,
    FilespaceNotFoundError,
    FilespaceNotLinkedError,
    FilespaceSyncError,
    FsContentError,
    FsDirectoryNotEmptyError,
    FsError,
    FsExistsError,
    FsIsADirectoryError,
    FsLockedError,
    FsNoSpaceError,
    FsNotADirectoryError,
    FsNotFoundError,
    FsPermissionError,
    HubCorruptError,
    HubError,
    HubUnavailableError,
    HubUnsupportedError,
    InvalidArgumentError,
    MissingDependencyError,
    UnsupportedOperationError,
)
from .filespace import Filespace
from .filesystem import Filesystem
from .models import (
    Conflict,
    Content,
    DataStoreInfo,
    DirEntry,
    FilespaceInfo,
    FilespaceStatistics,
    LinkedFile,
    LinkedFilesResult,
    SyncMode,
)
from .workspace import Workspace

__all__ = [
    "Conflict",
    "ConnectError",
    "ConnectManager",
    "Content",
    "DataStoreCredentialsError",
    "DataStoreExistsError",
    "DataStoreInUseError",
    "DataStoreInfo",
    "DataStoreNotFoundError",
    "DirEntry",
    "ExternalObjectChangedError",
    "ExternalObjectNotFoundError",
    "ExternalStoreError",
    "ExternalStoreUnavailableError",
    "Filespace",
    "FilespaceError",
    "FilespaceExistsError",
    "FilespaceInfo",
    "FilespaceNotFoundError",
    "FilespaceNotLinkedError",
    "FilespaceStatistics",
    "FilespaceSyncError",
    "Filesystem",
    "FsContentError",
    "FsDirectoryNotEmptyError",
    "FsError",
    "FsExistsError",
    "FsIsADirectoryError",
    "FsLockedError",
    "FsNoSpaceError",
    "FsNotADirectoryError",
    "FsNotFoundError",
    "FsPermissionError",
    "HubCorruptError",
    "HubError",
    "HubUnavailableError",
    "HubUnsupportedError",
    "InvalidArgumentError",
    "LinkedFile",
    "LinkedFilesResult",
    "LocalDataStoreConfig",
    "MissingDependencyError",
    "S3Credentials",
    "S3DataStoreConfig",
    "SyncMode",
    "UnsupportedOperationError",
    "Workspace",
]
