"""Objects in the KVS of a Flux instance: ``flux://``, for the processes of a job."""

from __future__ import annotations

import os
import time
from typing import Any
from weakref import WeakSet

from proxyflow.connectors.kvs import KVSConnector, namespace_of, sessions_in
from proxyflow.connectors.kvserrors import translated
from proxyflow.connectors.session import new_name
from proxyflow.connectors.url import StoreURL
from proxyflow.errors import StoreError
from proxyflow.periodic import Periodic
from proxyflow.storage import kvs

__all__ = ["FluxConnector"]

_LEASE = "lease"
# Seconds for which an owner that does not renew its lease counts as alive: long, since what is
# lost by mistake is worse than what is kept too long, and hosts' clocks differ.
_LASTS = 900.0
_RENEW_EVERY = 60.0


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
        self._owner_pid = os.getpid() if session is None else 0
        try:
            if session is None:
                with translated(url):
                    self._sweep(self._handle)
                    kvs.namespace_create(self._handle, namespace_of(self._name))
                self.renew()
                _owned.add(self)
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
        return self._owner_pid == os.getpid()

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

    def renew(self) -> None:
        """Tell the others that the owner lives."""
        with (
            translated(self._store),
            kvs.KVSTxn(self._handle, namespace=namespace_of(self._name)) as transaction,
        ):
            transaction.put(_LEASE, time.time())

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
                renewed = kvs.get_many(handle, [_LEASE], namespace_of(session))[0]
            except kvs.NamespaceError:
                continue
            # One without a lease is being born, and will be looked at again.
            if renewed is not kvs.MISSING and time.time() - renewed > _LASTS:
                kvs.namespace_remove(handle, namespace_of(session))
                swept.append(session)
        return sorted(swept)

    def _end(self) -> None:
        if self.owner:
            _owned.discard(self)
            kvs.namespace_remove(self._handle, namespace_of(self._name))


class _Owned:
    """The sessions of this process, renewed while there are any."""

    def __init__(self) -> None:
        self._connectors: WeakSet[FluxConnector] = WeakSet()
        self._renewal = Periodic("proxyflow-flux-renewal", _RENEW_EVERY, self._renew)
        os.register_at_fork(after_in_child=self._connectors.clear)

    def add(self, connector: FluxConnector) -> None:
        self._connectors.add(connector)
        self._renewal.ensure_running()

    def discard(self, connector: FluxConnector) -> None:
        self._connectors.discard(connector)

    def _renew(self) -> bool:
        for connector in list(self._connectors):
            try:
                connector.renew()
            except StoreError:
                # A broker that does not answer now is asked again; the lease is long.
                continue
        return bool(self._connectors)


_owned = _Owned()
