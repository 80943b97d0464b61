"""LucidLink's own service behind the classes of this package, through its SDK 1.x.

The names of the SDK's beta, which this package has, are mapped to those of 1.0. What the service
does differently shows through: changes also travel in the background, so others may see them
before ``sync_all()``; ``open`` refuses a symbolic link at the end of a path (``ELOOP``) and a
relative link starts at the root; there are no locks. What 1.0 cannot do raises
`UnsupportedOperationError`.

Every name and parameter used here was checked against the SDK's classes. Nothing here has been
run against the service.
"""

from __future__ import annotations

import os
from typing import Any

from .connect import ConnectManager
from .errors import InvalidArgumentError, UnsupportedOperationError
from .filesystem import Filesystem
from .lucidlink_connect import LucidLinkConnect
from .lucidlink_fs import LucidLinkFilesystem
from .lucidlink_sdk import sdk, translated
from .models import Conflict, FilespaceInfo

__all__ = ["LucidLinkService", "connected"]


def connected(token_env: str) -> LucidLinkService:
    """Log in with the token in an environment variable; see `Workspace.lucidlink`."""
    lucidlink = sdk()
    token = os.environ.get(token_env, "")
    if not token:
        raise InvalidArgumentError(f"the environment variable {token_env} is not set")
    with translated():
        client = lucidlink.Client()
        client.login(lucidlink.ServiceAccountCredentials(token))
    return LucidLinkService(client)


class LucidLinkService:
    """A `Service` over a logged-in ``lucidlink.Client``."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._workspace = client.workspace
        self.id, self.name = str(self._workspace.id), str(self._workspace.name)

    def list(self) -> list[FilespaceInfo]:
        """See `Service.list`."""
        with translated():
            found = self._workspace.list_filespaces()
        return [FilespaceInfo(info.id, info.name, info.created_at) for info in found]

    def create(self, name: str) -> FilespaceInfo:
        """Refuse: the SDK cannot."""
        raise UnsupportedOperationError(
            f"workspace {self.name!r} has no filespace {name!r}; LucidLink's SDK cannot create "
            "one, its web client can"
        )

    def delete(self, name: str) -> None:
        """Refuse: the SDK cannot."""
        raise UnsupportedOperationError("LucidLink's SDK cannot delete a filespace")

    def find(self, name: str | None, identifier: str | None) -> FilespaceInfo | None:
        """See `Service.find`."""
        for info in self.list():
            if info.id == identifier or info.name.partition(".")[0] == name:
                return info
        return None

    def link(self, info: FilespaceInfo, root_path: str) -> LucidLinkLink:
        """See `Service.link`."""
        with translated():
            filespace = self._workspace.link_filespace(info.id)
        return LucidLinkLink(filespace, info.name, root_path)

    def close(self) -> None:
        """See `Service.close`."""
        with translated():
            self._client.close()


class LucidLinkLink:
    """A `Link` over a ``lucidlink.Filespace``."""

    def __init__(self, filespace: Any, name: str, root_path: str) -> None:
        self._filespace = filespace
        self.id = str(filespace.id)
        self.workspace_id = str(filespace.workspace.id)
        self.workspace_name = str(filespace.workspace.name)
        self.full_name = name if "." in name else f"{name}.{self.workspace_name}"
        self._fs = LucidLinkFilesystem(filespace.file_system, root_path)

    @property
    def fs(self) -> Filesystem:
        """See `Link.fs`."""
        return self._fs

    @property
    def is_linked(self) -> bool:
        """See `Link.is_linked`."""
        return bool(self._filespace.is_linked)

    @property
    def connect(self) -> ConnectManager:
        """See `Link.connect`."""
        with translated():
            stores = self._filespace.connect.data_stores
        return LucidLinkConnect(stores, self._fs)

    @property
    def watched(self) -> None:
        """Nothing: the service has no directory here."""
        return

    def sync(self) -> None:
        """See `Link.sync`."""
        with translated():
            self._filespace.sync()

    def refresh(self) -> None:
        """Do nothing: the service brings others' changes in by itself."""

    def compact(self) -> None:
        """Publish; the service tidies up by itself."""
        self.sync()

    def conflicts(self) -> list[Conflict]:
        """Return nothing: the service does not report conflicts."""
        return []

    def close_files(self) -> None:
        """Do nothing: the SDK closes open files when it unlinks."""

    def close(self) -> None:
        """See `Link.close`; the final sync, if there was to be one, has been made."""
        with translated():
            self._filespace.sync_barrier = sdk().SyncBarrier.NONE
            self._filespace.unlink()
