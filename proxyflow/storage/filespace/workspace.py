"""A workspace: the filespaces of one hub, or of one account at LucidLink."""

from __future__ import annotations

import weakref
from types import TracebackType
from typing import Any, NoReturn, Protocol, Self

from .errors import FilespaceExistsError, FilespaceNotFoundError, InvalidArgumentError
from .filespace import Filespace, Link
from .models import FilespaceInfo, SyncMode

__all__ = ["Service", "Workspace"]


class Service(Protocol):
    """What is behind a `Workspace`."""

    id: str
    name: str

    def list(self) -> list[FilespaceInfo]:
        """Return the filespaces."""

    def create(self, name: str) -> FilespaceInfo:
        """Create a filespace."""

    def delete(self, name: str) -> None:
        """Delete a filespace."""

    def find(self, name: str | None, identifier: str | None) -> FilespaceInfo | None:
        """Return a filespace by name or by identifier."""

    def link(self, info: FilespaceInfo, root_path: str) -> Link:
        """Link a filespace."""

    def close(self) -> None:
        """Free what the workspace holds."""


class Workspace:
    """The filespaces of one hub.

    Parameters
    ----------
    hub
        A directory, ``file://...``, ``s3://bucket/prefix`` or ``memory://...``; made if missing.
    name
        What the workspace is called when it is made; the last part of `hub` by default. A
        workspace that exists keeps its name.
    storage_options
        For a hub reached through fsspec: what its file system takes.
    max_age
        For how many seconds a client uses metadata without asking the hub for newer; 0 asks every
        time, which costs one small read.
    sync_timeout
        How many seconds a sync waits while other clients publish.

    Raises
    ------
    HubUnavailableError
        If the hub cannot be reached.
    HubUnsupportedError
        If the storage behind `hub` cannot publish atomically.

    Examples
    --------
    >>> workspace = Workspace("memory://docs-workspace", name="lab")
    >>> with workspace.link_filespace(name="data") as filespace:
    ...     filespace.full_name
    'data.lab'
    >>> [info.name for info in workspace.list_filespaces()]
    ['data']
    """

    def __init__(
        self,
        hub: str,
        name: str | None = None,
        *,
        storage_options: dict[str, Any] | None = None,
        max_age: float = 0.0,
        sync_timeout: float = 60.0,
    ) -> None:
        from .hubservice import HubService

        self._service: Service = HubService(hub, name, storage_options, max_age, sync_timeout)
        self._linked: weakref.WeakSet[Filespace] = weakref.WeakSet()

    @classmethod
    def lucidlink(cls, *, token_env: str = "LUCIDLINK_TOKEN") -> Self:
        """Return the workspace of a LucidLink service account, through LucidLink's own SDK.

        Needs the package ``lucidlink`` (1.x). Its calls were checked against the SDK's classes
        and signatures; they have not been run against the service.

        Parameters
        ----------
        token_env
            The environment variable the account's token is in.

        Raises
        ------
        MissingDependencyError
            If the SDK is not installed.
        InvalidArgumentError
            If the variable is not set.
        """
        from .lucidlink import connected

        workspace = cls.__new__(cls)
        workspace._service = connected(token_env)
        workspace._linked = weakref.WeakSet()
        return workspace

    @property
    def id(self) -> str:
        """The workspace's identifier."""
        return self._service.id

    @property
    def name(self) -> str:
        """The workspace's name."""
        return self._service.name

    @property
    def linked_filespaces(self) -> list[Filespace]:
        """The filespaces linked through this object and not unlinked."""
        return [filespace for filespace in self._linked if filespace.is_linked]

    def list_filespaces(self) -> list[FilespaceInfo]:
        """Return the filespaces of the workspace, sorted by name."""
        return sorted(self._service.list(), key=lambda info: info.name)

    def find_filespace(self, name: str) -> FilespaceInfo | None:
        """Return the filespace of this name, short or full, ``None`` if there is none."""
        return self._service.find(self._short(name), None)

    def create_filespace(self, name: str) -> FilespaceInfo:
        """Create an empty filespace.

        Raises
        ------
        FilespaceExistsError
            If there is one of this name.
        InvalidArgumentError
            If the name is not 1 to 63 letters, digits, hyphens and underscores.
        """
        return self._service.create(name)

    def delete_filespace(self, name: str) -> None:
        """Delete a filespace with everything in it; objects in data stores stay.

        Clients that have it linked get `FilespaceNotFoundError`.

        Raises
        ------
        FilespaceNotFoundError
            If there is none of this name.
        """
        self._service.delete(name)

    def link_filespace(
        self,
        name: str | None = None,
        id: str | None = None,
        root_path: str = "/",
        sync_mode: SyncMode = SyncMode.SYNC_ALL,
    ) -> Filespace:
        """Link a filespace and return it; each link is a client with changes of its own.

        Parameters
        ----------
        name
            The name, short or full; in a hub a filespace of this name is created if missing.
        id
            The identifier, instead of the name.
        root_path
            The directory of the filespace that is ``/`` for this link; it cannot leave it.
        sync_mode
            Whether ``unlink()``, and leaving the ``with`` block, publish what is pending.

        Raises
        ------
        InvalidArgumentError
            Unless exactly one of `name` and `id` is given.
        FilespaceNotFoundError
            If there is no filespace of this identifier.
        FsNotFoundError, FsNotADirectoryError
            If `root_path` is not a directory of the filespace.
        """
        if (name is None) == (id is None):
            raise InvalidArgumentError("give either the name or the id of a filespace")
        info = self._service.find(self._short(name), id)
        if info is None:
            if name is None:
                raise FilespaceNotFoundError(f"workspace {self.name!r} has no filespace {id!r}")
            info = self._made(self._short(name) or "")
        filespace = Filespace(self._service.link(info, root_path), sync_mode)
        self._linked.add(filespace)
        return filespace

    def stop(self) -> None:
        """Unlink every filespace linked through this object, then free what it holds."""
        failures: list[Exception] = []
        for filespace in self.linked_filespaces:
            try:
                filespace.unlink()
            except Exception as error:  # noqa: BLE001  every link is tried, all failures raised
                failures.append(error)
        if failures:
            raise ExceptionGroup(f"unlinking filespaces of {self.name!r} failed", failures)
        self._service.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a workspace cannot be pickled; open it where it is needed")

    def __repr__(self) -> str:
        return f"Workspace({self.name!r}, id={self.id!r})"

    def _made(self, name: str) -> FilespaceInfo:
        try:
            return self._service.create(name)
        except FilespaceExistsError:
            info = self._service.find(name, None)  # somebody else was faster
            if info is None:
                raise
            return info

    def _short(self, name: str | None) -> str | None:
        """Return the short form of a name, which may be given in full."""
        if name is None:
            return None
        short, dot, rest = name.partition(".")
        if dot and rest != self.name:
            raise FilespaceNotFoundError(f"workspace {self.name!r} has no filespace {name!r}")
        return short
