"""Everything a filespace raises on purpose.

One tree; a path error is also the matching builtin, so code written for files keeps working::

    FilespaceError
    ├── InvalidArgumentError            (ValueError)        a value that makes no sense
    ├── FilespaceNotFoundError          (KeyError)          the workspace has no such filespace
    ├── FilespaceExistsError                                a filespace of that name exists
    ├── FilespaceNotLinkedError         (RuntimeError)      used after ``unlink()`` or in a fork
    ├── FilespaceSyncError              (RuntimeError)      pending changes did not reach the hub
    ├── HubError
    │   ├── HubUnavailableError         (ConnectionError)   the hub does not answer
    │   ├── HubCorruptError                                 metadata in the hub is damaged
    │   └── HubUnsupportedError                             the hub cannot publish atomically
    ├── MissingDependencyError          (ImportError)       an optional package is not installed
    ├── UnsupportedOperationError                           not possible with what is behind it
    ├── FsError                         (OSError)           an operation on a path failed
    │   ├── FsNotFoundError             (FileNotFoundError)
    │   ├── FsExistsError               (FileExistsError)
    │   ├── FsNotADirectoryError        (NotADirectoryError)
    │   ├── FsIsADirectoryError         (IsADirectoryError)
    │   ├── FsDirectoryNotEmptyError                        ENOTEMPTY
    │   ├── FsPermissionError           (PermissionError)   EROFS: an external file is read-only
    │   ├── FsLockedError                                   EBUSY: another handle holds the lock
    │   ├── FsNoSpaceError                                  ENOSPC
    │   └── FsContentError                                  EIO: content short, damaged or gone
    └── ConnectError                                        data stores and external files
        ├── DataStoreNotFoundError      (KeyError)
        ├── DataStoreExistsError
        ├── DataStoreInUseError                             files are still linked from it
        ├── DataStoreCredentialsError                       missing or rejected credentials
        └── ExternalStoreError          (FsError)           EIO
            ├── ExternalObjectNotFoundError                 never FileNotFoundError: the path exists
            ├── ExternalObjectChangedError                  not the object that was linked
            └── ExternalStoreUnavailableError (ConnectionError)

The names are those of the LucidLink SDK 1.0 where it has one for the condition.
"""

from __future__ import annotations

import errno
from typing import ClassVar, Self

__all__ = [
    "ConnectError",
    "DataStoreCredentialsError",
    "DataStoreExistsError",
    "DataStoreInUseError",
    "DataStoreNotFoundError",
    "ExternalObjectChangedError",
    "ExternalObjectNotFoundError",
    "ExternalStoreError",
    "ExternalStoreUnavailableError",
    "FilespaceError",
    "FilespaceExistsError",
    "FilespaceNotFoundError",
    "FilespaceNotLinkedError",
    "FilespaceSyncError",
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
    "MissingDependencyError",
    "UnsupportedOperationError",
]


class FilespaceError(Exception):
    """Root of every exception a filespace raises on purpose."""


class InvalidArgumentError(FilespaceError, ValueError):
    """An argument has a value that makes no sense: a mode, a name, a path."""


