"""A session as a folder of a filespace, and what to raise when the filespace does not answer.

::

    /runs                   the store's folder
      k3v5qa2mbx            one session
        owner               its record; owners hold a shared lock on this file while they live
        r1bz...             objects

A session appears in one sync, its owner's lock already held; removing it takes the exclusive lock.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from proxyflow.connectors.session import SESSION_NAME, new_name, no_session
from proxyflow.connectors.url import StoreURL
from proxyflow.errors import (
    ConfigError,
    CorruptObjectError,
    MissingDependencyError,
    ProxyflowError,
    StoreClosedError,
    StoreFullError,
    StoreUnreachableError,
)
from proxyflow.forking import renew_in_child
from proxyflow.storage import filespace as fsp

__all__ = ["RECORD", "Link", "Place", "SessionFolder", "is_directory", "sweep", "translated"]

RECORD = "owner"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Place(NamedTuple):
    """Where a store is: ``filespace://WORKSPACE/FILESPACE/folder?hub=...``."""

    hub: str
    workspace: str
    filespace: str
    folder: str
    endpoint: str = ""

    @classmethod
    def of(cls, url: StoreURL) -> Place:
        """Return the place a URL names.

        Raises
        ------
        ConfigError
            If it names none.
        """
        name, _, folder = url.path.strip("/").partition("/")
        variable = "FILESPACE_HUB_" + "".join(
            c if c.isascii() and c.isalnum() else "_" for c in url.authority.upper()
        )
        hub = url.options.get("hub") or os.environ.get(variable)
        if not (hub and url.authority and name):
            raise ConfigError(
                f"{url} does not name a folder of a filespace",
                remedy="write filespace://WORKSPACE/FILESPACE/folder?hub=/where/the/hub/is, or "
                f"set {variable} to the hub",
            )
        if "://" not in hub:
            # Tasks may run in another working directory.
            hub = os.path.abspath(hub)
        folder = "/" + (folder.strip("/") or "proxyflow")
        return cls(hub, url.authority, name, folder, url.options.get("endpoint", ""))

    @property
    def url(self) -> StoreURL:
        """The URL, without a session."""
        path = f"/{self.filespace}{self.folder}"
        options = {"hub": self.hub}
        if self.endpoint:
            options["endpoint"] = self.endpoint
        return StoreURL("filespace", self.workspace, path, options)

    def session(self, name: str) -> str:
        """Return the folder of a session."""
        return f"{self.folder}/{name}"


def is_directory(hub: str) -> bool:
    """Return whether a hub is a directory, the files of which can be mapped."""
    return hub.partition("://")[0] in (hub, "file", "local")


@contextlib.contextmanager
def translated(store: object, key: object = None) -> Iterator[None]:
    """Turn what a filespace raises into the store's errors."""
    where: dict[str, Any] = {"store": store, "key": key}
    try:
        yield
    except (FileNotFoundError, ProxyflowError):
        # What it means that a name is gone, the caller knows.
        raise
    except (fsp.FilespaceNotLinkedError, fsp.FilespaceNotFoundError) as error:
        raise StoreClosedError(str(error), **where) from error
    except (fsp.FsContentError, fsp.HubCorruptError) as error:
        raise CorruptObjectError(str(error), **where) from error
    except fsp.MissingDependencyError as error:
        raise MissingDependencyError(str(error)) from error
    except (fsp.InvalidArgumentError, fsp.HubUnsupportedError) as error:
        raise ConfigError(str(error)) from error
    except (fsp.FilespaceError, OSError) as error:
        cause = error.__cause__ if isinstance(error, fsp.FilespaceSyncError) else error
        if isinstance(cause, OSError) and cause.errno in _FULL:
            raise StoreFullError(
                "no room in the hub", **where, remedy="evict what is not needed"
            ) from error
        raise StoreUnreachableError(
            str(error), **where, remedy="check that the hub can be reached, then try again"
        ) from error


class Link:
    """A link to a filespace that is made again in a forked child.

    Parameters
    ----------
    place
        Which filespace.
    create
        Whether it is made if missing.
    """

    def __init__(self, place: Place, *, create: bool) -> None:
        self.place = place
        self._closed = False
        self.renew_after_fork()
        renew_in_child(self)
        with translated(place.url):
            self._linked: fsp.Filespace | None = self._link(create)

    def renew_after_fork(self) -> None:
        """Forget the parent's link, and its lock, which a thread of the parent may hold."""
        self._lock = threading.RLock()
        self._linked = None

    def _link(self, create: bool) -> fsp.Filespace:
        place = self.place
        options = {"endpoint_url": place.endpoint} if place.endpoint else None
        workspace = fsp.Workspace(place.hub, place.workspace, storage_options=options)
        if workspace.name != place.workspace:
            raise ConfigError(
                f"hub {place.hub} is workspace {workspace.name!r}, not {place.workspace!r}"
            )
        if not create and workspace.find_filespace(place.filespace) is None:
            raise fsp.FilespaceNotFoundError(f"there is no filespace {place.filespace!r}")
        return workspace.link_filespace(place.filespace, sync_mode=fsp.SyncMode.SYNC_NONE)

    def get(self) -> fsp.Filespace:
        """Return the filespace, linked by this process.

        Raises
        ------
        StoreClosedError
            After `close`.
        """
        with self._lock:
            if self._closed:
                raise StoreClosedError("the store has been closed", store=self.place.url)
            if self._linked is None:
                self._linked = self._link(create=False)
            return self._linked

    def close(self) -> None:
        """End the link; what is pending is given up."""
        with self._lock:
            linked, self._linked, self._closed = self._linked, None, True
        if linked is not None:
            linked.unlink()


