"""``client.register_plugin(ProxyPlugin(...))``: what the user types."""

from __future__ import annotations

import asyncio
import os
import pickle
from typing import Any, NoReturn

from distributed import Client
from distributed.diagnostics.plugin import SchedulerPlugin

from proxyflow.errors import MissingDependencyError, StoreUnreachableError
from proxyflow.policy import Policy
from proxyflow.store import Store
from proxyflow_dask.attachment import Attachment, Use
from proxyflow_dask.owner import Owner
from proxyflow_dask.private import check_client, on_register
from proxyflow_dask.scheduler import NAME, SchedulerPart, open_session
from proxyflow_dask.settings import Settings
from proxyflow_dask.worker import WorkerPart, reach

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
        known = Attachment.of(client)
        use = None if known is None else known.uses.get(self._settings)
        if use is None:
            check_client(client)
            await _check_imports(client)
            use = Use(await asyncio.to_thread(self._settings.open), self._settings.rules)
            try:
                await _introduce(client, use.owner)
            except BaseException:
                await asyncio.to_thread(use.owner.close)
                raise
            known = Attachment.make(client)
            known.uses[self._settings] = use
        if default:
            assert known is not None
            known.use = use
        return use


async def _check_imports(client: Client) -> None:
    """Find out whether scheduler and workers can import this package, before they have to."""
    statement = "import proxyflow_dask.scheduler, proxyflow_dask.worker"
    found: dict[str, Any] = await client._run(exec, statement, on_error="return")
    try:
        await client._run_on_scheduler(exec, statement)
    except ImportError as error:
        _refuse("the scheduler", error)
    for address, result in found.items():
        if isinstance(result, ImportError):
            _refuse(f"worker {address}", result)


def _refuse(where: str, error: ImportError) -> NoReturn:
    raise MissingDependencyError(
        f"{where} cannot import proxyflow: {error}",
        remedy="install proxyflow, in the same version, wherever the cluster runs",
    ) from error


async def _introduce(client: Client, owner: Owner) -> None:
    """Make a session known to scheduler and workers."""
    recipe = owner.store.recipe
    await client._register_scheduler_plugin(SchedulerPart(), NAME, True)
    session = (owner.session, client.id, pickle.dumps(recipe), not owner.closes)
    await client._run_on_scheduler(open_session, *session)
    client.subscribe_topic(owner.topic, owner.hear)
    problems = await client._run(reach, recipe, on_error="return")
    for address, problem in problems.items():
        if problem is not None:
            raise StoreUnreachableError(
                f"worker {address} cannot use the store: {problem}",
                store=owner.store.name,
                remedy="use a store that every worker reaches: a directory of a shared file "
                "system, or a server",
            )
    await client._register_worker_plugin(WorkerPart(owner.session, recipe), owner.topic, True)


def _register(client: Client, plugin: Any, name: str, idempotent: bool) -> Any:
    return client.sync(_register_and_forget, plugin, client)


async def _register_and_forget(plugin: ProxyPlugin, client: Client) -> None:
    await plugin.register(client)


on_register(ProxyPlugin, _register)
