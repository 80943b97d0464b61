"""An object of a stream in the hands of the consumer that got it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar

from proxyflow.connectors.protocol import Key
from proxyflow.connectors.streaming import Delivery
from proxyflow.errors import ClaimLostError, StoreClosedError
from proxyflow.proxy import Proxy

__all__ = ["StreamItem"]

T = TypeVar("T")


class StreamItem(Generic[T]):
    """An object of a stream in the hands of one consumer.

    As a context manager it is acknowledged when the block succeeds and released when it raises,
    unless the block did either itself.

    Attributes
    ----------
    proxy : Proxy
        Stands for the object; its bytes move when it is resolved, wherever that is. What has not
        been resolved when the last group acknowledges the item cannot be resolved any more.
    metadata : object
        What the producer gave with the object.

    Examples
    --------
    >>> import tempfile
    >>> from proxyflow import Store
    >>> directory = tempfile.TemporaryDirectory()
    >>> with Store(f"maildir://{directory.name}") as store, store.stream("frames") as frames:
    ...     frames.append([1, 2, 3], metadata="first")
    ...     item = frames.claim()
    ...     item.metadata, sum(item.proxy), store.exists(item.key)
    ...     item.ack()
    ...     item.settled, store.exists(item.key)
    ('first', 6, True)
    (True, False)
    >>> directory.cleanup()
    """

    __slots__ = ("_delivery", "_let_go", "_pid", "_settled", "metadata", "proxy")

    def __init__(
        self,
        delivery: Delivery,
        proxy: Proxy[T],
        metadata: Any,
        let_go: Callable[[StreamItem[Any]], object],
    ) -> None:
        self._delivery = delivery
        self._let_go = let_go
        self._pid = os.getpid()
        self._settled = False
        self.proxy = proxy
        self.metadata = metadata

    @property
    def key(self) -> Key:
        """Key of the object in the store."""
        return self._delivery.key

    @property
    def settled(self) -> bool:
        """Whether it has been acknowledged or released, or is another process's to settle."""
        return self._settled or self._pid != os.getpid()

    def ack(self) -> None:
        """Say that its work is done; the object is evicted when every group has said so.

        Raises
        ------
        ClaimLostError
            If that has been said, or the item was released or recovered.
        """
        self._settle(self._delivery.ack)

    def release(self) -> None:
        """Give it back, to be delivered again: to another consumer, or to this one.

        Raises
        ------
        ClaimLostError
            If it was acknowledged, released or recovered before.
        """
        self._settle(self._delivery.release)

    def _settle(self, how: Callable[[], None]) -> None:
        try:
            how()
        except ClaimLostError:
            self._end()
            raise
        self._end()

    def _end(self) -> None:
        self._settled = True
        self._let_go(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self.settled:
            return
        if kind is None:
            self.ack()
        else:
            self.give_back()

    def give_back(self) -> None:
        """Release it, unless somebody or something else has."""
        # If the claim is over, it has been given back, which is what is wanted; if the session
        # is, there is nobody left to want it.
        with contextlib.suppress(ClaimLostError, StoreClosedError):
            self.release()

    def __reduce__(self) -> Any:
        raise TypeError(
            "a stream item stays with the consumer that got it: send item.proxy, and acknowledge "
            "the item where it is"
        )

    def __repr__(self) -> str:
        return f"<StreamItem {self.key!r} ({'settled' if self.settled else 'claimed'})>"
