"""Objects in shared memory: ``shm://``, the store of the processes of one host."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from proxyflow.connectors.file import FileConnector
from proxyflow.connectors.root import in_memory
from proxyflow.connectors.session import private_directory
from proxyflow.connectors.url import StoreURL
from proxyflow.errors import ConfigError

__all__ = ["SharedMemoryConnector"]

_SHARED_MEMORY = "/dev/shm"


class SharedMemoryConnector(FileConnector):
    """Objects in shared memory, in pages that are used again and again.

    Everything that :class:`FileConnector` is and promises, in a file system that is kept in memory
    and refuses any other. What is removed by the process that stored it leaves its pages to the
    next object: storing is then one copy into memory that is there and mapped, several times as
    fast as into fresh pages. What a reader has mapped never changes; how that is made sure of is
    said in `proxyflow.storage.segments`. Small objects are packed many to a file, which takes no
    system call (`proxyflow.storage.arena`).

    Parameters
    ----------
    store_dir
        A directory in shared memory; by default one of this user's.
    **options
        As :class:`FileConnector`'s. Above all `capacity`, the bytes of removed objects to keep (by
        default a quarter of what is free in file system, host and container; given back after
        some seconds without use, and at once when there is no room), and `spill`.

    Raises
    ------
    ConfigError
        If the directory is not in memory.

    Examples
    --------
    >>> connector = SharedMemoryConnector()
    >>> key = connector.put(bytes(100_000))
    >>> len(connector.get_view(key))
    100000
    >>> connector.close()
    """

    scheme = "shm"
    packs = True

    def __init__(self, store_dir: str | None = None, clear: bool = True, **options: Any) -> None:
        if store_dir is None:
            store_dir = private_directory(_SHARED_MEMORY)
        existing = store_dir
        while not os.path.exists(existing):
            existing = os.path.dirname(os.path.abspath(existing))
        if not in_memory(existing):
            raise ConfigError(
                f"{store_dir} is not in shared memory",
                remedy="use a directory under /dev/shm, or file://",
            )
        super().__init__(store_dir, clear, **options)

    @classmethod
    def _complete(cls, url: StoreURL) -> StoreURL:
        """Return a URL with the directory that ``shm://`` alone stands for."""
        if url.path in ("", "/") and not url.authority:
            return url.replace(path=private_directory(_SHARED_MEMORY))
        return url

    @classmethod
    def from_url(cls, url: StoreURL) -> FileConnector:
        """Return the connector that ``shm:///dev/shm/run1?capacity=1GiB&spill=/tmp`` names."""
        return super().from_url(cls._complete(url))

    @classmethod
    def sweep_url(cls, url: StoreURL) -> list[str]:
        """Remove what dead owners left in the directories `url` names; opens no session."""
        return super().sweep_url(cls._complete(url))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SharedMemoryConnector:
        """Return a connector for a configuration, joining its session."""
        return cls(**config)
