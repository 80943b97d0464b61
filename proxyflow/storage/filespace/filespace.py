"""A linked filespace: identity, file system, data stores, and when changes are published."""

from __future__ import annotations

from types import TracebackType
from typing import NoReturn, Protocol, Self

from .connect import ConnectManager
from .errors import FilespaceError
from .filesystem import Filesystem
from .models import Conflict, SyncMode

__all__ = ["Filespace", "Link"]


class Link(Protocol):
    """What is behind a `Filespace`: a hub, or LucidLink's service."""

    id: str
    full_name: str
    workspace_id: str
    workspace_name: str

    @property
    def fs(self) -> Filesystem:
        """The file system."""

    @property
    def is_linked(self) -> bool:
        """Whether it can be used."""

    @property
    def connect(self) -> ConnectManager:
        """The data stores."""

    @property
    def watched(self) -> str | None:
        """The directory in which something changes when somebody publishes."""

    def sync(self) -> None:
        """Publish what is pending."""

    def refresh(self) -> None:
        """Bring in what others have published."""

    def compact(self) -> None:
        """Tidy up the hub."""

    def conflicts(self) -> list[Conflict]:
        """Return the conflicts so far."""

    def close_files(self) -> None:
        """Close the files that are open."""

    def close(self) -> None:
        """End the link; what is pending is given up."""


class Filespace:
    """A filespace after ``workspace.link_filespace()``.

    Used as a context manager it publishes pending changes (if its sync mode says so) and unlinks
    on exit. The names and their meaning are those of ``lucidlink.filespace.Filespace`` in the
    SDK's beta; where a failed sync was swallowed there, it is raised here, as in 1.0.

    Examples
    --------
    >>> from proxyflow.storage.filespace import Workspace
    >>> workspace = Workspace("memory://docs-filespace")
    >>> with workspace.link_filespace(name="data") as filespace:
    ...     filespace.fs.write_file("/file.txt", b"data")
    ...     filespace.sync_all()
    ...     filespace.fs.read_file("/file.txt")
    b'data'
    >>> filespace.is_linked
    False
    """

    def __init__(self, link: Link, sync_mode: SyncMode) -> None:
        self._link, self._sync_mode = link, sync_mode

    @property
    def id(self) -> str:
        """The filespace's identifier; stays when it is renamed."""
        return self._link.id

    @property
    def full_name(self) -> str:
        """The full name: the short one, a dot, and the workspace's name."""
        return self._link.full_name

    @property
    def name(self) -> str:
        """The short name: what is before the first dot of the full one."""
        return self._link.full_name.partition(".")[0]

    @property
    def workspace_id(self) -> str:
        """The identifier of the workspace."""
        return self._link.workspace_id

    @property
    def workspace_name(self) -> str:
        """The name of the workspace."""
        return self._link.workspace_name

    @property
    def sync_mode(self) -> SyncMode:
        """Whether unlinking publishes what is pending."""
        return self._sync_mode

    @property
    def is_linked(self) -> bool:
        """Whether the filespace can be used: linked by this process and not unlinked."""
        return self._link.is_linked

    @property
    def fs(self) -> Filesystem:
        """Files, directories and symbolic links."""
        return self._link.fs

    @property
    def connect(self) -> ConnectManager:
        """Data stores and external files."""
        return self._link.connect

    def sync_all(self) -> None:
        """Publish all pending changes; return when they are durable in the hub.

        Contents are published before the metadata that names them, and that in one step: other
        clients see all of a sync or nothing of it. Files still open for writing are left for the
        next sync. A change that finds its name taken by another client's is published under a
        ``_conflicted`` name; see `conflicts`.

        Raises
        ------
        FilespaceSyncError
            (a ``RuntimeError``) If it failed. Nothing was published; the changes stay pending
            and this can be called again.
        FilespaceNotLinkedError
            After ``unlink()``.
        """
        self._link.sync()

    def refresh(self) -> None:
        """Bring in what other clients have published, whatever the workspace's ``max_age``.

        Raises
        ------
        HubUnavailableError
            If the hub does not answer.
        FilespaceNotLinkedError
            After ``unlink()``.
        """
        self._link.refresh()

    @property
    def watched(self) -> str | None:
        """The directory in which something changes whenever somebody publishes, if there is one.

        With a hub in a directory; to be watched by those who wait for others on the same host.
        """
        return self._link.watched

    def conflicts(self) -> list[Conflict]:
        """Return the changes of this client that had to take another name, oldest first."""
        return self._link.conflicts()

    def compact(self) -> None:
        """Publish pending changes and delete everything the hub keeps for slower clients' sake.

        A hub is kept tidy by the syncs themselves; this does it now, for a filespace that will
        not be changed for long. A client that is reading something deleted this way gets an error
        and can try again.
        """
        self._link.compact()

    def unlink(self, *, discard: bool = False) -> None:
        """End the link; a no-op after the first time.

        Files still open are closed, then, if the sync mode is ``SYNC_ALL``, pending changes are
        published. If that fails the filespace stays linked and nothing is lost: call again, or
        with `discard` to give the changes up.

        Raises
        ------
        FilespaceSyncError
            If publishing failed.
        """
        if not self._link.is_linked:
            return
        if not discard:
            self._link.close_files()
            if self._sync_mode is SyncMode.SYNC_ALL:
                self._link.sync()
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.unlink()
        except (FilespaceError, OSError) as failure:
            if error is None:
                raise
            # What went wrong in the block comes first, but the failed sync must not go unnoticed.
            error.add_note(f"unlinking {self.full_name} failed too: {failure}")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a linked filespace cannot be pickled; link it where it is needed")

    def __repr__(self) -> str:
        state = "" if self.is_linked else ", not linked"
        return f"Filespace({self.full_name!r}, id={self.id!r}{state})"
