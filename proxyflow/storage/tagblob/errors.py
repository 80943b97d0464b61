"""Everything the tag/blob store raises on purpose.

One tree; each error keeps the HTTP status a DDFS master answers in the same case, so code that
looks at ``error.code`` works on every engine::

    DDFSError                        (alias CommError, the name in disco.error)
    ├── ConfigError                  (ValueError)       a master, volume or setting makes no sense
    ├── MissingDependencyError       (ImportError)      an optional package is not installed
    ├── RecordTooLarge               (ValueError)       a record above max_record_size
    ├── Unauthorized            401  (PermissionError)  the tag wants another token
    ├── Forbidden               403                     the request itself is not acceptable
    │   ├── InvalidName              (ValueError)       a tag or blob name outside the alphabet
    │   │   └── InvalidTag
    │   ├── InvalidUrls              (ValueError)       not a list of non-empty lists of strings
    │   ├── InvalidAttribute         (ValueError)       name, value or number above the limits
    │   ├── InvalidToken             (ValueError)       no text, or too long
    │   └── NotEnoughVolumes                            fewer volumes than replicas asked for
    ├── NotFound                404  (LookupError)
    │   ├── TagNotFound
    │   ├── AttributeNotFound
    │   └── BlobNotFound
    ├── TooLarge                413                     a body above the server's limit
    ├── TruncatedUpload         400                     the client sent less than it announced
    ├── ServerError             500                     the engine failed; nothing was changed
    │   ├── BlobExists                                  two writers of one blob name
    │   ├── TagDamaged                                  a tag's stored object fails its checksum
    │   └── BlobDamaged                                 a blob's bytes fail its checksum
    ├── Unsupported             501                     this engine cannot do that
    ├── Unavailable             503  (ConnectionError)  a volume or server does not answer
    └── StoreFull               507  (OSError, ENOSPC)  no room left on a volume
"""

# ruff: noqa: N818 - the names are those of the HTTP statuses and of the things not found.

from __future__ import annotations

import errno
from typing import Any

__all__ = [
    "AttributeNotFound",
    "BlobDamaged",
    "BlobExists",
    "BlobNotFound",
    "CommError",
    "ConfigError",
    "DDFSError",
    "Forbidden",
    "InvalidAttribute",
    "InvalidName",
    "InvalidTag",
    "InvalidToken",
    "InvalidUrls",
    "MissingDependencyError",
    "NotEnoughVolumes",
    "NotFound",
    "RecordTooLarge",
    "ServerError",
    "StoreFull",
    "TagDamaged",
    "TagNotFound",
    "TooLarge",
    "TruncatedUpload",
    "Unauthorized",
    "Unavailable",
    "Unsupported",
    "error_for_status",
]


class DDFSError(Exception):
    """Root of the tree: a store could not do what it was asked.

    Parameters
    ----------
    msg
        What went wrong, in one sentence.
    store
        The store as the user knows it: a master URL, a volume.
    name
        The tag, blob or attribute concerned.
    remedy
        What the user can do about it.

    Attributes
    ----------
    code : int or None
        The HTTP status of this case; ``None`` where the protocol has none.
    url : str or None
        The same as `store`, under the name ``disco.error.CommError`` gives it.

    Examples
    --------
    >>> error = TagNotFound("no such tag", store="disco://node1", name="data:log")
    >>> print(error)
    no such tag; store disco://node1; name 'data:log'
    >>> error.code
    404
    """

    code: int | None = None

    def __init__(
        self,
        msg: str = "",
        *,
        store: str | None = None,
        name: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(msg)
        self.msg = msg
        self.store = store
        self.name = name
        self.remedy = remedy

    @property
    def url(self) -> str | None:
        """The URL."""
        return self.store

    def __str__(self) -> str:
        parts = [self.msg]
        if self.store is not None:
            parts.append(f"store {self.store}")
        if self.name is not None:
            parts.append(f"name {self.name!r}")
        if self.remedy is not None:
            parts.append(self.remedy)
        return "; ".join(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross process boundaries; the default would lose what was given by keyword.
        return (_rebuild, (type(self), self.msg, self.__dict__.copy()))


def _rebuild(cls: type[DDFSError], msg: str, state: dict[str, Any]) -> DDFSError:
    error = cls(msg)
    error.__dict__.update(state)
    return error


CommError = DDFSError


class ConfigError(DDFSError, ValueError):
    """A master address, a volume or a setting makes no sense."""


class MissingDependencyError(DDFSError, ImportError):
    """An optional package that this feature stands on is not installed."""


class RecordTooLarge(DDFSError, ValueError):
    """`chunk` met a record above ``max_record_size``; the tag was not changed."""


class Unauthorized(DDFSError, PermissionError):
    """The tag is protected and the token given does not open it."""

    code = 401


class Forbidden(DDFSError):
    """The request itself is not acceptable; repeating it will not help."""

    code = 403


class InvalidName(Forbidden, ValueError):
    r"""A name is empty, too long or has characters outside ``[A-Za-z0-9_\-@:]``."""


class InvalidTag(InvalidName):
    """What was given as a tag is neither a tag name nor a ``tag://`` URL."""


class InvalidUrls(Forbidden, ValueError):
    """The urls of a tag must be a list of non-empty lists of strings."""


class InvalidAttribute(Forbidden, ValueError):
    """An attribute's name or value, or their number, is above the limits."""


class InvalidToken(Forbidden, ValueError):
    """A token is not text or is too long."""


class NotEnoughVolumes(Forbidden):
    """Fewer volumes can be written than replicas were asked for."""


class NotFound(DDFSError, LookupError):
    """Nothing is stored under the name."""

    code = 404


class TagNotFound(NotFound):
    """The tag does not exist or has been deleted."""


class AttributeNotFound(NotFound):
    """The tag has no such attribute."""


class BlobNotFound(NotFound):
    """None of the replicas holds the blob any more."""


class TooLarge(DDFSError):
    """A request body is above the server's limit."""

    code = 413


class TruncatedUpload(DDFSError):
    """The source ended before the announced length; nothing became visible."""

    code = 400


class ServerError(DDFSError):
    """The engine failed inside; the stored state is the one before the call."""

    code = 500


class BlobExists(ServerError):
    """The blob name is taken: blobs are written once."""


class TagDamaged(ServerError):
    """The stored tag object fails its checksum."""


class BlobDamaged(ServerError):
    """The bytes of a blob fail their checksum."""


class Unsupported(DDFSError):
    """The engine behind this master cannot do that."""

    code = 501


class Unavailable(DDFSError, ConnectionError):
    """A volume or server does not answer, or is too busy to take the request."""

    code = 503


class StoreFull(DDFSError, OSError):
    """No volume has room left for the object; ``errno`` is ``ENOSPC``."""

    code = 507

    def __init__(self, msg: str = "", **context: Any) -> None:
        super().__init__(msg, **context)
        self.errno = errno.ENOSPC


_BY_STATUS: dict[int, type[DDFSError]] = {
    error.code: error
    for error in (
        Unauthorized,
        Forbidden,
        NotFound,
        TooLarge,
        TruncatedUpload,
        ServerError,
        Unsupported,
        Unavailable,
        StoreFull,
    )
    if error.code is not None
}


def error_for_status(status: int) -> type[DDFSError]:
    """Return the class for an HTTP status a server answered.

    Examples
    --------
    >>> error_for_status(401).__name__, error_for_status(502).__name__
    ('Unauthorized', 'ServerError')
    >>> error_for_status(418).__name__
    'Forbidden'
    """
    return _BY_STATUS.get(status, ServerError if status >= 500 else Forbidden)
