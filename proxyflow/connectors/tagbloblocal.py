"""Objects in a tag/blob store in directories of this host: ``ddfs+file://``."""

from __future__ import annotations

import os

from proxyflow.connectors.session import SessionDirectory
from proxyflow.connectors.sessionkey import SessionKey
from proxyflow.connectors.sweep import sweep
from proxyflow.connectors.tagblob import TagBlobConnector, session_tag
from proxyflow.connectors.tagbloberrors import translated
from proxyflow.connectors.url import StoreURL
from proxyflow.errors import ConfigError

__all__ = ["LocalTagBlobConnector"]

# Beside the volumes: who owns which session, as directories that are locked.
_OWNERS = "sessions"


class LocalTagBlobConnector(TagBlobConnector):
    """Objects in a tag/blob store in directories of this host: ``ddfs+file:///path``.

    Objects of one blob (up to 64 MiB) are mapped where they are used. Who owns a session is told by
    a lock, so what a killed process left is removed as soon as somebody looks.
    """

    def _begin(self) -> str:
        with translated(self._url):
            self.swept = self._sweep()
        self._directory = SessionDirectory.create(self._owners)
        with translated(self._url):
            self._ddfs.admit_readers(session_tag(self._directory.name))
            self._ddfs.put(session_tag(self._directory.name), [])
        return self._directory.name

    def _join(self, session: str) -> str:
        self._directory = SessionDirectory.join(self._owners, session)
        return session

    @property
    def _owners(self) -> str:
        return os.path.join(StoreURL.parse(self._url).path, _OWNERS)

    @property
    def owner(self) -> bool:
        """Whether closing this connector ends the session, unless somebody else holds it."""
        return self._directory.owner

    @staticmethod
    def hold_url(url: StoreURL) -> LocalTagBlobConnector:
        """Keep the session that `url` names alive, beyond its owner if need be.

        Raises
        ------
        StoreClosedError
            If it has ended.
        """
        if not url.session:
            raise ConfigError(f"{url} names no session")
        connector: LocalTagBlobConnector = LocalTagBlobConnector.from_url(url)
        try:
            connector._directory.close()
            connector._directory = SessionDirectory.hold(connector._owners, url.session)
        except BaseException:
            connector.close()
            raise
        return connector

    def _is_dead(self, session: str) -> bool:
        return not os.path.isdir(os.path.join(self._owners, session))

    def _sweep(self) -> list[str]:
        # Tags first: a session begins with its directory.
        found = self._sessions()
        swept = set(sweep(self._owners))
        for session in found:
            if self._is_dead(session) and self._may_drop(session):
                swept.add(session)
        return sorted(swept)

    def _end(self) -> None:
        owner = self.owner
        self._directory.close()
        if owner and self._is_dead(self._name):
            self._drop(self._name)

    def get_view(self, key: SessionKey) -> memoryview | None:
        """Return the object as private, writable memory, mapped if it is one blob."""
        blobs = self._open(key)
        if blobs is None:
            return None
        if len(blobs) == 1 and len(blobs[0]):
            with blobs[0]:
                return blobs[0].map(writable=True)
        return self.get_fresh(key)
