"""Replacing the large values of a graph, at the one place where a client serialises graphs."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dask.utils import funcname

from proxyflow.boundary import AsyncCall, Call, Resolve, restores
from proxyflow.caller import warn_caller
from proxyflow.connectors.protocol import Key
from proxyflow.errors import StoreFullError
from proxyflow.factory import Loan
from proxyflow.facts import describe
from proxyflow.functions import make_lean
from proxyflow.nesting import Replacement
from proxyflow.proxy import Proxy, extract
from proxyflow_dask.owner import Lease, Owner
from proxyflow_dask.packed import Packed
from proxyflow_dask.private import (
    Alias,
    DataNode,
    GraphNode,
    LLGExpr,
    NestedContainer,
    Task,
    dumps,
    execute_subgraph,
)
from proxyflow_dask.results import ResultPlace
from proxyflow_dask.values import Encoded, GraphPolicy

__all__ = ["Packing", "Rules", "make_graph"]

# A pickled function of at least so many bytes is sent once with a graph, not with each task.
_SHARED_FROM = 1024


class Rules(NamedTuple):
    """What is done to the tasks of a submission."""

    policy: GraphPolicy
    resolve: Resolve
    results: bool


class PackedGraph(LLGExpr):
    """A graph as it travels: lowered to its tasks, with the annotations they had."""

    _parameters = ["dsk", "task_annotations"]  # noqa: RUF012

    def __dask_annotations__(self) -> Any:
        return self.operands[1]


def make_graph(tasks: Mapping[Any, GraphNode], annotations: Any, token: str) -> Any:
    """Return an expression of these tasks, identified by a token."""
    kind: Any = PackedGraph
    return kind(tasks, annotations, _determ_token=token)


class Packing:
    """Replaces the large values of one submission.

    Parameters
    ----------
    owner
        Who stores them and knows what needs them.
    rules
        What is large, and what the tasks receive.

    Attributes
    ----------
    tickets : dict
        The tasks in which something was replaced, with the number the owner knows each by.
    """

    def __init__(self, owner: Owner, rules: Rules) -> None:
        self.tickets: dict[Any, int] = {}
        self._owner = owner
        self._rules = rules
        # By identity, each kept beside its value so that the identity stays unique: one array in a
        # hundred tasks of a graph is hashed once, not a hundred times.
        self._stored: dict[int, tuple[Any, Lease | None, Any]] = {}
        self._own: list[Lease] = []
        self._functions: dict[int, tuple[Any, Any, list[Lease]]] = {}
        self._calls: dict[int, tuple[Any, Any]] = {}
        self._pickles: dict[int, tuple[Any, bytes | None]] = {}

    def pack(self, graph: Mapping[Any, GraphNode], *, left_out: set[Any]) -> dict[Any, GraphNode]:
        """Return the graph with the large values of its tasks replaced.

        Parameters
        ----------
        graph
            The tasks by key.
        left_out
            Keys of tasks to leave as they are.
        """
        return {
            key: node if key in left_out else self._pack(key, node) for key, node in graph.items()
        }

    def _pack(self, key: Any, node: GraphNode) -> GraphNode:
        task = _PackedTask(self)
        packed: GraphNode = task.rewrite(node)
        wants_result = self._rules.results and _makes_result(node)
        if packed is node and not wants_result:
            return node
        owner = self._owner
        place = None
        if wants_result:
            place = ResultPlace(owner.store.recipe, self._new_key(), self._rules.policy.nbytes)
        objects = [lease.key for lease in task.leases]
        ticket = owner.issue(task.leases, None if place is None else place.key)
        self.tickets[key] = ticket
        if place is not None:
            objects.append(place.key)
        function = self._pickled(packed.func) if type(packed) is Task else None
        return Packed.of(packed, function, _name(node), owner.session, ticket, objects, place)

    @functools.cached_property
    def _new_key(self) -> Callable[[], Key]:
        """Makes the key of a result."""
        store = self._owner.store
        series = store.new_series()
        if series is None:
            return store.new_key
        # Of these each is set once, so who reads a result may cache it.
        return map(series, itertools.count()).__next__

    # -- values --------------------------------------------------------------------------------

    def store(self, value: Any) -> tuple[Lease | None, Any]:
        """Return the lease of a stored value, and the proxy that takes its place.

        When the store is full, what does not fit any more travels by value, with a warning: a slow
        task is worth more than none.
        """
        known = self._stored.get(id(value))
        if known is not None:
            return known[1:]
        obj = value.value if type(value) is Encoded else value
        lease: Lease | None = None
        new: Any = obj
        try:
            lease = self._lease(value)
        except StoreFullError as error:
            warn_caller(f"an argument is passed by value: {error}")
        else:
            loan = Loan(self._owner.store.recipe, lease.key)
            new = Proxy(loan, describe(obj, hashed=False))
        self._stored[id(value)] = (value, lease, new)
        return lease, new

    def _lease(self, value: Any) -> Lease:
        if type(value) is not Encoded:
            lease = self._owner.lease(value)
        elif value.lease is not None:
            return value.lease
        else:
            lease = self._owner.lease(value.value, value.payload)
        self._own.append(lease)
        return lease

    def function(self, function: Any) -> tuple[Any, list[Lease]]:
        """Return what travels in place of a function, and what it needs."""
        known = self._functions.get(id(function))
        if known is None:
            leases: list[Lease] = []

            def put(value: Any) -> Key:
                lease = self.store(value)[0]
                if lease is None:
                    return None
                leases.append(lease)
                return lease.key

            recipe = self._owner.store.recipe
            lean = make_lean(function, self._rules.policy, put, recipe, by_name=False)
            known = self._functions[id(function)] = (function, lean, leases)
        return known[1], known[2]

    def call(self, function: Any, kind: type[Call]) -> Call:
        """Return a call of a function, the same one for all tasks."""
        known = self._calls.get(id(function))
        if known is None:
            call = kind(function, self._rules.resolve)
            known = self._calls[id(function)] = (function, call)
        return known[1]

    def _pickled(self, function: Any) -> bytes | None:
        """Return the pickle of a function that tasks had better share; None if it is small."""
        known = self._pickles.get(id(function))
        if known is None:
            pickled = dumps(function)
            shared = pickled if len(pickled) >= _SHARED_FROM else None
            known = self._pickles[id(function)] = (function, shared)
        return known[1]

    @property
    def rules(self) -> Rules:
        """What is large, and what the tasks receive."""
        return self._rules

    def abandon(self) -> None:
        """Give back everything: the graph was not submitted."""
        self._owner.forget(self.tickets.values())

    def settle(self) -> None:
        """Let go of the leases that only this submission held: from now on the tasks hold them."""
        self._owner.settle(self._own)


class _PackedTask:
    """Rewrites one task, nested ones included, and notes what it needs."""

    def __init__(self, packing: Packing) -> None:
        self.leases: list[Lease] = []
        self._packing = packing
        self._rules = packing.rules

    def rewrite(self, node: GraphNode) -> Any:
        """Return a node with its large values replaced; the same one if there are none."""
        if type(node) is DataNode:
            return self._rewrite_data(node)
        if type(node) is Task and node.func is execute_subgraph:
            return self._rewrite_subgraph(node)
        if type(node) is Task or isinstance(node, NestedContainer):
            return self._rewrite_task(node)
        # What is left runs in ways of its own, like the tasks of a shuffle.
        return node

    def _rewrite_data(self, node: DataNode) -> GraphNode:
        value = self._replace(node.value)
        if value is node.value:
            return node
        if isinstance(value, Proxy):
            return Task(node.key, extract, value, _data_producer=True)
        return Task(node.key, Call(_same, "eager"), value, _data_producer=True)

    def _rewrite_task(self, node: Any) -> Any:
        args = tuple([self._rewrite_value(arg) for arg in node.args])
        kwargs = {name: self._rewrite_value(arg) for name, arg in node.kwargs.items()}
        changed = any(new is not old for new, old in zip(args, node.args, strict=True)) or any(
            kwargs[name] is not arg for name, arg in node.kwargs.items()
        )
        if isinstance(node, NestedContainer):
            return _with(node, args=args) if changed else node
        function, leases = self._packing.function(node.func)
        if not changed and function is node.func:
            return node
        self.leases += leases
        if not restores(node.func):
            function = self._packing.call(function, AsyncCall if node.is_coro else Call)
        return _with(node, func=function, args=args, kwargs=kwargs)

    def _rewrite_subgraph(self, node: Any) -> Any:
        """Rewrite a task that Dask's optimisation fused from several."""
        inner, *rest = node.args
        new = {key: self.rewrite(task) for key, task in inner.items()}
        if all(new[key] is inner[key] for key in inner):
            return node
        return _with(node, args=(new, *rest))

    def _rewrite_value(self, value: Any) -> Any:
        return self.rewrite(value) if isinstance(value, GraphNode) else self._replace(value)

    def _replace(self, value: Any) -> Any:
        replacement = Replacement(self._rules.policy, self._substitute)
        new = replacement.apply(value)
        if new is value and replacement.proxies:
            # The user's own proxies have to be resolved by the same rules as ours.
            return copy.copy(value) if not isinstance(value, Proxy) else _twin(value)
        return new

    def _substitute(self, value: Any) -> Any:
        lease, new = self._packing.store(value)
        if lease is not None:
            self.leases.append(lease)
        return new


def _twin(proxy: Proxy[Any]) -> Proxy[Any]:
    """Return another proxy of the same object, so that a task with it counts as changed."""
    return Proxy(proxy.__proxy_factory__, proxy.__proxy_facts__)


def _with(node: GraphNode, **changes: Any) -> Any:
    """Return a copy of a node with some fields changed; its dependencies stay what they were."""
    new = copy.copy(node)
    for name, value in changes.items():
        setattr(new, name, value)
    return new


def _makes_result(node: GraphNode) -> bool:
    return type(node) in (Task, Alias)


def _same(value: Any) -> Any:
    return value


def _name(node: GraphNode) -> str:
    return funcname(node.func) if isinstance(node, Task) else type(node).__name__.lower()
