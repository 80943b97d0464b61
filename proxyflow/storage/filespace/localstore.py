"""Files of a directory as the objects of a data store."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

from .errors import (
    ExternalObjectChangedError,
    ExternalObjectNotFoundError,
    ExternalStoreError,
    InvalidArgumentError,
)
from .sources import ObjectFacts
from .streams import RangeReader

__all__ = ["LocalSource"]


class LocalSource:
    """A `Source` over the directory `root`.

    The checksum of a file is its modification time: what changes when somebody writes to it, and
    costs nothing to look at before and after each read.
    """

    def __init__(self, name: str, root: str) -> None:
        self._name, self._root = name, os.path.realpath(root)

    def facts(self, object_id: str, path: str) -> ObjectFacts:
        """See `Source.facts`."""
        fd = self._open(object_id, path)
        try:
            return _facts(object_id, os.fstat(fd))
        finally:
            os.close(fd)

    def objects(self, prefix: str) -> Iterator[ObjectFacts]:
        """See `Source.objects`."""
        for folder, folders, names in os.walk(self._root):
            folders.sort()
            for name in sorted(names):
                full = os.path.join(folder, name)
                object_id = os.path.relpath(full, self._root)
                if object_id.startswith(prefix) and stat.S_ISREG(os.lstat(full).st_mode):
                    yield _facts(object_id, os.lstat(full))

    def open(
        self, facts: ObjectFacts, path: str, on_close: Callable[[], None] | None
    ) -> RangeReader:
        """See `Source.open`."""
        fd = self._open(facts.object_id, path)

        def check() -> None:
            if _facts(facts.object_id, os.fstat(fd)) != facts:
                raise ExternalObjectChangedError.at(path)

        def fetch(start: int, end: int) -> bytes:
            data = os.pread(fd, end - start, start)
            check()
            return data

        def close() -> None:
            os.close(fd)
            if on_close is not None:
                on_close()

        try:
            check()
        except BaseException:
            os.close(fd)
            raise
        return RangeReader(fetch, facts.size, path, close)

    def _open(self, object_id: str, path: str) -> int:
        full = os.path.realpath(os.path.join(self._root, object_id))
        if os.path.commonpath([full, self._root]) != self._root:
            raise InvalidArgumentError(
                f"object {object_id!r} leads out of the directory of data store {self._name!r}"
            )
        try:
            # O_NONBLOCK: opening a FIFO somebody left there must not hang.
            fd = os.open(full, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise ExternalObjectNotFoundError.at(path, other=full) from error
        except OSError as error:
            raise ExternalStoreError.at(path, error.strerror, other=full) from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ExternalStoreError.at(path, "Not a regular file", other=full)
        return fd


def _facts(object_id: str, status: os.stat_result) -> ObjectFacts:
    return ObjectFacts(object_id, status.st_size, f"mtime-{status.st_mtime_ns:x}")
