"""Making a client's sessions known to scheduler and workers, and doing so again when need be."""

from __future__ import annotations

import asyncio
import logging
import pickle
from typing import Any, NoReturn

from distributed import Client

from proxyflow.errors import MissingDependencyError, ProxyflowError, StoreUnreachableError
from proxyflow_dask.attachment import Attachment, Use
from proxyflow_dask.owner import Owner
from proxyflow_dask.private import check_client
from proxyflow_dask.scheduler import NAME, SchedulerPart, close_session, open_session
from proxyflow_dask.settings import Settings
from proxyflow_dask.worker import WorkerPart, reach

__all__ = ["register"]

logger = logging.getLogger("proxyflow.dask")


async def register(client: Client, settings: Settings, *, default: bool = True) -> Use:
    """Register with a client, from within its event loop; see `ProxyPlugin.register`."""
    known = Attachment.of(client)
    use = None if known is None else known.uses.get(settings)
    if use is None:
        check_client(client)
        await _check_imports(client)
        use = Use(await asyncio.to_thread(settings.open), settings.rules)
        try:
            await _introduce(client, use.owner)
        except BaseException:
            await _withdraw(client, use.owner)
            raise
        known = Attachment.make(client, _renew)
        known.uses[settings] = use
    if default:
        assert known is not None
        known.use = use
    return use


async def _renew(client: Client, settings: Settings, default: bool) -> None:
    """Register once more, with a scheduler that knows nothing of this client any more."""
    try:
        await register(client, settings, default=default)
    except (ProxyflowError, OSError) as error:
        logger.warning(
            "after reconnecting, large arguments travel by value again (register the plugin "
            "anew to change that): %s",
            error,
        )


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


async def _withdraw(client: Client, owner: Owner) -> None:
    """Undo the introduction of a session that came to nothing."""
    try:
        await client._run_on_scheduler(close_session, owner.session)
        client.unsubscribe_topic(owner.topic)
    except (ImportError, OSError, ValueError) as error:
        # Nobody there any more, or nobody who heard of it. What went wrong first is raised.
        logger.debug("a session was not introduced: %s", error)
    finally:
        await asyncio.to_thread(owner.close)
