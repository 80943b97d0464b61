"""A short way to put and commit."""

from __future__ import annotations

from typing import Any

from proxyflow.storage import kvs


def commit(handle: kvs.Handle, **values: Any) -> None:
    """Put values under keys, and commit."""
    for key, value in values.items():
        kvs.put(handle, key, value)
    kvs.commit(handle)
