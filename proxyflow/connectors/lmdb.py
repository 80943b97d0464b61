"""Objects in an LMDB database: ``lmdb:///path``, ACID, for the processes of one host."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from proxyflow.connectors.kvs import KVSConnector, namespace_of, sessions_in
from proxyflow.connectors.kvserrors import translated
from proxyflow.connectors.session import SessionDirectory
from proxyflow.connectors.sweep import sweep
from proxyflow.connectors.url import StoreURL
from proxyflow.errors import ConfigError, StoreFullError
from proxyflow.storage import kvs
from proxyflow.storage.kvs.engines.lmdb_reserve import Reserve

__all__ = ["LMDBConnector"]

# Beside the database: who owns which session, as directories that are locked.
_OWNERS = "sessions"


class LMDBConnector(KVSConnector):
    """Objects in an LMDB database: each put a transaction, and one reader never waits for another.

    Parameters
    ----------
    path
        Directory of the database; made when missing.
    session
        The session to join; by default a new one, which this connector then owns.

    Raises
    ------
    MissingDependencyError
        If the package ``lmdb`` is not installed.
    StoreUnreachableError
        If the database cannot be opened.
    StoreClosedError
        If the session to join has ended.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as path, LMDBConnector(path) as connector:
    ...     key = connector.put(b"some bytes")
    ...     bytes(connector.get(key))
    b'some bytes'
    """

    # LMDB takes values of just under 4 GiB.
    part = 1 << 30

    def __init__(self, path: str, session: str | None = None) -> None:
        self.path = os.path.abspath(path)
        self._owners = os.path.join(self.path, _OWNERS)
        url = f"lmdb://{self.path}"
        if session is None:
            self._directory = self._begin(url)
        else:
            self._directory = SessionDirectory.join(self._owners, session)
        with contextlib.ExitStack() as undo:
            undo.callback(self._directory.close)
            super().__init__(url, self._directory.name)
            undo.callback(self._handle.close)
            if session is None:
                with translated(url):
                    kvs.namespace_create(self._handle, namespace_of(self._name))
            else:
                self._check_session()
            undo.pop_all()

    def _begin(self, url: str) -> SessionDirectory:
        # What dead owners left goes first; opening the database once more costs next to nothing.
        # What cannot be removed now must not keep a new run from starting.
        full = contextlib.suppress(kvs.StorageFullError)
        with translated(url), kvs.open(url) as handle, full:
            self._sweep(handle, self._owners)
        try:
            return SessionDirectory.create(self._owners)
        except StoreFullError:
            # The database leaves no room for a directory, however little it may hold by now.
            Reserve(self.path).release()
            return SessionDirectory.create(self._owners)

    @classmethod
    def from_url(cls, url: StoreURL) -> LMDBConnector:
        """Return the connector that ``lmdb:///path#session`` names."""
        _check_url(url)
        return cls(url.path, url.session)

    @staticmethod
    def hold_url(url: StoreURL) -> LMDBConnector:
        """Keep the session that `url` names alive, beyond its owner if need be.

        Raises
        ------
        StoreClosedError
            If it has ended.
        """
        _check_url(url)
        if not url.session:
            raise ConfigError(f"{url} names no session")
        connector = LMDBConnector(url.path, url.session)
        try:
            connector._directory.close()
            connector._directory = SessionDirectory.hold(connector._owners, url.session)
        except BaseException:
            connector.close()
            raise
        return connector

    @staticmethod
    def sweep_url(url: StoreURL) -> list[str]:
        """Remove what dead owners left in the database `url` names; opens no session."""
        _check_url(url)
        if not os.path.isdir(url.path):
            return []
        name = f"lmdb://{url.path}"
        with translated(name), kvs.open(name) as handle:
            return LMDBConnector._sweep(handle, os.path.join(url.path, _OWNERS))

    @property
    def owner(self) -> bool:
        """Whether closing this connector ends the session, unless somebody else holds it."""
        return self._directory.owner

    @property
    def url(self) -> str:
        """URL that opens the same session."""
        return str(StoreURL("lmdb", "", self.path, {}, self._name))

    def config(self) -> dict[str, Any]:
        """Return what `from_config` needs to join this session."""
        return {"path": self.path, "session": self._name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LMDBConnector:
        """Return a connector for a configuration, joining its session."""
        return cls(**config)

    def sweep(self) -> list[str]:
        """Remove the sessions whose owner is dead, and return their names."""
        self._check_open()
        with translated(self._store):
            return self._sweep(self._handle, self._owners)

    @staticmethod
    def _sweep(handle: kvs.Handle, owners: str) -> list[str]:
        # Looked at first: a session begins with its directory.
        sessions = sessions_in(handle)
        swept = set(sweep(owners))
        for session in sessions:
            if not os.path.isdir(os.path.join(owners, session)):
                _remove(handle, namespace_of(session))
                swept.add(session)
        return sorted(swept)

    def _end(self) -> None:
        owner = self.owner
        self._directory.close()
        if owner and not os.path.isdir(os.path.join(self._owners, self._name)):
            _remove(self._handle, namespace_of(self._name))


def _remove(handle: kvs.Handle, namespace: str) -> None:
    """Remove a session: in one go, or bit by bit where a full disk leaves no room for the list."""
    try:
        kvs.namespace_remove(handle, namespace)
    except kvs.StorageFullError:
        for key in _values_in(handle, namespace):
            with kvs.KVSTxn(handle, namespace=namespace) as transaction:
                transaction.unlink(key)
        kvs.namespace_remove(handle, namespace)


def _values_in(handle: kvs.Handle, namespace: str) -> Iterator[str]:
    """Yield the keys of all values, those of the objects before those of their parts."""
    pending = ["p", "o"]
    while pending:
        key = pending.pop()
        try:
            pending += [f"{key}.{name}" for name in kvs.get_dir(handle, key, namespace)]
        except kvs.NotDirectoryError:
            yield key
        except kvs.KeyNotFoundError:
            continue


def _check_url(url: StoreURL) -> None:
    url.check_options(frozenset())
    if url.authority or not url.path:
        raise ConfigError(
            f"{url} does not name a directory of this host", remedy="write lmdb:///directory"
        )