class _PlainKeyError(FilespaceError, KeyError):
    """A ``KeyError`` whose text is the message, not its ``repr``."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class FilespaceNotFoundError(_PlainKeyError):
    """The workspace has no filespace of this name or id."""


class FilespaceExistsError(FilespaceError):
    """The workspace has a filespace of this name already."""


class FilespaceNotLinkedError(FilespaceError, RuntimeError):
    """The filespace was unlinked, or was linked by another process; link it again."""


class FilespaceSyncError(FilespaceError, RuntimeError):
    """Pending changes did not reach the hub; they are kept and ``sync_all()`` can be retried."""


class HubError(FilespaceError):
    """The hub, where a workspace keeps metadata and content, cannot do what was asked."""


class HubUnavailableError(HubError, ConnectionError):
    """The hub does not answer, or did not in time; nothing was published."""


class HubCorruptError(HubError):
    """Metadata in the hub is damaged or of an unknown format."""


class HubUnsupportedError(HubError):
    """The storage behind the hub URL cannot replace one object atomically on a condition."""


class MissingDependencyError(FilespaceError, ImportError):
    """An optional package that this feature stands on is not installed."""


class UnsupportedOperationError(FilespaceError):
    """The call is not possible with what is behind the filespace."""


class FsError(FilespaceError, OSError):
    """An operation on a path failed: ``errno``, ``strerror``, ``filename`` as with ``OSError``.

    Examples
    --------
    >>> print(FsNotFoundError.at("/data/x"))
    [Errno 2] No such file or directory: '/data/x'
    """

    default_errno: ClassVar[int] = errno.EIO
    default_message: ClassVar[str] = "Input/output error"

    @classmethod
    def at(
        cls, path: str, message: str | None = None, other: str | None = None, code: int = 0
    ) -> Self:
        """Return the error for `path` (and `other`, for two-path calls)."""
        text = message or cls.default_message
        if other is None:
            return cls(code or cls.default_errno, text, path)
        return cls(code or cls.default_errno, text, path, None, other)


class FsNotFoundError(FsError, FileNotFoundError):
    """The path, or the directory it would be created in, does not exist (``ENOENT``)."""

    default_errno = errno.ENOENT
    default_message = "No such file or directory"


class FsExistsError(FsError, FileExistsError):
    """The path exists and would have to be overwritten (``EEXIST``)."""

    default_errno = errno.EEXIST
    default_message = "File exists"


class FsNotADirectoryError(FsError, NotADirectoryError):
    """A directory was expected (``ENOTDIR``)."""

    default_errno = errno.ENOTDIR
    default_message = "Not a directory"


class FsIsADirectoryError(FsError, IsADirectoryError):
    """A file was expected but the path is a directory (``EISDIR``)."""

    default_errno = errno.EISDIR
    default_message = "Is a directory"


class FsDirectoryNotEmptyError(FsError):
    """The directory has entries and the deletion is not recursive (``ENOTEMPTY``)."""

    default_errno = errno.ENOTEMPTY
    default_message = "Directory not empty"


class FsPermissionError(FsError, PermissionError):
    """The path may not be changed: ``EROFS`` for an external file."""

    default_errno = errno.EROFS
    default_message = "An external file is read-only"


class FsLockedError(FsError):
    """Another open file holds a conflicting lock on the path (``EBUSY``)."""

    default_errno = errno.EBUSY
    default_message = "Another client holds a lock on the file"


class FsNoSpaceError(FsError):
    """There is no room left for the content (``ENOSPC``)."""

    default_errno = errno.ENOSPC
    default_message = "No space left"


class FsContentError(FsError):
    """The content of a file is short, damaged or gone (``EIO``)."""


class ConnectError(FilespaceError):
    """An operation on data stores or external files failed."""


class DataStoreNotFoundError(ConnectError, _PlainKeyError):
    """The filespace has no data store of this name."""


class DataStoreExistsError(ConnectError):
    """A data store of this name exists."""


class DataStoreInUseError(ConnectError):
    """Files are still linked from the data store; unlink them first."""


class DataStoreCredentialsError(ConnectError):
    """The process has no credentials for the data store, or the data store rejects them.

    Deliberately no ``OSError``: code that probes paths would take it for a missing file.
    """


class ExternalStoreError(ConnectError, FsError):
    """The data store behind an external file failed (``EIO``)."""


class ExternalObjectNotFoundError(ExternalStoreError):
    """The object behind an external file is gone (``EIO``).

    Never a ``FileNotFoundError``: the path exists in the filespace.
    """

    default_message = "The object behind this external file does not exist"


class ExternalObjectChangedError(ExternalStoreError):
    """The object behind an external file is not the one that was linked (``EIO``)."""

    default_message = "The object behind this external file has changed since it was linked"


class ExternalStoreUnavailableError(ExternalStoreError, ConnectionError):
    """The data store is unreachable, throttles or fails; retry later (``EIO``)."""

    default_message = "The data store does not answer"