class SessionFolder:
    """One session's folder, owned or joined; `create`, `join` or `hold` it.

    It is also what keeps a session alive from outside, see `Holdable`.
    """

    def __init__(self, link: Link, name: str) -> None:
        self.link, self.name = link, name
        self.closed = False
        self._lock: IO[bytes] | None = None
        self._pid = os.getpid()

    @classmethod
    def create(cls, place: Place, *, keep: bool) -> SessionFolder:
        """Start a session and own it; with `keep` nobody removes it."""
        session = cls(Link(place, create=True), new_name(10))
        try:
            with translated(place.url):
                filespace = session.link.get()
                # What cannot be removed now must not keep a new run from starting.
                with contextlib.suppress(fsp.FilespaceError, OSError):
                    sweep(filespace, place)
                filespace.fs.create_dir(session.path)
                record = json.dumps({"keep": keep}).encode()
                filespace.fs.write_file(session.record, record)
                session._take_lock()
                filespace.sync_all()
        except BaseException:
            session.link.close()
            raise
        return session

    @classmethod
    def join(cls, place: Place, name: str) -> SessionFolder:
        """Open a session that another process owns; `StoreClosedError` if it has ended."""
        if not SESSION_NAME.fullmatch(name):
            raise no_session(name, place.url)
        session = cls(Link(place, create=False), name)
        try:
            with translated(place.url):
                if not session.link.get().fs.file_exists(session.record):
                    raise session.ended()
        except BaseException:
            session.link.close()
            raise
        return session

    @classmethod
    def hold(cls, place: Place, name: str) -> SessionFolder:
        """Open a session that another process owns, and own it as well."""
        session = cls.join(place, name)
        try:
            with translated(place.url):
                session._take_lock()
        except fsp.FsNotFoundError:
            session.link.close()
            raise session.ended() from None
        except BaseException:
            session.link.close()
            raise
        return session

    @property
    def path(self) -> str:
        """The folder."""
        return self.link.place.session(self.name)

    @property
    def record(self) -> str:
        """The owner's record."""
        return f"{self.path}/{RECORD}"

    @property
    def owner(self) -> bool:
        """Whether this object ends the session; never true in a forked child."""
        return self._lock is not None and self._pid == os.getpid()

    def ended(self, key: object = None, session: str | None = None) -> StoreClosedError:
        """Return the error of a session, by default this one, whose folder is gone."""
        return StoreClosedError(
            f"session {session or self.name} has ended: its folder is gone",
            store=self.link.place.url,
            key=key,
            remedy="keep the store that started the run open until its tasks are done",
        )

    def _take_lock(self) -> None:
        self._lock = self.link.get().fs.open(self.record, "rb", lock_type="shared")

    def close(self, *, keep: bool = False) -> None:
        """Let go; the last owner removes the session unless it is to be kept."""
        if self.closed:
            return
        self.closed = True
        owner, lock = self.owner, self._lock
        self._lock = None
        if self._pid != os.getpid():
            return
        try:
            if owner and lock is not None:
                with translated(self.link.place.url):
                    filespace = self.link.get()
                    if keep:
                        filespace.fs.write_file(self.record, json.dumps({"keep": True}).encode())
                        filespace.sync_all()
                    lock.close()
                    if not keep:
                        _remove_unless_held(filespace, self.path)
        finally:
            self.link.close()


def sweep(filespace: fsp.Filespace, place: Place) -> list[str]:
    """Remove the sessions whose owner is dead and return their names."""
    fs = filespace.fs
    if not fs.dir_exists(place.folder):
        return []
    names = [name for name in fs.list_dir(place.folder) if SESSION_NAME.fullmatch(name)]
    return [name for name in names if _remove_unless_held(filespace, place.session(name))]


def _remove_unless_held(filespace: fsp.Filespace, path: str) -> bool:
    """Remove a session that nobody holds and nobody wants kept; return whether it was."""
    fs, record = filespace.fs, f"{path}/{RECORD}"
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(fs.open(record, "rb", lock_type="exclusive", lock_timeout=0))
            if json.loads(file.read())["keep"]:
                return False
        except (fsp.FsLockedError, ValueError, KeyError, TypeError):
            # Somebody holds it; or it is no record of ours, and the folder no session.
            return False
        except FileNotFoundError:
            # Record and folder appear together: one without record is what a process of the run
            # stored while the session was being removed. Somebody else may have removed it, too.
            pass
        # Until nobody has stored one more object in between.
        removed = False
        while fs.dir_exists(path):
            with contextlib.suppress(FileNotFoundError):
                fs.delete_dir(path, recursive=True)
            filespace.sync_all()
            removed = True
    return removed
