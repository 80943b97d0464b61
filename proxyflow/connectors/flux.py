"""Objects in the KVS of a Flux instance: ``flux://``, for the processes of a job."""

from __future__ import annotations

import time
from typing import Any

from proxyflow.connectors.kvs import KVSConnector, namespace_of, sessions_in
from proxyflow.connectors.kvserrors import translated
from proxyflow.connectors.lease import LEASE, Lease
from proxyflow.connectors.session import new_name
from proxyflow.connectors.url import StoreURL
from proxyflow.storage import kvs

__all__ = ["FluxConnector"]

_RENEWED = "renewed"


class FluxConnector(KVSConnector):
    """Objects in the KVS of a Flux instance.

    Parameters
    ----------
    url
        ``flux://``, the instance of this process, or ``flux://`` and the rest of a ``FLUX_URI``.
    session
        The session to join; by default a new one, which this connector then owns.

    Raises
    ------
    MissingDependencyError
        If Flux's Python bindings or their library are not installed.
    StoreUnreachableError
        If there is no broker.
    StoreClosedError
        If the session to join has ended.
    """

    # One message to the broker carries a part; it should stay far below its limits.
    part = 4 << 20

    def __init__(self, url: str = "flux://", session: str | None = None) -> None:
        super().__init__(url, session or new_name(10))
        self._lease = Lease(self._renew)
        try:
            if session is None:
                with translated(url):
                    self._sweep(self._handle)
                    kvs.namespace_create(self._handle, namespace_of(self._name))
                self._renew()
                self._lease.start()
            else:
                with translated(url):
                    self._check_session()
        except BaseException:
            self._handle.close()
            raise

    @classmethod
    def from_url(cls, url: StoreURL) -> FluxConnector:
        """Return the connector that ``flux://#session`` names."""
        url.check_options(frozenset())
        return cls(str(url.replace(session=None)), url.session)

    @staticmethod
    def sweep_url(url: StoreURL) -> list[str]:
        """Remove what dead owners left in the instance `url` names; opens no session."""
        name = str(url.replace(session=None))
        with translated(name), kvs.open(name) as handle:
            return FluxConnector._sweep(handle)

    @property
    def owner(self) -> bool:
        """Whether closing this connector ends the session."""
        return self._lease.held

    @property
    def url(self) -> str:
        """URL that opens the same session."""
        return str(StoreURL.parse(self._store).replace(session=self._name))

    def config(self) -> dict[str, Any]:
        """Return what `from_config` needs to join this session."""
        return {"url": self._store, "session": self._name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FluxConnector:
        """Return a connector for a configuration, joining its session."""
        return cls(**config)

    def _renew(self) -> None:
        """Tell the others that the owner lives."""
        with (
            translated(self._store),
            kvs.KVSTxn(self._handle, namespace=namespace_of(self._name)) as transaction,
        ):
            transaction.put(_RENEWED, time.time())

    def sweep(self) -> list[str]:
        """Remove the sessions whose owner is dead, and return their names."""
        self._check_open()
        with translated(self._store):
            return self._sweep(self._handle)

    @staticmethod
    def _sweep(handle: kvs.Handle) -> list[str]:
        swept = []
        for session in sessions_in(handle):
            try:
                renewed = kvs.get_many(handle, [_RENEWED], namespace_of(session))[0]
            except kvs.NamespaceError:
                continue
            # One without a lease is being born, and will be looked at again.
            if renewed is not kvs.MISSING and time.time() - renewed > LEASE:
                kvs.namespace_remove(handle, namespace_of(session))
                swept.append(session)
        return sorted(swept)

    def _end(self) -> None:
        if self.owner:
            self._lease.stop()
            kvs.namespace_remove(self._handle, namespace_of(self._name))
