"""A tag/blob store with the interface and semantics of the Disco Distributed Filesystem.

`DDFS` is all most programs need. It stands on one of two engines: the embedded one, in this process
over directories and object stores, and the wire, for a Disco master or the server of this package
(``python -m proxyflow.storage.tagblob.server``).
"""

from __future__ import annotations

from .blobs import Blob, Digest
from .ddfs import DDFS
from .errors import (
    AttributeNotFound,
    BlobDamaged,
    BlobExists,
    BlobNotFound,
    CommError,
    ConfigError,
    DDFSError,
    Forbidden,
    InvalidAttribute,
    InvalidName,
    InvalidTag,
    InvalidToken,
    InvalidUrls,
    MissingDependencyError,
    NotEnoughVolumes,
    NotFound,
    RecordTooLarge,
    ServerError,
    StoreFull,
    TagDamaged,
    TagNotFound,
    TooLarge,
    TruncatedUpload,
    Unauthorized,
    Unavailable,
    Unsupported,
)
from .gc import GCReport

__all__ = [
    "DDFS",
    "AttributeNotFound",
    "Blob",
    "BlobDamaged",
    "BlobExists",
    "BlobNotFound",
    "CommError",
    "ConfigError",
    "DDFSError",
    "Digest",
    "Forbidden",
    "GCReport",
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
]
