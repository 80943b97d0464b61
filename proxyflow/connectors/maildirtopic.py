"""Topics of maildir sessions: what streams are made of.

An object lies in a store for those of all topics, under the name of the message that announces it.
It is not among the session's others, as these are a queue: who claimed it there would take it away
from the stream.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from proxyflow.connectors.maildirkey import STREAMED, MaildirKey, reported
from proxyflow.connectors.protocol import Buffer
from proxyflow.connectors.session import open_directory
from proxyflow.storage import maildir
from proxyflow.storage.fileio import Descriptor
from proxyflow.storage.maildir.errors import io_errors
from proxyflow.storage.maildir.sections import SECTIONS
from proxyflow.storage.maildir.tree import make_tree

__all__ = ["MaildirDelivery", "MaildirGroup", "MaildirTopic", "streamed_objects"]

_TOPICS = "streams"
_OBJECTS = "streamed"


def streamed_objects(
    directory: Descriptor, path: str, *, durable: bool = False
) -> maildir.FileStore | None:
    """Return the store of what topics carry; None if there have been no topics.

    Parameters
    ----------
    directory
        Descriptor of the session's directory.
    path
        Its path.
    durable
        Whether what is put there has reached the disk on return.
    """
    inner = os.path.join(path, _OBJECTS)
    with io_errors("open the streams", store=path):
        try:
            fd = Descriptor(open_directory(_OBJECTS, directory.fd))
        except FileNotFoundError:
            return None
    return maildir.FileStore(inner, durable=durable, directory=fd)


class MaildirDelivery:
    """An object in the hands of one consumer of a group.

    Attributes
    ----------
    key : MaildirKey
        Key of the object.
    note : bytes
        What the producer says of it.
    """

    __slots__ = ("_delivery", "_store", "key", "note")

    def __init__(self, delivery: maildir.Delivery, store: str, session: str) -> None:
        self._delivery = delivery
        self._store = store
        self.key = MaildirKey(f"{session}.{STREAMED}{delivery.name}")
        self.note = delivery.data

    def ack(self) -> None:
        """Say that its work is done; the object is evicted when every group has said so."""
        with self._reported():
            self._delivery.ack()

    def release(self) -> None:
        """Give it back, to be delivered again."""
        with self._reported():
            self._delivery.release()

    def _reported(self) -> contextlib.AbstractContextManager[None]:
        return reported(self._store, self.key.name.partition(".")[0], self.key)


class MaildirGroup:
    """Consumers that share what is appended to a topic."""

    def __init__(self, group: maildir.Group, store: str, session: str) -> None:
        self._group = group
        self._store = store
        self._session = session

    def _reported(self) -> contextlib.AbstractContextManager[None]:
        return reported(self._store, self._session)

    def claim(self) -> MaildirDelivery | None:
        """Return the oldest waiting object, or None if nothing is waiting."""
        with self._reported():
            delivery = self._group.claim()
        return None if delivery is None else MaildirDelivery(delivery, self._store, self._session)

    def wait(self, timeout: float | None = None) -> bool:
        """Return True once something is waiting or nothing will, False when the time is over."""
        with self._reported():
            return self._group.wait(timeout)

    def is_finished(self) -> bool:
        """Return whether the topic has ended and nothing of it is left for this process."""
        with self._reported():
            return self._group.is_finished()

    def recover(self, lease: float | None = None) -> int:
        """Give back what dead consumers had, or anybody for longer than `lease` seconds."""
        with self._reported():
            return self._group.recover(lease)

    def counts(self) -> tuple[int, int]:
        """Return how many objects are waiting, and how many are being worked on."""
        with self._reported():
            return self._group.counts()

    def close(self) -> None:
        """Let go of it; what has been delivered can still be acknowledged."""
        self._group.close()


class MaildirTopic:
    """A topic of a session.

    Parameters
    ----------
    directory
        Descriptor of the session's directory.
    store
        The store's directory.
    session
        Name of the session.
    name
        Name of the topic.
    durable
        Whether what is appended has reached the disk when `append` returns.
    """

    def __init__(
        self, directory: Descriptor, store: str, session: str, name: str, *, durable: bool
    ) -> None:
        self._store = store
        self._session = session
        path = os.path.join(store, session)
        with self._reported():
            with io_errors("make a topic", store=path, name=name):
                objects = streamed_objects(directory, path, durable=durable)
                if objects is None:
                    make_tree(_OBJECTS, SECTIONS, directory.fd)
                    objects = streamed_objects(directory, path, durable=durable)
                with contextlib.suppress(FileExistsError):
                    os.mkdir(_TOPICS, 0o700, dir_fd=directory.fd)
                parent = Descriptor(open_directory(_TOPICS, directory.fd))
            assert objects is not None
            self._objects = objects
            self._topic = maildir.Topic(
                os.path.join(path, _TOPICS, name),
                lambda name: objects.discard(STREAMED + name),
                durable=durable,
                parent=parent,
            )

    def _reported(self) -> contextlib.AbstractContextManager[None]:
        return reported(self._store, self._session)

    @property
    def ended(self) -> bool:
        """Whether nothing is appended any more."""
        return self._topic.ended

    def append(self, frames: Sequence[Buffer], note: bytes) -> MaildirKey:
        """Store an object and announce it to every group; if that fails, nothing is left."""
        with self._reported(), self._topic.appending(note) as name:
            self._objects.put(frames, name=STREAMED + name)
        return MaildirKey(f"{self._session}.{STREAMED}{name}")

    def wait_for_room(self, most: int, timeout: float | None = None) -> bool:
        """Return True once fewer than `most` objects are left or it ended, False if time is up."""
        with self._reported():
            return self._topic.wait_for_room(most, timeout)

    def finish(self) -> None:
        """Say that nothing is appended any more."""
        with self._reported():
            self._topic.finish()

    def subscribe(self, group: str) -> MaildirGroup:
        """Return a group, made when there is none of that name."""
        with self._reported():
            return MaildirGroup(self._topic.subscribe(group), self._store, self._session)

    def groups(self) -> list[str]:
        """Return the names of the groups."""
        with self._reported():
            return self._topic.groups()

    def __len__(self) -> int:
        """Return how many objects some group has yet to acknowledge."""
        with self._reported():
            return len(self._topic)

    def __bool__(self) -> bool:
        return True

    def recover(self, lease: float | None = None) -> None:
        """Complete what producers and consumers had begun when they died."""
        with self._reported():
            self._topic.recover(lease)

    def close(self) -> None:
        """Let go of it."""
        self._topic.close()
        self._objects.close()
