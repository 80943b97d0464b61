"""What a connector does besides to carry streams: topics, and groups that consume them.

The names are those of message brokers: a topic is what producers append to; each group of
consumers gets every object of it, and within a group one consumer gets it. Compare the consumer
groups of Redis Streams (https://redis.io/docs/latest/develop/data-types/streams/).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from proxyflow.connectors.protocol import Buffer, Key

__all__ = ["Delivery", "Group", "Streaming", "Topic"]


class Delivery(Protocol):
    """An object in the hands of one consumer of a group."""

    @property
    def key(self) -> Key:
        """Key of the object."""
        ...

    @property
    def note(self) -> bytes:
        """What the producer says of it."""
        ...

    def ack(self) -> None:
        """Say that its work is done; the object is evicted when every group has said so.

        Raises
        ------
        ClaimLostError
            If it was acknowledged, released or recovered before.
        """
        ...

    def release(self) -> None:
        """Give it back, to be delivered again; raises what `ack` does."""
        ...


class Group(Protocol):
    """Consumers that share what is appended to a topic."""

    def claim(self) -> Delivery | None:
        """Return the oldest waiting object, or None if nothing is waiting."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Return True once something is waiting or nothing will, False when the time is over."""
        ...

    def is_finished(self) -> bool:
        """Return whether the topic has ended and nothing of it is left for this process."""
        ...

    def recover(self, lease: float | None = None) -> int:
        """Give back what dead consumers had, or anybody for longer than `lease` seconds."""
        ...

    def counts(self) -> tuple[int, int]:
        """Return how many objects are waiting, and how many are being worked on."""
        ...

    def close(self) -> None:
        """Let go of it; what has been delivered can still be acknowledged."""
        ...


class Topic(Protocol):
    """Where producers append objects for groups of consumers."""

    @property
    def ended(self) -> bool:
        """Whether nothing is appended any more."""
        ...

    def append(self, frames: Sequence[Buffer], note: bytes) -> Key:
        """Store an object and announce it to every group; if that fails, nothing is left."""
        ...

    def wait_for_room(self, most: int, timeout: float | None = None) -> bool:
        """Return True once fewer than `most` objects are left or it ended, False if time is up."""
        ...

    def finish(self) -> None:
        """Say that nothing is appended any more."""
        ...

    def subscribe(self, group: str) -> Group:
        """Return a group, made when there is none of that name.

        It gets what is appended from now on; the first one all that was appended before.
        """
        ...

    def groups(self) -> list[str]:
        """Return the names of the groups."""
        ...

    def __len__(self) -> int:
        """Return how many objects some group has yet to acknowledge."""
        ...

    def recover(self, lease: float | None = None) -> None:
        """Complete what those had begun who died, or did not end it within `lease` seconds."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """Has topics."""

    def open_topic(self, name: str) -> Topic:
        """Return a topic of the session, made when there is none of that name."""
        ...
