"""A task as it travels: opaque to the scheduler, unpacked where it runs."""

from __future__ import annotations

import copy
import pickle
from typing import Any

from distributed import Status, get_worker

from proxyflow.connectors.protocol import Key
from proxyflow.nesting import Restoration
from proxyflow.proxy import Proxy, is_resolved, resolve_async
from proxyflow_dask.private import GraphNode, Task, TaskRef, dumps, loads
from proxyflow_dask.results import ResultPlace, load_result

__all__ = ["AsyncPacked", "Packed", "packed_in", "restoring", "walk"]


class Packed:
    """The function of a task in which something was replaced.

    The task proper is in a pickle that only the worker opens, while it runs the task. So the
    scheduler meets no proxy, imports nothing of the task's, and does not grow with it; and what
    goes wrong in opening it is the failure of this task, not of a connection.

    Parameters
    ----------
    content
        Pickle of the task and of the keys of its dependencies, in the order of the arguments.
    function
        Pickle of the task's function if that is no part of `content`: many tasks share it.
    name
        What to call it in logs and on the dashboard.
    session
        Whose objects it needs.
    ticket
        Number of the task in that session. A key that is forgotten and submitted again has
        another one, so a late report of the first cannot be mistaken for one of the second.
    objects
        Pickle of the keys of the objects it needs, its own result's included.
    place
        Pickle of the `ResultPlace` a large result goes to; None for by value.
    """

    __slots__ = ("_open", "content", "function", "name", "objects", "place", "session", "ticket")

    def __init__(
        self,
        content: bytes,
        function: bytes | None,
        name: str,
        session: str,
        ticket: int,
        objects: bytes,
        place: bytes | None,
    ) -> None:
        self.content = content
        self.function = function
        self.name = name
        self.session = session
        self.ticket = ticket
        self.objects = objects
        self.place = place
        self._open: tuple[GraphNode, tuple[Any, ...]] | None = None

    @staticmethod
    def of(
        node: GraphNode,
        function: bytes | None,
        name: str,
        session: str,
        ticket: int,
        objects: list[Key],
        place: ResultPlace | None,
    ) -> Task:
        """Return a task of the same key and dependencies that does what `node` does."""
        dependencies = tuple(node.dependencies)
        kind = AsyncPacked if node.is_coro else Packed
        content: Any = node
        if function is not None:
            content = copy.copy(node)
            content.func = None
        packed = kind(
            dumps((content, dependencies)),
            function,
            name,
            session,
            ticket,
            pickle.dumps(objects),
            None if place is None else pickle.dumps(place),
        )
        refs = [TaskRef(key) for key in dependencies]
        return Task(node.key, packed, *refs, _data_producer=node.data_producer)

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (self.name, self.session, self.ticket, self.objects, self.place)
        return (type(self), (self.content, self.function, *fields))

    @property
    def __name__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<{self.name}, packed by proxyflow>"

    def __sizeof__(self) -> int:
        return len(self.content) + len(self.function or b"") + len(self.objects) + 256

    def __call__(self, *values: Any) -> Any:
        """Run the task with the results it depends on."""
        return self._keep(self._start(values))

    def prefetch(self) -> None:
        """Begin to resolve the proxies in the background, for the run to come."""
        opened = self._open = self._load()
        for proxy in walk(opened[0]):
            if not is_resolved(proxy):
                resolve_async(proxy)

    def _start(self, values: tuple[Any, ...]) -> Any:
        # Opened anew for each run: a task that writes to its arguments spoils none but its own.
        opened, self._open = self._open, None
        node, dependencies = self._load() if opened is None else opened
        results = [load_result(value) for value in values]
        return node(dict(zip(dependencies, results, strict=True)))

    def _load(self) -> tuple[Any, tuple[Any, ...]]:
        node, dependencies = loads(self.content)
        if self.function is not None:
            node.func = loads(self.function)
        return node, dependencies

    def _keep(self, result: Any) -> Any:
        if self.place is None or _is_closing():
            # Of what a closing worker stored, nobody would be told.
            return result
        place: ResultPlace = pickle.loads(self.place)
        return place.keep(result)


def _is_closing() -> bool:
    """Return whether this is the thread of a worker that closes."""
    try:
        return get_worker().status in (Status.closing, Status.closed)
    except ValueError:
        # An executor whose threads are no worker's, or a process of its own.
        return False


class AsyncPacked(Packed):
    """The function of a task that is a coroutine."""

    __slots__ = ()

    # How Dask recognises a callable object that has to be awaited.
    __tornado_coroutine__ = True

    async def __call__(self, *values: Any) -> Any:
        """Run the task with the results it depends on."""
        return self._keep(await self._start(values))


class Restoring:
    """The function of somebody else's task, given the results that stand-ins stand for."""

    __slots__ = ("dependencies", "node")

    def __init__(self, node: GraphNode, dependencies: tuple[Any, ...]) -> None:
        self.node = node
        self.dependencies = dependencies

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.node, self.dependencies))

    def __call__(self, *values: Any) -> Any:
        """Run the task with the results it depends on."""
        results = [load_result(value) for value in values]
        return self.node(dict(zip(self.dependencies, results, strict=True)))


class AsyncRestoring(Restoring):
    """The same for a coroutine."""

    __slots__ = ()

    __tornado_coroutine__ = True

    async def __call__(self, *values: Any) -> Any:
        """Run the task with the results it depends on."""
        return await super().__call__(*values)


def restoring(node: GraphNode) -> GraphNode:
    """Return a task that receives objects where it would receive stand-ins for results."""
    if packed_in(node) is not None or isinstance(getattr(node, "func", None), Restoring):
        return node
    kind = AsyncRestoring if node.is_coro else Restoring
    dependencies = tuple(node.dependencies)
    refs = [TaskRef(key) for key in dependencies]
    return Task(node.key, kind(node, dependencies), *refs, _data_producer=node.data_producer)


def packed_in(node: Any) -> Packed | None:
    """Return what a task was packed into, if it was."""
    function = getattr(node, "func", None)
    return function if type(function) in (Packed, AsyncPacked) else None


def walk(value: Any) -> list[Proxy[Any]]:
    """Return the proxies in a task."""
    found: list[Proxy[Any]] = []

    def note(proxy: Proxy[Any]) -> Proxy[Any]:
        found.append(proxy)
        return proxy

    if isinstance(value, Task):
        for part in (*value.args, *value.kwargs.values()):
            found += walk(part)
    else:
        Restoration(note).apply(value)
    return found
