"""Objects to payloads and back: pickle out of band, frames with digests, compression, secrets."""

from __future__ import annotations

from proxyflow.serialize.objects import deserialize, serialize
from proxyflow.serialize.payload import Payload
from proxyflow.serialize.reducers import register_serializer, unregister_serializer

__all__ = [
    "Payload",
    "deserialize",
    "register_serializer",
    "serialize",
    "unregister_serializer",
]
