"""``client.register_plugin(ProxyPlugin(...))``: what the user types."""

from __future__ import annotations

import os
from typing import Any

from distributed import Client
from distributed.diagnostics.plugin import SchedulerPlugin

from proxyflow.policy import Policy
from proxyflow.store import Store
from proxyflow_dask.attachment import Use
from proxyflow_dask.private import on_register
from proxyflow_dask.registration import register
from proxyflow_dask.scheduler import NAME
from proxyflow_dask.settings import Settings

__all__ = ["ProxyPlugin"]


class ProxyPlugin(SchedulerPlugin):
    """Large arguments of a client's tasks travel as proxies through the whole cluster.

    A large argument is stored once, mapped or fetched where the task runs, and evicted when the
    scheduler has forgotten every task that needs it: as long as Dask may run a task again, what it
    needs is there. The task receives the exact object.

    Parameters
    ----------
    store
        URL of the store, one that every worker can reach, or a directory; or an open store, which
        stays open when the client closes. Default: Dask's configuration ``proxyflow.store``, else
        what ``proxyflow.Store()`` uses, which suits the workers of one host.
    threshold
        From which size on a value is replaced, or a :class:`~proxyflow.Policy`. Default:
        ``proxyflow.threshold``, else 1 MiB.
    resolve
        What the function receives. ``"auto"`` (default): the lazy proxy where the parameter is
        annotated ``Proxy[...]``, else the object. ``"lazy"``: always the proxy. ``"eager"``:
        always the object.
    results
        Whether large results go through the store as well: stored where they are made, mapped by
        tasks on any worker of the host and by ``gather``, evicted when Dask forgets the task.
        Default: no. It pays where results are moved or gathered, and costs a copy where a task
        uses what its own worker has made.

    Raises
    ------
    ConfigError
        If a setting makes no sense.

    Notes
    -----
    Registering raises `MissingDependencyError` if scheduler or workers cannot import proxyflow,
    and `StoreUnreachableError` if a worker cannot reach the store; the client is then as before.
    Registering again with the same settings changes nothing, with others they apply from then on.
    ``client.unregister_scheduler_plugin("proxyflow")`` or closing the client undoes it.

    ``client.submit(..., proxy=False)``, the same of ``map``, and ``dask.annotate(proxyflow=False)``
    leave single calls alone.

    Examples
    --------
    >>> from distributed import Client
    >>> with Client(n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
    ...     _ = client.register_plugin(ProxyPlugin(threshold="1 MiB"))
    ...     client.submit(len, bytes(2_000_000)).result()
    2000000
    """

    name = NAME

    def __init__(
        self,
        store: Store | str | os.PathLike[str] | None = None,
        *,
        threshold: Policy | int | str | None = None,
        resolve: str | None = None,
        results: bool | None = None,
    ) -> None:
        self._settings = Settings.of(store, threshold, resolve, results)

    def __repr__(self) -> str:
        return f"<ProxyPlugin {self._settings.where or 'default store'}, {self._settings.rules}>"

    async def register(self, client: Client, *, default: bool = True) -> Use:
        """Register with a client, from within its event loop.

        Parameters
        ----------
        client
            The client.
        default
            Whether it applies to whatever the client submits.
        """
        return await register(client, self._settings, default=default)


def _register(client: Client, plugin: Any, name: str, idempotent: bool) -> Any:
    return client.sync(_register_and_forget, plugin, client)


async def _register_and_forget(plugin: ProxyPlugin, client: Client) -> None:
    await plugin.register(client)


on_register(ProxyPlugin, _register)
