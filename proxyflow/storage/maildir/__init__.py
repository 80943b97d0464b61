"""Files handed from process to process without locks, after gocept.filestore and maildir.

A store is a directory with three sections. Files are written in ``tmp``, wait in ``new``, and are
being processed in ``cur``; each step is one rename, which happens for exactly one process.

`FileStore` has the calls of `gocept.filestore <https://pypi.org/project/gocept.filestore/>`_, and
those of a queue: messages with unique names, in order, claimed by one consumer each, and claimed
anew if that consumer dies.

`Topic` hands each message to several groups of consumers, to one consumer of each.
"""

from __future__ import annotations

from proxyflow.storage.maildir.errors import (
    ClaimLostError,
    FileMissingError,
    InvalidDataError,
    InvalidNameError,
    MaildirError,
    NameTakenError,
    StoreAccessError,
    StoreClosedError,
    StoreFullError,
    StoreIOError,
    StoreNotPreparedError,
    TopicEndedError,
    UnknownSectionError,
)
from proxyflow.storage.maildir.group import Delivery, Group
from proxyflow.storage.maildir.message import Message
from proxyflow.storage.maildir.store import FileStore
from proxyflow.storage.maildir.topic import Topic

__all__ = [
    "ClaimLostError",
    "Delivery",
    "FileMissingError",
    "FileStore",
    "Group",
    "InvalidDataError",
    "InvalidNameError",
    "MaildirError",
    "Message",
    "NameTakenError",
    "StoreAccessError",
    "StoreClosedError",
    "StoreFullError",
    "StoreIOError",
    "StoreNotPreparedError",
    "Topic",
    "TopicEndedError",
    "UnknownSectionError",
]
