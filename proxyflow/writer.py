"""Writing payloads to a connector, in the way that costs it the least."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from proxyflow.connectors.protocol import (
    Connector,
    FrameBatchWriter,
    FrameWriter,
    Key,
    SourceWriter,
)
from proxyflow.serialize import Payload

__all__ = ["Writer"]


class Writer:
    """Puts payloads into a connector: copied to where they will lie, as pieces, or joined.

    Parameters
    ----------
    connector
        Where they go.

    Attributes
    ----------
    in_place : bool
        Whether they are copied to where they will lie, so that one that is not sealed yet takes
        little more than a copy.

    Examples
    --------
    >>> from proxyflow.connectors.memory import MemoryConnector
    >>> from proxyflow.serialize import serialize
    >>> with MemoryConnector() as connector:
    ...     key = Writer(connector).put(serialize(b"some bytes"))
    ...     connector.get(key)[-10:]
    b'some bytes'
    """

    def __init__(self, connector: Connector) -> None:
        self._connector: Any = connector
        # Asked once: a runtime check of a protocol takes longer than a small put.
        self.in_place = isinstance(connector, SourceWriter)
        self._pieces = isinstance(connector, FrameWriter)
        self._batches = isinstance(connector, FrameBatchWriter)

    def put(self, payload: Payload) -> Key:
        """Store a payload and return its key."""
        if self.in_place:
            return self._connector.put_source(payload)
        if self._pieces:
            return self._connector.put_frames(payload.frames)
        return self._connector.put(b"".join(payload.frames))

    def set(self, key: Key, payload: Payload) -> None:
        """Store a payload under a key made before."""
        if self.in_place:
            self._connector.set_source(key, payload)
        elif self._pieces:
            self._connector.set_frames(key, payload.frames)
        else:
            self._connector.set(key, b"".join(payload.frames))

    def put_batch(self, payloads: Sequence[Payload]) -> list[Key]:
        """Store several payloads and return their keys; when one cannot be stored, none is."""
        connector = self._connector
        if self._batches:
            return connector.put_frames_batch([payload.frames for payload in payloads])  # type: ignore[no-any-return]
        if not (self.in_place or self._pieces):
            return connector.put_batch([b"".join(payload.frames) for payload in payloads])  # type: ignore[no-any-return]
        keys: list[Key] = []
        try:
            for payload in payloads:
                keys.append(self.put(payload))
        except BaseException:
            for key in keys:
                connector.evict(key)
            raise
        return keys
