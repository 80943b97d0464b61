"""One group of a topic's consumers: each message reaches one of them."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from proxyflow.storage.fileio import Descriptor
from proxyflow.storage.maildir.errors import (
    ClaimLostError,
    StoreNotPreparedError,
    io_errors,
)
from proxyflow.storage.maildir.message import Message
from proxyflow.storage.maildir.names import unique_name
from proxyflow.storage.maildir.stamp import unstamped
from proxyflow.storage.maildir.store import FileStore

if TYPE_CHECKING:
    from proxyflow.storage.maildir.topic import Topic

__all__ = ["Delivery", "Group", "Inbox", "wake"]


def wake(directory: int) -> None:
    """Have those look again who wait for a change in a directory."""
    # Something that is no message comes and goes. It may not where the disk is full or the
    # directory gone: who waits looks again within a second in any case.
    name = f".wake-{unique_name()}"
    with contextlib.suppress(OSError):
        os.mkdir(name, 0o700, dir_fd=directory)
        os.rmdir(name, dir_fd=directory)


class _Claims(NamedTuple):
    """Who is at work on messages of a group."""

    ours: bool
    others: bool


class Inbox(FileStore):
    """What waits for the consumers of a group, and what they are at work on."""

    @classmethod
    def within(cls, groups: Descriptor, path: str, name: str) -> Inbox:
        """Open the inbox of a group; StoreNotPreparedError if there is no such group."""
        with io_errors("open a group", store=path, name=name):
            try:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                directory = Descriptor(os.open(name, flags, dir_fd=groups.fd))
            except FileNotFoundError as error:
                raise StoreNotPreparedError(
                    "there is no such group", store=path, name=name, number=errno.ENOENT
                ) from error
        return cls(os.path.join(path, name), directory=directory)._opened()

    def _opened(self) -> Inbox:
        self._open()
        return self

    def receive(self, entry: str, log: int, name: str, *, durable: bool) -> None:
        """Let a message wait here, too."""
        new = self._open().new
        os.link(entry, name, src_dir_fd=log, dst_dir_fd=new, follow_symlinks=False)
        if durable:
            os.fsync(new)

    def take_back(self, name: str) -> None:
        """Remove a message that is still waiting."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._open().new)

    def wake(self) -> None:
        """Have those look again who wait for a message."""
        wake(self._open().new)

    def wait_until(self, is_true: Callable[[], bool], timeout: float | None) -> bool:
        """Wait for something that comes with a change of what is waiting."""
        return self._watches.wait_until(is_true, timeout)

    @property
    def is_waiting(self) -> bool:
        """Whether a message is waiting."""
        return self._is_waiting()

    def claims(self) -> _Claims:
        """Return who is at work on messages."""
        ours = others = False
        for filename in self._current().files("cur"):
            split = unstamped(filename)
            if split is not None:
                ours |= split[1].is_ours
                others |= not split[1].is_ours
        return _Claims(ours, others)


class Delivery:
    """A message in the hands of the one consumer of a group that got it.

    Attributes
    ----------
    name : str
        The name the topic gave it.
    data : bytes
        What was appended.
    """

    __slots__ = ("_group", "_message", "data", "name")

    def __init__(self, group: Group, message: Message, data: bytes) -> None:
        self._group = group
        self._message = message
        self.name = message.name
        self.data = data

    def ack(self) -> None:
        """Say that its work is done; it is forgotten when every group has said so.

        Raises
        ------
        ClaimLostError
            It was acknowledged, released or recovered before.
        """
        self._message.ack()
        self._group.settle(self.name)

    def release(self) -> None:
        """Put it back among the waiting ones of its group, to its old place in their order.

        Raises
        ------
        ClaimLostError
            It was acknowledged, released or recovered before.
        """
        self._message.release()

    def __repr__(self) -> str:
        return f"<Delivery {self.name!r} to {self._group!r}>"


class Group:
    """Consumers, in any number of processes, that share the messages of a topic.

    From `Topic.subscribe`.
    """

    def __init__(self, topic: Topic, name: str, inbox: Inbox) -> None:
        self._topic = topic
        self._inbox = inbox
        self.name = name

    def __repr__(self) -> str:
        return f"<Group {self.name!r} of {self._topic.path!r}>"

    def claim(self) -> Delivery | None:
        """Take the oldest waiting message, or return ``None`` if there is none now."""
        while True:
            message = self._inbox.claim()
            if message is None:
                return None
            # Of a claim that ended at once, by a lease that short, somebody else has the message.
            with contextlib.suppress(ClaimLostError):
                return Delivery(self, message, message.read())

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until a message is waiting, or none will come; ``False`` if the time is up."""
        return self._inbox.wait_until(lambda: self._inbox.is_waiting or self.is_finished(), timeout)

    def is_finished(self) -> bool:
        """Whether no message is left for this process.

        That is when the topic has ended, nothing is waiting or on its way, and nobody else is at
        work on a message: it would come back if that consumer died. A process that is at work
        itself does not wait for others, which might be waiting for it.
        """
        topic, inbox = self._topic, self._inbox
        # In the order in which messages move, so that none is overlooked.
        if not topic.ended or topic.is_on_its_way() or inbox.is_waiting:
            return False
        claims = inbox.claims()
        if claims.others and not claims.ours:
            return False
        # One may have been given back since.
        return not inbox.is_waiting

    def recover(self, lease: float | None = None) -> int:
        """Return messages of dead consumers to the waiting ones; see `FileStore.recover`."""
        return self._inbox.recover(lease)

    def counts(self) -> tuple[int, int]:
        """Return how many messages are waiting, and how many are being worked on."""
        counts = self._inbox.counts()
        return counts["new"], counts["cur"]

    def settle(self, name: str) -> None:
        """Take note that this group is done with a message."""
        self._topic.settle(name)
        if self._topic.ended:
            # Somebody may be waiting for just this.
            self._inbox.wake()

    def close(self) -> None:
        """Let go of the group's directories; deliveries in hand can still be acknowledged."""
        self._inbox.close()
