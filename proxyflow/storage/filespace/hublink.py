"""A link to a filespace in a hub."""

from __future__ import annotations

from .blobs import Blobs
from .client import Client
from .connect import ConnectManager
from .datastores import Keyring
from .errors import FsNotADirectoryError, FsNotFoundError
from .filesystem import Filesystem
from .hub import Hub
from .hubconnect import HubConnect
from .hubfs import HubFilesystem
from .models import Conflict
from .paths import split
from .sources import Sources

__all__ = ["HubLink"]


class HubLink:
    """The embedded `Link`.

    Parameters
    ----------
    blobs
        The storage of the workspace.
    folder
        Where the filespace is in it.
    names
        Identifier and full name of the filespace, identifier and name of the workspace.
    root_path
        The directory that is ``/`` for this link.
    keyring
        The credentials given to this process.
    max_age, sync_timeout
        See `Client`.
    """

    def __init__(
        self,
        blobs: Blobs,
        folder: str,
        names: tuple[str, str, str, str],
        root_path: str,
        keyring: Keyring,
        max_age: float,
        sync_timeout: float,
    ) -> None:
        self.id, self.full_name, self.workspace_id, self.workspace_name = names
        hub = Hub(blobs, folder, f"filespace {self.full_name!r} in {blobs.url}")
        self._client = Client(hub, max_age, sync_timeout)
        self._watched = blobs.local_path(folder)
        sources = Sources(self._client, keyring)
        top = HubFilesystem(self._client, (), sources)
        root = split(root_path)
        try:
            if not top.dir_exists(root_path):
                kind = FsNotADirectoryError if top.file_exists(root_path) else FsNotFoundError
                raise kind.at(root_path)
            where = top.resolve(root_path)[1:] if root else ()
        except BaseException:
            self._client.close()
            raise
        self._fs = HubFilesystem(self._client, where, sources)
        self._connect = HubConnect(self._client, self._fs, sources)

    @property
    def fs(self) -> Filesystem:
        """See `Link.fs`."""
        return self._fs

    @property
    def is_linked(self) -> bool:
        """See `Link.is_linked`."""
        return self._client.is_linked

    @property
    def connect(self) -> ConnectManager:
        """See `Link.connect`."""
        self._client.check()
        return self._connect

    @property
    def watched(self) -> str | None:
        """See `Link.watched`."""
        return self._watched

    def sync(self) -> None:
        """See `Link.sync`."""
        self._client.sync()

    def refresh(self) -> None:
        """See `Link.refresh`."""
        self._client.refresh()

    def compact(self) -> None:
        """See `Link.compact`."""
        self._client.sync(compact=True)

    def conflicts(self) -> list[Conflict]:
        """See `Link.conflicts`."""
        return list(self._client.view.conflicts)

    def close_files(self) -> None:
        """See `Link.close_files`."""
        self._client.close_streams()

    def close(self) -> None:
        """See `Link.close`."""
        self._client.close()
