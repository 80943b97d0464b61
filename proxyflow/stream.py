"""Streams: objects in at one end, proxies out at the other.

What users of ProxyStore's streams (https://docs.proxystore.dev/latest/guides/streaming/), of the
consumer groups of Redis (https://redis.io/docs/latest/develop/data-types/streams/) and of Kafka
know is here under their names: groups, acknowledgement, recovery of what a dead consumer had.
Delivery is at least once: who dies before it acknowledges has done nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self, TypeVar

from proxyflow.connectors.streaming import Delivery, Group, Streaming, Topic
from proxyflow.errors import (
    ConfigError,
    StoreClosedError,
    UnsupportedError,
    WaitTimeoutError,
)
from proxyflow.facts import check_target, describe
from proxyflow.proxy import Proxy, extract
from proxyflow.streamitem import StreamItem

if TYPE_CHECKING:
    from proxyflow.store import Store

__all__ = ["Stream", "StreamItem"]

DEFAULT_GROUP = "default"

# A name is a directory's in some stores and part of a key in others.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")

# How often a consumer looks for what dead ones have left (seconds); rarer where looking takes long.
_RECOVERY = 1.0
_RECOVERY_SHARE = 20


class Stream:
    """Objects appended by producers, received by consumers as proxies.

    A stream belongs to its store's session and ends with it. Any number of processes and threads
    may append and consume, through streams of their own or a shared one; a stream can be pickled,
    and opened by name wherever the store is.

    Each group of consumers receives every object, and each object is received by one consumer of
    the group. A group receives what is appended after it was made; what was appended before there
    was any group waits for the first one. The object is evicted when every group has acknowledged
    it.

    Parameters
    ----------
    store
        The store. Usually a stream is made by :meth:`Store.stream`.
    name
        Letters, digits, ``_``, ``-`` and ``.``.
    group
        The group to consume for; it is made at once. By default ``"default"``, made when
        something is first asked for.
    maxsize
        How many objects there may be that some group has yet to acknowledge; while there are so
        many, `append` waits. Producers that append at the same moment may each add one more.
    lease
        Seconds after which an item is given back though its consumer may be alive, and an
        `append` given up that has not ended. Only needed where several hosts share a store; what
        a process on the same host had is given back when it ends.

    Raises
    ------
    UnsupportedError
        If the store's connector carries no streams.
    ConfigError
        If a name or a limit makes no sense.
    StoreClosedError
        If the session has ended.

    Examples
    --------
    >>> import tempfile
    >>> from proxyflow import Store
    >>> directory = tempfile.TemporaryDirectory()
    >>> store = Store(f"maildir://{directory.name}")
    >>> with store.stream("frames") as frames:
    ...     frames.append([1, 2, 3], metadata={"camera": 7})
    ...     frames.append([4])
    ...     frames.close_for_writing()
    >>> with store.stream("frames", group="totals") as frames:
    ...     for item in frames:
    ...         with item:
    ...             print(sum(item.proxy), item.metadata)
    6 {'camera': 7}
    4 None
    >>> list(store.scan())
    []
    >>> store.close()
    >>> directory.cleanup()
    """

    def __init__(
        self,
        store: Store,
        name: str,
        *,
        group: str | None = None,
        maxsize: int | None = None,
        lease: float | None = None,
    ) -> None:
        if not isinstance(store.connector, Streaming):
            raise UnsupportedError(
                "this store's connector carries no streams",
                store=store.name,
                remedy="use a maildir, for example Store('maildir:///dev/shm/run1')",
            )
        self.store = store
        self.name = _checked("stream", name)
        self.group = None if group is None else _checked("group", group)
        self.maxsize = _positive("maxsize", maxsize)
        self.lease = _positive("lease", lease)
        self._recover_at = 0.0
        self._held: set[StreamItem[Any]] = set()
        self._closed = False
        self._consumers: Group | None = None
        self._topic: Topic = store.connector.open_topic(name)
        if group is not None:
            self._join()

    def __repr__(self) -> str:
        group = f", group {self.group!r}" if self.group else ""
        state = " (closed)" if self._closed else ""
        return f"<Stream {self.name!r} of {self.store.name}{group}{state}>"

    def __reduce__(self) -> Any:
        return _reopen, (self.store, self.name, self.group, self.maxsize, self.lease)

    # -- producing -----------------------------------------------------------------------------

    def append(self, obj: Any, *, metadata: Any = None, timeout: float | None = None) -> None:
        """Store an object, and have every group receive a proxy of it.

        If that fails, nothing is left of the object.

        Parameters
        ----------
        obj
            The object. Of a proxy, the target is stored: its own object may be evicted sooner.
        metadata
            Something small that consumers see without resolving the proxy.
        timeout
            How many seconds to wait for room, where there is a `maxsize`; None waits for ever.

        Raises
        ------
        WaitTimeoutError
            If there is no room in time.
        StoreClosedError
            If the stream was closed for writing, or the session has ended.
        ProxyTargetError
            For ``None``, ``True`` and ``False``, which no proxy can stand for.
        SerializationError
            If the object or the metadata cannot be pickled.
        StoreFullError
            If the store is full.
        """
        self._check_open()
        obj = extract(obj) if isinstance(obj, Proxy) else obj
        check_target(obj)
        payload = self.store.encode(obj)
        note = self.store.encode((describe(obj), metadata))
        self._wait_for_room(timeout)
        started = time.perf_counter()
        self._topic.append(payload.frames, b"".join(note.frames))
        self.store.stats.record("put", started, payload.nbytes)

    def extend(self, objs: Iterable[Any], *, timeout: float | None = None) -> None:
        """Append several objects, one after the other; raises what `append` does.

        Parameters
        ----------
        objs
            The objects; of an iterator no more is taken than there is room for.
        timeout
            How many seconds to wait for room before each of them.
        """
        for obj in objs:
            self.append(obj, timeout=timeout)

    def close_for_writing(self) -> None:
        """Say that nothing is appended any more, by anybody: iterations end when all is done.

        Saying so twice is no error.
        """
        self._check_open()
        self._topic.finish()

    def _wait_for_room(self, timeout: float | None) -> None:
        if self.maxsize is None:
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._topic.wait_for_room(self.maxsize, _time_left(deadline, _RECOVERY)):
            self._check_open()
            # A consumer may have died between its acknowledgement and what follows from it.
            self._topic.recover(self.lease)
            if deadline is not None and time.monotonic() >= deadline:
                raise WaitTimeoutError(
                    f"no room in stream {self.name!r} within {timeout:g} seconds: {self.maxsize} "
                    "objects are not acknowledged by every group",
                    store=self.store.name,
                    remedy="check that consumers of every group run, or raise maxsize",
                )

    # -- consuming -----------------------------------------------------------------------------

    def claim(self, timeout: float | None = None) -> StreamItem[Any] | None:
        """Return the oldest waiting item, or None when the stream has ended and all is done.

        All is done when the stream was closed for writing, nothing is waiting, and no other
        process is at work on an item, which would be delivered again if that process died. Who
        has an item in hand does not wait for others.

        Parameters
        ----------
        timeout
            How many seconds to wait for an item; None waits for ever, 0 not at all.

        Raises
        ------
        WaitTimeoutError
            If none comes in time.
        StoreClosedError
            If this stream is closed, or the session ends.
        AuthenticationError, CorruptObjectError
            If the producer does not hold the store's secret, or the message is damaged. The
            object is released.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._check_open()
            group = self._join()
            self._recover_when_due(group)
            delivery = group.claim()
            if delivery is not None:
                return self._received(delivery)
            if group.is_finished():
                return None
            group.wait(_time_left(deadline, _RECOVERY))
            if deadline is not None and time.monotonic() >= deadline and not group.wait(0):
                raise WaitTimeoutError(
                    f"nothing was appended to stream {self.name!r} within {timeout:g} seconds",
                    store=self.store.name,
                    remedy="check that its producers run and call close_for_writing() at the end",
                )

    def __iter__(self) -> Iterator[StreamItem[Any]]:
        """Iterate over items until the stream has ended and all is done, waiting for each."""
        return self.items()

    def items(
        self, *, timeout: float | None = None, ack: bool = False
    ) -> Iterator[StreamItem[Any]]:
        """Iterate over items until the stream has ended and all is done.

        Parameters
        ----------
        timeout
            How many seconds to wait for each item.
        ack
            Whether to acknowledge an item when the next one is asked for. Leaving the loop early,
            by ``break`` or an exception, then releases the one in hand.

        Raises
        ------
        WaitTimeoutError
            If no item comes in time; and what else `claim` raises.
        """
        while (item := self.claim(timeout)) is not None:
            if ack:
                with item:
                    yield item
            else:
                yield item

    def recover(self) -> int:
        """Give back what dead consumers had; return how many items of this group that were.

        Consumers do so by themselves, once a second.
        """
        self._check_open()
        self._topic.recover(self.lease)
        return self._join().recover(self.lease) if self._has_group() else 0

    def _recover_when_due(self, group: Group) -> None:
        began = time.monotonic()
        if began < self._recover_at:
            return
        # Other threads of this stream leave it to this one.
        self._recover_at = began + _RECOVERY
        self._topic.recover(self.lease)
        group.recover(self.lease)
        now = time.monotonic()
        self._recover_at = now + max(_RECOVERY, _RECOVERY_SHARE * (now - began))

    def _received(self, delivery: Delivery) -> StreamItem[Any]:
        try:
            facts, metadata = self.store.decode(memoryview(bytearray(delivery.note)), delivery.key)
        except BaseException:
            delivery.release()
            raise
        proxy = self.store.proxy_from_key(delivery.key, facts=facts)
        item = StreamItem[Any](delivery, proxy, metadata, self._held.discard)
        self._held.add(item)
        return item

    def _join(self) -> Group:
        """Return the group this stream consumes for."""
        if self._consumers is None:
            self._consumers = self._topic.subscribe(self.group or DEFAULT_GROUP)
        return self._consumers

    def _has_group(self) -> bool:
        return self._consumers is not None or (self.group or DEFAULT_GROUP) in self._topic.groups()

    def _counts(self) -> tuple[int, int]:
        """Return how many items wait for this group, and how many it is at work on.

        Who only looks makes no group: nobody might ever consume for it.
        """
        self._check_open()
        if self._has_group():
            return self._join().counts()
        # The first group there is gets all that was appended before.
        return (0 if self._topic.groups() else len(self._topic)), 0

    # -- looking -------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether the stream was closed for writing."""
        self._check_open()
        return self._topic.ended

    @property
    def groups(self) -> list[str]:
        """Names of the groups there are."""
        self._check_open()
        return self._topic.groups()

    @property
    def waiting(self) -> int:
        """How many items wait for a consumer of this group."""
        return self._counts()[0]

    @property
    def claimed(self) -> int:
        """How many items consumers of this group are at work on."""
        return self._counts()[1]

    @property
    def backlog(self) -> int:
        """How many objects some group has yet to acknowledge: what `maxsize` limits."""
        self._check_open()
        return len(self._topic)

    @property
    def closed(self) -> bool:
        """Whether this stream object has been closed; the stream itself goes on."""
        return self._closed

    # -- the end -------------------------------------------------------------------------------

    def close(self) -> None:
        """Release what this stream object has in hand, and let go of it.

        The stream itself goes on. In a forked child nothing of its parent's is released. Closing
        twice is no error.
        """
        if self._closed:
            return
        self._closed = True
        try:
            for item in list(self._held):
                if not item.settled:
                    item.give_back()
        finally:
            self._held.clear()
            self._topic.close()
            if self._consumers is not None:
                self._consumers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed or self.store.closed:
            what = "stream" if self._closed else "store"
            raise StoreClosedError(f"the {what} has been closed", store=self.store.name)


def _reopen(
    store: Store, name: str, group: str | None, maxsize: int | None, lease: float | None
) -> Stream:
    return Stream(store, name, group=group, maxsize=maxsize, lease=lease)


def _checked(what: str, name: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"not the name of a {what}: {name!r}",
            remedy="up to 64 letters, digits, '_', '-' and '.', the first no '-' or '.'",
        )
    return name


_Limit = TypeVar("_Limit", int, float)


def _positive(what: str, limit: _Limit | None) -> _Limit | None:
    if limit is not None and not limit > 0:
        raise ConfigError(f"{what} of a stream is positive or None, not {limit!r}")
    return limit


def _time_left(deadline: float | None, most: float) -> float:
    """Return the seconds to a deadline, at least 0 and at most some."""
    return most if deadline is None else min(most, max(0.0, deadline - time.monotonic()))
