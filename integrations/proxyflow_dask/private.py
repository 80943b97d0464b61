"""Every private part of dask and distributed that is used, and a check that it is still there.

Nothing else in this package touches a name of theirs that is not documented. When one of them
changes, this module is what has to be adapted.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeAlias

from distributed import Client, Scheduler, Worker
from distributed.core import Status
from distributed.protocol.pickle import dumps, loads

from proxyflow.errors import MissingDependencyError, UnsupportedError

SUPPORTED = "2025.4.1 to 2026.8"
"""The versions of `distributed` that the test suite runs against: the oldest and the newest."""

_REMEDY = f"use a version of dask and distributed from {SUPPORTED}"

try:
    from dask._expr import LLGExpr
    from dask._task_spec import (
        Alias,
        DataNode,
        GraphNode,
        NestedContainer,
        Task,
        TaskRef,
        convert_legacy_graph,
        cull,
    )
    from dask._task_spec import (
        _execute_subgraph as execute_subgraph,
    )
    from distributed.client import _MapExpr as MapExpr
except ImportError as error:
    raise MissingDependencyError(
        f"this version of dask lacks what proxyflow_dask builds on: {error}", remedy=_REMEDY
    ) from error

__all__ = [
    "SUPPORTED",
    "Alias",
    "DataNode",
    "GraphNode",
    "LLGExpr",
    "MapExpr",
    "NestedContainer",
    "Task",
    "TaskRef",
    "after_gather",
    "check_client",
    "check_scheduler",
    "convert_legacy_graph",
    "cull",
    "dismiss_workers",
    "dumps",
    "execute_subgraph",
    "forget_events",
    "forget_topic",
    "loads",
    "on_register",
    "own_parameters",
    "release_done_forgets",
]

Key: TypeAlias = Any

_CLIENT = (
    "_close",
    "_gather",
    "_graph_to_futures",
    "_reconnect",
    "_register_plugin",
    "_register_scheduler_plugin",
    "_register_worker_plugin",
    "_run",
    "_run_on_scheduler",
    "_send_to_scheduler",
    "subscribe_topic",
)
_SCHEDULER = (
    *("stream_handlers", "tasks", "log_event", "worker_plugins", "broadcast", "loop", "_broker"),
    *("client_desires_keys", "client_releases_keys"),
)

# As which client the scheduler itself wants what is fire-and-forget.
_FORGETTING = "fire-and-forget"
_DONE = ("memory", "erred")
_CLOSING = frozenset({Status.closing, Status.closed, Status.failed})


def check_client(client: Client) -> None:
    """Refuse a client that is not built as this package expects.

    Raises
    ------
    UnsupportedError
        Names what is missing.
    """
    _check(client, _CLIENT, "Client")
    parameters = list(inspect.signature(type(client)._graph_to_futures).parameters)
    if parameters[1:3] != ["expr", "keys"]:
        raise UnsupportedError(
            f"distributed's Client._graph_to_futures takes {parameters[1:3]}", remedy=_REMEDY
        )


def check_scheduler(scheduler: Scheduler) -> None:
    """Refuse a scheduler that is not built as this package expects.

    Raises
    ------
    UnsupportedError
        Names what is missing.
    """
    _check(scheduler, _SCHEDULER, "Scheduler")


def _check(obj: object, names: tuple[str, ...], kind: str) -> None:
    missing = [name for name in names if not hasattr(obj, name)]
    if missing:
        raise UnsupportedError(f"distributed's {kind} has no {missing[0]}", remedy=_REMEDY)


def release_done_forgets(scheduler: Scheduler, ours: Callable[[Any], bool]) -> None:
    """Have the scheduler let go of tasks that are done when they are said to be fire-and-forget.

    It lets go of such a task when it ends; of one that has ended already, never.
    """
    original = scheduler.stream_handlers["client-desires-keys"]
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def desires(keys: Collection[Any], client: str, **kwargs: Any) -> None:
        original(keys, client, **kwargs)
        if client == _FORGETTING:
            done = [key for key in keys if ours(key) and scheduler.tasks[key].state in _DONE]
            scheduler.client_releases_keys(done, client)

    scheduler.stream_handlers["client-desires-keys"] = desires


def forget_events(scheduler: Scheduler, topic: str) -> None:
    """Drop what was said under a topic, once it has been sent to those who listen.

    The scheduler keeps the last thousand events of each topic, however long they are, for clients
    that ask later.
    """
    scheduler._broker.truncate(topic)


def forget_topic(scheduler: Scheduler, topic: str) -> None:
    """Drop a topic that nobody listens to any more; the scheduler never does."""
    scheduler._broker._topics.pop(topic, None)


async def dismiss_workers(scheduler: Scheduler, plugin: str) -> None:
    """Remove a plugin from all workers; those that are closing do so by themselves.

    The scheduler's own way tells a worker to remove what it may just have removed as it closes,
    and the worker reports that as an error.
    """
    if scheduler.worker_plugins.pop(plugin, None) is not None:
        call = {"op": "run", "function": dumps(_dismiss), "args": dumps((plugin,))}
        await scheduler.broadcast(msg=call, on_error="ignore")


def _dismiss(plugin: str, dask_worker: Worker) -> None:
    if dask_worker.status in _CLOSING:
        # It has made its list of plugins to remove, and reports one that is gone by then.
        return
    part = dask_worker.plugins.pop(plugin, None)
    if part is not None:
        part.teardown(dask_worker)


def after_gather(load: Callable[[Any], Awaitable[Any]]) -> None:
    """Have every client of this process pass through `load` what it gathers; once for all.

    Every client, as in a worker there are clients that nobody registers anything with: those of
    tasks that submit tasks.
    """
    kind: Any = Client
    original = kind._gather
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    async def gather(self: Client, *args: Any, **kwargs: Any) -> Any:
        return await load(await original(self, *args, **kwargs))

    kind._gather = gather


def on_register(kind: type, register: Callable[[Client, Any, str, bool], Any]) -> None:
    """Say what ``client.register_plugin`` does with a class of plugins of ours.

    It chooses by class, between plugins of scheduler, workers and nannies. Ours is in the first
    place one of the client, for which there is no such choice.
    """
    dispatch = Client.__dict__.get("_register_plugin")
    if not isinstance(dispatch, functools.singledispatchmethod):
        raise UnsupportedError(
            "distributed's Client.register_plugin does not choose by class", remedy=_REMEDY
        )
    dispatch.register(kind, register)


@functools.cache
def own_parameters(method: Callable[..., Any]) -> frozenset[str]:
    """Return the keyword parameters of ``Client.submit`` or ``map`` that are not the task's."""
    kinds = (inspect.Parameter.KEYWORD_ONLY,)
    parameters = inspect.signature(method).parameters.items()
    return frozenset(name for name, p in parameters if p.kind in kinds)
