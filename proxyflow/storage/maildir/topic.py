"""A topic: each message for every group of consumers, and in a group for one consumer.

Layout of a topic's directory::

    TOPIC/
      log/               every message that some group has yet to acknowledge
        NAME             has reached its groups
        NAME~stamp       on its way to them; the stamp says whose it is (see stamp.py)
      groups/
        .first/          what was appended before there was a group; renamed to be the first one
        GROUP/           a store of its own: tmp, new, cur
      end                nothing is appended any more

A message is written once. What stands in a group is a hard link to it, so the number of links says
how many groups have it yet, and who finds one link left removes it. Each step is one call that
happens or does not; what a killed process has begun, the next to recover completes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from proxyflow.storage.fileio import Descriptor, names
from proxyflow.storage.maildir import files
from proxyflow.storage.maildir.errors import (
    InvalidNameError,
    StoreNotPreparedError,
    TopicEndedError,
    io_errors,
)
from proxyflow.storage.maildir.group import Group, Inbox, wake
from proxyflow.storage.maildir.names import checked_name, unique_name
from proxyflow.storage.maildir.sections import SECTIONS
from proxyflow.storage.maildir.stamp import stamped, unstamped
from proxyflow.storage.maildir.tree import make_tree, moved
from proxyflow.storage.maildir.watches import Watches

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Topic"]

FIRST = ".first"
_INNER = ("log", "groups", f"groups/{FIRST}", *(f"groups/{FIRST}/{name}" for name in SECTIONS))
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Topic:
    """Messages for groups of consumers; each group gets every message, and gives it to one.

    A group gets what is appended after it was made. What is appended before there is any group
    waits for the first one. Any number of processes and threads may append and consume.

    Parameters
    ----------
    path
        The directory of the topic; made when missing.
    forget
        Called with the name of a message when every group has acknowledged it, before the message
        itself goes; for what a message may stand for. It may be called twice.
    durable
        Whether what is appended is on the disk when `append` returns.
    parent
        A descriptor of the directory the topic's is in, for who must not be led elsewhere should
        the path come to mean something else.

    Raises
    ------
    StoreFullError
        There is no room for its directories.
    StoreIOError
        They cannot be made.

    Examples
    --------
    >>> import tempfile
    >>> directory = tempfile.TemporaryDirectory()
    >>> topic = Topic(f"{directory.name}/frames")
    >>> first = topic.append(b"one")
    >>> a, b = topic.subscribe("a"), topic.subscribe("b")
    >>> second = topic.append(b"two")
    >>> [group.counts() for group in (a, b)]
    [(2, 0), (1, 0)]
    >>> delivery = a.claim()
    >>> delivery.data
    b'one'
    >>> delivery.ack()
    >>> list(topic) == [second]
    True
    >>> topic.close()
    >>> directory.cleanup()
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        forget: Callable[[str], object] = lambda name: None,
        *,
        durable: bool = False,
        parent: Descriptor | None = None,
    ) -> None:
        self.path = os.path.abspath(os.fspath(path))
        self._name = checked_name(os.path.basename(self.path), self.path)
        self._forget = forget
        self._durable = durable
        self._inboxes: dict[str, Inbox] = {}
        with io_errors("open the topic", store=self.path):
            if parent is None:
                above = os.path.dirname(self.path)
                os.makedirs(above, mode=0o700, exist_ok=True)
                parent = Descriptor(os.open(above, _DIRECTORY & ~os.O_NOFOLLOW))
            try:
                self._open(parent)
            except FileNotFoundError:
                make_tree(self._name, _INNER, parent.fd)
                self._open(parent)
        self._watches = Watches(os.path.join(self.path, "log"))

    def _open(self, parent: Descriptor) -> None:
        self._directory = Descriptor(os.open(self._name, _DIRECTORY, dir_fd=parent.fd))
        within = self._directory.fd
        self._log = Descriptor(os.open("log", _DIRECTORY, dir_fd=within))
        self._members = Descriptor(os.open("groups", _DIRECTORY, dir_fd=within))

    # -- producing -----------------------------------------------------------------------------

    def append(self, data: Buffer) -> str:
        """Add a message for every group there is, or else for the first one; return its name.

        Raises
        ------
        TopicEndedError
            Nothing is appended any more.
        StoreFullError
            There is no room; no group gets the message.
        StoreNotPreparedError
            The topic is gone.
        """
        with self.appending(data) as name:
            return name

    @contextlib.contextmanager
    def appending(self, data: Buffer) -> Iterator[str]:
        """Append a message when the block succeeds; yields the name it will have.

        For what has to be there before anybody gets the message: should the process die within the
        block, `recover` has it forgotten. Raises what `append` does.
        """
        name = unique_name()
        entry = stamped(name)
        with io_errors("append", store=self.path, name=name):
            self._write(entry, data)
        reached: list[Inbox] = []
        try:
            # Looked for after the entry was made: who has seen the end waits for entries, too.
            if self.ended:
                raise TopicEndedError("nothing is appended any more", store=self.path)
            yield name
            with io_errors("append", store=self.path, name=name):
                for inbox in self._receivers():
                    inbox.receive(entry, self._log.fd, name, durable=self._durable)
                    reached.append(inbox)
        except BaseException:
            for inbox in reached:
                inbox.take_back(name)
            if not self._conclude(entry, name) and not self._has(name):
                # It was given up, its lease being over, before all it stands for was there.
                self._forget(name)
            raise
        self._conclude(entry, name)

    def _write(self, entry: str, data: Buffer) -> None:
        fd = files.create(entry, self._log.fd)
        try:
            files.write_frames(fd, files.as_frames(data))
            if self._durable:
                os.fsync(fd)
        except BaseException:
            os.unlink(entry, dir_fd=self._log.fd)
            raise
        finally:
            os.close(fd)

    def _receivers(self) -> list[Inbox]:
        """Return the inboxes of the groups there are."""
        while True:
            found = self.groups() or [FIRST]
            try:
                return [self._inbox(name) for name in found]
            except StoreNotPreparedError:
                # The first group has been made this moment; else the topic is being removed.
                if found == (self.groups() or [FIRST]):
                    raise

    def _inbox(self, name: str) -> Inbox:
        inbox = self._inboxes.get(name)
        if inbox is None:
            path = os.path.join(self.path, "groups")
            inbox = self._inboxes[name] = Inbox.within(self._members, path, name)
        return inbox

    def wait_for_room(self, most: int, timeout: float | None = None) -> bool:
        """Wait until fewer than `most` messages are in the log; ``False`` if the time is up.

        Also ends when the topic does.
        """
        return self._watches.wait_until(lambda: len(self) < most or self.ended, timeout)

    def finish(self) -> None:
        """Say that nothing is appended any more, by anybody; saying so twice is no error."""
        with io_errors("end the topic", store=self.path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open("end", flags, 0o600, dir_fd=self._directory.fd))
            if self._durable:
                os.fsync(self._directory.fd)
            wake(self._log.fd)
            for inbox in self._receivers():
                inbox.wake()

    # -- consuming -----------------------------------------------------------------------------

    def subscribe(self, group: str) -> Group:
        """Return a group, made if there is none of that name.

        Raises
        ------
        InvalidNameError
            No group can have the name.
        StoreFullError
            There is no room for its directories.
        StoreNotPreparedError
            The topic is gone.
        """
        name = checked_name(group, self.path)
        if name.startswith("."):
            raise InvalidNameError(
                "not the name of a group", store=self.path, name=name, remedy="no leading dot"
            )
        with io_errors("make a group", store=self.path, name=name):
            if name not in self.groups() and not moved(FIRST, name, self._members.fd):
                make_tree(name, SECTIONS, self._members.fd)
            if self._durable:
                os.fsync(self._members.fd)
        # One of its own, so that closing it leaves others alone.
        inbox = Inbox.within(self._members, os.path.join(self.path, "groups"), name)
        return Group(self, name, inbox)

    def groups(self) -> list[str]:
        """Return the names of the groups."""
        with io_errors("list the groups", store=self.path):
            return sorted(name for name in names(self._members.fd) if not name.startswith("."))

    # -- looking -------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether nothing is appended any more."""
        try:
            os.stat("end", dir_fd=self._directory.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def _entries(self) -> list[str]:
        with io_errors("list the log", store=self.path):
            return [name for name in names(self._log.fd) if not name.startswith(".")]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the messages that some group has yet to acknowledge."""
        return iter(sorted(name for name in self._entries() if unstamped(name) is None))

    def __len__(self) -> int:
        """Count the messages that some group has yet to acknowledge."""
        return len(self._entries())

    def __bool__(self) -> bool:
        return True

    def _has(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self._log.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def is_on_its_way(self) -> bool:
        """Whether a message is about to reach its groups."""
        stamps = [split[1] for split in map(unstamped, self._entries()) if split is not None]
        return any(not stamp.is_dead() for stamp in stamps)

    # -- forgetting ----------------------------------------------------------------------------

    def settle(self, name: str) -> None:
        """Forget a message if no group has it any more."""
        try:
            if os.stat(name, dir_fd=self._log.fd, follow_symlinks=False).st_nlink > 1:
                return
        except FileNotFoundError:
            # Still on its way, so that its producer does this, or somebody else has just done it.
            return
        self._drop(name, name)

    def _drop(self, entry: str, name: str) -> None:
        # The entry goes last: as long as it is there, somebody will try again.
        self._forget(name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(entry, dir_fd=self._log.fd)

    def _conclude(self, entry: str, name: str) -> bool:
        """End a message's way to its groups; ``False`` if somebody else has ended it."""
        log = self._log.fd
        try:
            if os.stat(entry, dir_fd=log, follow_symlinks=False).st_nlink == 1:
                # It has reached nobody; or those it has reached are done with it.
                self._drop(entry, name)
                return True
            os.rename(entry, name, src_dir_fd=log, dst_dir_fd=log)
        except FileNotFoundError:
            return False
        if self._durable:
            os.fsync(log)
        # They may have been done with it before it had its name.
        self.settle(name)
        return True

    def recover(self, lease: float | None = None) -> None:
        """Complete what killed processes have begun; any process may do so any time.

        What a killed producer was appending reaches no group, or the groups it has reached.

        Parameters
        ----------
        lease
            Seconds after which a producer counts as dead that has begun to append and not ended;
            for producers on other hosts, of which that cannot be known. A living one has its
            `append` fail.
        """
        for entry in self._entries():
            split = unstamped(entry)
            if split is None:
                self.settle(entry)
            elif split[1].is_dead() or (lease is not None and split[1].age >= lease):
                self._conclude(entry, split[0])

    def close(self) -> None:
        """Let go of the directories; groups have to be closed by themselves."""
        self._watches.close()
        for inbox in self._inboxes.values():
            inbox.close()
        self._inboxes.clear()
