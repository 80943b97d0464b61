"""The contents a client has written and not yet published."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from .errors import FsNoSpaceError
from .hub import Hub, Owner
from .streams import Binary

__all__ = ["Contents", "Pending", "digest_of"]

COPY_BYTES = 4 * 1024 * 1024


@dataclass(slots=True)
class Pending:
    """A content in the spool: being written while `writers`, then of a known size and digest."""

    path: str
    writers: int = 0
    size: int = 0
    digest: str = ""
    modified: int = 0
    published: bool = False
    streamed: bool = False

    def current_size(self) -> int:
        """Return the size, of a file being written as it is right now."""
        return os.stat(self.path).st_size if self.writers else self.size


class Contents:
    """The pending contents of one client, by content identifier.

    They are written where they will stay: on a directory hub publishing copies nothing, a content
    is private simply because no head names it.
    """

    def __init__(self, hub: Hub, owner: Owner) -> None:
        self._hub, self._owner = hub, owner
        self._folder = f"{hub.folder}/content/{owner.client}"
        self._pending: dict[str, Pending] = {}
        self._publishing: set[str] = set()
        self._lock = threading.Lock()

    def get(self, content: str) -> Pending | None:
        """Return the pending content, ``None`` if it is published or not this client's."""
        return self._pending.get(content)

    def being_written(self, content: str) -> bool:
        """Return whether `content` is open for writing."""
        pending = self._pending.get(content)
        return pending is not None and pending.writers > 0

    def ready(self, content: str) -> bool:
        """Return whether a name for `content` may be published."""
        pending = self._pending.get(content)
        return pending is None or pending.published

    def store(self, views: Sequence[memoryview], path: str) -> str:
        """Write a whole content; return its identifier. `path` is for the error."""
        import xxhash

        content, pending = self._new()
        digest = xxhash.xxh3_128()
        try:
            fd = os.open(pending.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                for view in views:
                    left = view
                    while left:
                        left = left[os.write(fd, left) :]
                    digest.update(view)
            finally:
                os.close(fd)
        except OSError as error:
            self._failed(content, path, error)
        pending.size = sum(view.nbytes for view in views)
        pending.digest, pending.modified = digest.hexdigest(), time.time_ns()
        return content

    def create(self, path: str, copy_of: Binary | None = None) -> tuple[str, Pending]:
        """Make a content to be written, empty or a copy of a stream; it has one writer."""
        content, pending = self._new()
        try:
            with open(pending.path, "xb") as file:
                if copy_of is not None:
                    shutil.copyfileobj(copy_of, file, COPY_BYTES)
        except OSError as error:
            self._failed(content, path, error)
        pending.writers, pending.streamed = 1, True
        return content, pending

    def _failed(self, content: str, path: str, error: OSError) -> NoReturn:
        """Delete what there is of a content that cannot be written, and say why."""
        self.discard([content])
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FsNoSpaceError.at(path) from error
        raise error

    def join(self, pending: Pending) -> None:
        """Add a writer to a content that is being written."""
        with self._lock:
            pending.writers += 1

    def leave(self, pending: Pending) -> bool:
        """Take a writer away; return whether it was the last, which settles size and digest."""
        with self._lock:
            last = pending.writers == 1
            if last and os.path.exists(pending.path):
                pending.size, pending.digest = digest_of(pending.path)
                pending.modified = time.time_ns()
            pending.writers -= 1
        return last

    def publish(self, contents: Iterable[str]) -> None:
        """Make contents durable in the hub, those of `contents` that are complete."""
        with self._lock:
            chosen = {
                content: pending
                for content in contents
                if (pending := self._pending.get(content)) is not None
                and not (pending.writers or pending.published)
            }
            self._publishing.update(chosen)
        if not chosen:
            return
        self._owner.renew()
        try:
            self._hub.blobs.publish(self._folder, [content.partition("-")[2] for content in chosen])
        except BaseException:
            self._owner.leaves_something = True
            raise
        else:
            for pending in chosen.values():
                pending.published = True
        finally:
            with self._lock:
                self._publishing.clear()
                deleted = [content for content in chosen if content not in self._pending]
            for content in deleted:
                self._delete(content, chosen[content])

    def settle(self, contents: Iterable[str]) -> None:
        """Forget contents a head names by now, and delete their copies in the spool."""
        for content in contents:
            pending = self._pending.pop(content, None)
            if pending is not None and self._hub.blobs.local_path(self._folder) is None:
                os.unlink(pending.path)

    def discard(self, contents: Iterable[str]) -> None:
        """Delete contents that no name of this client leads to any more.

        One still open for writing loses its name at once and its bytes with the last handle; one
        that is being published is deleted when that is over.
        """
        for content in contents:
            with self._lock:
                pending = self._pending.pop(content, None)
                if pending is None or content in self._publishing:
                    continue
            self._delete(content, pending)

    def _delete(self, content: str, pending: Pending) -> None:
        if os.path.exists(pending.path):
            os.unlink(pending.path)
        if pending.published:
            self._hub.delete("content", [content])

    def clear(self) -> None:
        """Delete everything pending."""
        self.discard(list(self._pending))

    def unsized(self) -> int:
        """Return how many bytes are in contents whose entries say 0 until they are published."""
        pending = [one for one in list(self._pending.values()) if one.streamed]
        return sum(one.current_size() for one in pending)

    def _new(self) -> tuple[str, Pending]:
        content = self._owner.new_id()
        folder = self._hub.blobs.spool(self._folder)
        pending = Pending(os.path.join(folder, content.partition("-")[2]))
        self._pending[content] = pending
        return content, pending


def digest_of(path: str) -> tuple[int, str]:
    """Return size and digest of a file, read through the page cache without copying."""
    import xxhash

    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            return 0, xxhash.xxh3_128_hexdigest(b"")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            return size, xxhash.xxh3_128_hexdigest(view)
