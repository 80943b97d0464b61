"""Everything a maildir store raises on purpose.

One tree, so that ``except MaildirError`` catches all of it::

    MaildirError
    ├── StoreClosedError           (ValueError)         the store object was closed
    ├── UnknownSectionError        (ValueError)         a section other than tmp, new, cur
    ├── InvalidNameError           (ValueError)         a name that no file of the store can have
    ├── InvalidDataError           (TypeError)          data that is not bytes-like
    ├── ClaimLostError             (LookupError)        the message is not claimed, or not any more
    ├── TopicEndedError            (ValueError)         nothing is appended to the topic any more
    └── StoreIOError               (OSError)            the file system refused; see ``errno``
        ├── StoreFullError                              no room left: ENOSPC, EDQUOT, EFBIG
        ├── StoreAccessError       (PermissionError)    not this user's to read or write
        ├── StoreNotPreparedError  (FileNotFoundError)  no such store; ``prepare()`` makes it
        ├── FileMissingError       (FileNotFoundError)  no such file in the section
        └── NameTakenError         (FileExistsError)    another file has the name

Each is the builtin exception a reader would expect as well, so existing handlers keep working.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
from collections.abc import Iterator
from typing import Any

__all__ = [
    "ClaimLostError",
    "FileMissingError",
    "InvalidDataError",
    "InvalidNameError",
    "MaildirError",
    "NameTakenError",
    "StoreAccessError",
    "StoreClosedError",
    "StoreFullError",
    "StoreIOError",
    "StoreNotPreparedError",
    "TopicEndedError",
    "UnknownSectionError",
]


class MaildirError(Exception):
    """Root of every exception a maildir store raises on purpose.

    Parameters
    ----------
    message
        What went wrong, in a few words.
    store
        The path of the store.
    name
        The name of the file or message concerned, if it is about one.
    remedy
        What the caller can do about it.

    Examples
    --------
    >>> print(FileMissingError("no such file in cur", store="/srv/queue", name="a-file"))
    no such file in cur; store /srv/queue; name 'a-file'
    """

    def __init__(
        self,
        message: str = "",
        *,
        store: str | None = None,
        name: object = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.store = store
        self.name = name
        self.remedy = remedy

    def __str__(self) -> str:
        parts = [self.message]
        if self.store is not None:
            parts.append(f"store {self.store}")
        if self.name is not None:
            parts.append(f"name {self.name!r}")
        if self.remedy is not None:
            parts.append(self.remedy)
        return "; ".join(parts)

    def _keywords(self) -> dict[str, Any]:
        return {"store": self.store, "name": self.name, "remedy": self.remedy}

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions cross process boundaries; the default would lose what was given by keyword.
        return functools.partial(type(self), **self._keywords()), (self.message,)


class StoreClosedError(MaildirError, ValueError):
    """The store object was closed; the store itself is as it was."""


class UnknownSectionError(MaildirError, ValueError):
    """A section is one of ``tmp``, ``new`` and ``cur``."""


class InvalidNameError(MaildirError, ValueError):
    """No file of the store can have this name; it might even lead out of the store."""


class InvalidDataError(MaildirError, TypeError):
    """Neither bytes-like and contiguous, nor a sequence of such."""


class ClaimLostError(MaildirError, LookupError):
    """The message is not claimed (any more): acknowledged, released, or recovered meanwhile.

    After a recovery another consumer may be at work on it, so the claim is not taken back.
    """


class TopicEndedError(MaildirError, ValueError):
    """Somebody has said that nothing is appended to the topic any more."""


class StoreIOError(MaildirError, OSError):
    """The file system refused; ``errno`` says why.

    Parameters
    ----------
    message, **context
        As for `MaildirError`.
    number
        The ``errno``.
    """

    def __init__(self, message: str = "", *, number: int = errno.EIO, **context: Any) -> None:
        super().__init__(message, **context)
        self.errno = number
        self.strerror = os.strerror(number)

    def _keywords(self) -> dict[str, Any]:
        return {**super()._keywords(), "number": self.errno}


class StoreFullError(StoreIOError):
    """There is no room for the file; what had been written of it is gone."""


class StoreAccessError(StoreIOError, PermissionError):
    """What this user may not do in the store."""


class StoreNotPreparedError(StoreIOError, FileNotFoundError):
    """There is no store at the path; ``prepare()`` makes one."""


class FileMissingError(StoreIOError, FileNotFoundError):
    """There is no such file in the section."""


class NameTakenError(StoreIOError, FileExistsError):
    """Another file has this name, and would be lost."""


_BY_ERRNO: dict[int, tuple[type[StoreIOError], str | None]] = {
    errno.ENOSPC: (StoreFullError, "remove files or make room on the file system"),
    errno.EDQUOT: (StoreFullError, "remove files or raise the quota"),
    errno.EFBIG: (StoreFullError, "raise the limit of file sizes (RLIMIT_FSIZE)"),
    errno.EACCES: (StoreAccessError, "check the owner and mode of the store"),
    errno.EPERM: (StoreAccessError, "check the owner and mode of the store"),
    errno.ENOENT: (FileMissingError, None),
    errno.EEXIST: (NameTakenError, None),
    errno.ELOOP: (StoreIOError, "symbolic links are not followed"),
}


def io_error(error: OSError, action: str, *, store: str, name: object = None) -> MaildirError:
    """Translate what the system said while doing `action`.

    Examples
    --------
    >>> io_error(OSError(28, "No space left on device"), "write", store="/srv/queue")
    StoreFullError('cannot write: No space left on device')
    """
    number = error.errno or errno.EIO
    message = f"cannot {action}: {os.strerror(number)}"
    if number == errno.ENAMETOOLONG:
        return InvalidNameError(message, store=store, name=name, remedy="use a shorter name")
    kind, remedy = _BY_ERRNO.get(number, (StoreIOError, None))
    return kind(message, store=store, name=name, remedy=remedy, number=number)


@contextlib.contextmanager
def io_errors(action: str, *, store: str, name: object = None) -> Iterator[None]:
    """Translate what the system says within the block; see `io_error`."""
    try:
        yield
    except MaildirError:
        raise
    except OSError as error:
        raise io_error(error, action, store=store, name=name) from error
