"""What a client with the plugin does differently."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import itertools
import os
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeAlias

from dask.base import get_annotations
from distributed import Client
from distributed.protocol.serialize import serialize, to_serialize

from proxyflow_dask.graph import Packing, Rules, make_graph
from proxyflow_dask.owner import Owner
from proxyflow_dask.private import (
    LLGExpr,
    MapExpr,
    after_gather,
    convert_legacy_graph,
    cull,
    own_parameters,
)
from proxyflow_dask.results import load_results
from proxyflow_dask.scheduler import NAME
from proxyflow_dask.values import StoredArguments

__all__ = ["Attachment", "Use"]


class Use(NamedTuple):
    """How a submission is treated: who stores, and by which rules."""

    owner: Owner
    rules: Rules


# A random number for each graph would take longer than the rest of sending it: the system call
# lets the client's event loop in.
_GRAPHS = uuid.uuid4().hex
_graph_numbers = itertools.count()

_OFF = object()
# What applies within a call of submit or map: a Use, _OFF, or None for what the client has.
_override: ContextVar[Any] = ContextVar("proxyflow_dask_use", default=None)

# The attribute of a client that holds its attachment; so the two live and die together.
_ATTRIBUTE = "_proxyflow_attachment"


Renew: TypeAlias = Callable[[Client, Any, bool], Awaitable[None]]


class Attachment:
    """Takes the place of some methods of one client.

    Parameters
    ----------
    client
        The client.
    renew
        Registers the client with its scheduler once more, with the same settings.

    Attributes
    ----------
    use
        What applies to submissions that say nothing else; None for nothing.
    uses
        All that this client has, by the settings they were made from.
    """

    def __init__(self, client: Client, renew: Renew) -> None:
        self.client = client
        self._renew = renew
        self.use: Use | None = None
        self.uses: dict[Any, Use] = {}
        self._replaced: list[str] = []
        after_gather(load_results)
        self._replace("submit", self._submit)
        self._replace("map", self._map)
        self._replace("_graph_to_futures", self._graph_to_futures)
        self._replace("_reconnect", self._reconnect)
        self._replace("_close", self._close)
        for kind in ("scheduler", "worker"):
            name = f"unregister_{kind}_plugin"
            self._replace(name, functools.partial(self._unregister, name))

    @classmethod
    def of(cls, client: Client) -> Attachment | None:
        """Return what a client has; None if it has nothing."""
        return getattr(client, _ATTRIBUTE, None)

    @classmethod
    def make(cls, client: Client, renew: Renew) -> Attachment:
        """Return what a client has, which is made if need be."""
        attachment = cls.of(client)
        if attachment is None:
            attachment = cls(client, renew)
            setattr(client, _ATTRIBUTE, attachment)
        return attachment

    def _replace(self, name: str, method: Callable[..., Any]) -> None:
        @functools.wraps(getattr(type(self.client), name))
        def replacement(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        setattr(self.client, name, replacement)
        self._replaced.append(name)

    def _original(self, name: str) -> Callable[..., Any]:
        method: Callable[..., Any] = getattr(type(self.client), name).__get__(self.client)
        return method

    # -- submitting ----------------------------------------------------------------------------

    @staticmethod
    @contextlib.contextmanager
    def using(use: Any) -> Iterator[None]:
        """Treat what is submitted in the ``with`` block in this way, not in the client's."""
        token = _override.set(use)
        try:
            yield
        finally:
            _override.reset(token)

    def _submit(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        use = self._use_for(func, kwargs)
        original = self._original("submit")
        if use is None:
            with self.using(_OFF):
                return original(func, *args, **kwargs)
        with self.using(use), StoredArguments(use.owner, use.rules.policy) as stored:
            args = tuple([stored.of(arg) for arg in args])
            return original(func, *args, **self._store_keywords(stored, kwargs, "submit"))

    def _map(self, func: Callable[..., Any], *iterables: Any, **kwargs: Any) -> Any:
        use = self._use_for(func, kwargs)
        original = self._original("map")
        if use is None:
            with self.using(_OFF):
                return original(func, *iterables, **kwargs)
        with self.using(use), StoredArguments(use.owner, use.rules.policy) as stored:
            items = [_store_items(stored, items) for items in iterables]
            return original(func, *items, **self._store_keywords(stored, kwargs, "map"))

    def _use_for(self, func: Callable[..., Any], kwargs: dict[str, Any]) -> Use | None:
        """Return how to treat a call, taking out of its keywords what is said about that."""
        # Not compared with ==, as it may be an array that the function takes in its **kwargs.
        said = kwargs.get("proxy")
        if (said is True or said is False) and not _takes(func, "proxy"):
            del kwargs["proxy"]
            if said is False:
                return None
        if get_annotations().get("proxyflow") is False:
            return None
        override = _override.get()
        return None if override is _OFF else override or self.use

    def _store_keywords(self, stored: StoredArguments, kwargs: Any, method: str) -> dict[str, Any]:
        own = own_parameters(getattr(type(self.client), method))
        return {name: value if name in own else stored.of(value) for name, value in kwargs.items()}

    def _graph_to_futures(self, expr: Any, keys: Any, *args: Any, **kwargs: Any) -> Any:
        original = self._original("_graph_to_futures")
        override = _override.get()
        use = None if override is _OFF else override or self.use
        if use is None or get_annotations().get("proxyflow") is False:
            return original(expr, keys, *args, **kwargs)
        keys = list(keys)
        rules = use.rules._replace(results=use.rules.results and not kwargs.get("actors"))
        if not rules.results and not _may_hold_large(expr, rules):
            return original(expr, keys, *args, **kwargs)
        packing = Packing(use.owner, rules)
        try:
            packed = self._pack(packing, expr, keys)
            futures = original(packed, keys, *args, **kwargs)
            if packing.tickets:
                self._announce(use.owner, packing.tickets)
        except BaseException:
            packing.abandon()
            raise
        finally:
            packing.settle()
        return futures

    @staticmethod
    def _pack(packing: Packing, expr: Any, keys: list[Any]) -> Any:
        graph = convert_legacy_graph(expr.__dask_graph__())
        annotations = expr.__dask_annotations__()
        asked = annotations.get("proxyflow", {})
        left_out = {key for key, wanted in asked.items() if wanted is False}
        new = packing.pack(cull(graph, keys), left_out=left_out)
        if not packing.tickets and type(expr) in (LLGExpr, MapExpr):
            return expr
        # The token would be a hash of everything; this graph is as unique as any other can be.
        return make_graph(new, annotations, f"{_GRAPHS}-{os.getpid()}-{next(_graph_numbers)}")

    def _announce(self, owner: Owner, tickets: dict[Any, int]) -> None:
        """Tell the scheduler, right behind the graph, by which numbers we know its tasks."""
        self.client._send_to_scheduler(
            {
                "op": "proxyflow-submitted",
                "session": owner.session,
                "tickets": {ticket: key for key, ticket in tickets.items()},
            }
        )

    # -- a lost connection ---------------------------------------------------------------------

    async def _reconnect(self, *args: Any, **kwargs: Any) -> None:
        """Begin anew: for the scheduler this client went away, and Dask cancels its futures.

        What others still want of its tasks is the scheduler's to keep, like that of any client
        that is gone. So the old sessions are left to it, and new ones begin. Until they have,
        arguments travel by value.
        """
        default, self.use = self.use, None
        uses, self.uses = self.uses, {}
        try:
            await self._original("_reconnect")(*args, **kwargs)
        finally:
            for use in uses.values():
                await asyncio.to_thread(use.owner.close)
        if self.client.status == "running":
            for settings, use in uses.items():
                await self._renew(self.client, settings, use is default)

    # -- the end -------------------------------------------------------------------------------

    def _unregister(self, method: str, name: str, *args: Any, **kwargs: Any) -> Any:
        if name != NAME or self.use is None:
            return self._original(method)(name, *args, **kwargs)
        # From now on nothing is replaced. What has been is still evicted when its time has come,
        # and the other clients of the cluster keep their plugin.
        self.use = None
        return self.client.sync(asyncio.sleep, 0)

    async def _close(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await self._original("_close")(*args, **kwargs)
        finally:
            await asyncio.to_thread(self.close)

    def close(self) -> None:
        """End all sessions, and give the client its own methods back."""
        for name in self._replaced:
            self.client.__dict__.pop(name, None)
        self._replaced.clear()
        self.client.__dict__.pop(_ATTRIBUTE, None)
        self.use = None
        uses, self.uses = self.uses, {}
        for use in uses.values():
            use.owner.close()


def _store_items(stored: StoredArguments, items: Any) -> Any:
    """Return what `map` is to iterate over, its large items stored."""
    if isinstance(items, str | bytes | range) or not hasattr(items, "__len__"):
        return items
    old = list(items)
    new = [stored.of(item) for item in old]
    return new if any(a is not b for a, b in zip(old, new, strict=True)) else items


def _takes(func: Any, name: str) -> bool:
    """Return whether a function, class, partial or callable object has a parameter of a name."""
    try:
        return name in inspect.signature(func).parameters
    except (TypeError, ValueError):
        # Some built-in functions do not tell.
        return False


def _may_hold_large(expr: Any, rules: Rules) -> bool:
    """Return whether it is worth lowering a graph here, to look for large values in it.

    Tasks from `submit` and `map` are looked at in any case. Of a collection's graph, which may be
    small and stand for a million tasks, the size when serialised tells: what does not reach the
    threshold as a whole has nothing in it that does.
    """
    if isinstance(expr, LLGExpr | MapExpr):
        return True
    _, frames = serialize(to_serialize(expr), on_error="raise")
    return sum(map(_nbytes, frames)) >= rules.policy.nbytes


def _nbytes(frame: Any) -> int:
    return memoryview(frame).nbytes
