"""Which values of a graph are large, and the ones among them that have been stored already."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

from dask.tokenize import normalize_token

from proxyflow.errors import StoreFullError
from proxyflow.factory import StoreFactory
from proxyflow.nesting import Replacement
from proxyflow.policy import Policy
from proxyflow.proxy import Proxy, get_factory
from proxyflow.serialize import Payload
from proxyflow_dask.owner import Lease, Owner
from proxyflow_dask.private import GraphNode, TaskRef

__all__ = ["Encoded", "GraphPolicy", "StoredArguments"]

# Equal values of these have equal payloads, so the digest of the payload is as good a token as
# Dask's own and does not have to read the value a second time.
_CANONICAL = (bytes, bytearray, str)
_CANONICAL_PACKAGES = frozenset({"numpy", "pandas", "pyarrow"})


class Encoded:
    """A large value between the choice of its task's key and its being replaced in the graph.

    Dask makes the key of a task from hashes of the arguments. This one brings the digest that the
    store made while it copied the value, so its memory is read once.
    """

    __slots__ = ("lease", "nbytes", "payload", "value")

    def __init__(self, value: Any, payload: Payload, lease: Lease | None, nbytes: int) -> None:
        self.value = value
        self.payload = payload
        self.lease = lease
        """None where the store is full."""
        self.nbytes = nbytes
        """At least the threshold, so that whoever looks for large values finds it."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Wherever it may get to, it is the value there.
        return (_same, (self.value,))

    def __dask_tokenize__(self) -> tuple[str, bytes]:
        return ("proxyflow", self.payload.digest)


def _same(value: Any) -> Any:
    return value


class StoredArguments:
    """The arguments of one call of ``submit`` or ``map``, large ones stored, for Dask to make keys.

    To be used in a ``with`` statement around the call. When it ends, what no task of the call got
    is evicted.

    Parameters
    ----------
    owner
        Who stores them.
    policy
        What is large.
    """

    def __init__(self, owner: Owner, policy: Policy) -> None:
        self._owner = owner
        self._policy = policy
        self._leases: list[Lease] = []
        # By identity: nobody's code runs between two arguments of a call.
        self._encoded: dict[int, Encoded] = {}

    def __enter__(self) -> StoredArguments:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._owner.settle(self._leases)

    def of(self, argument: Any) -> Any:
        """Return an argument with its large values encoded.

        Those in objects of other classes than Python's containers are not: Dask may be about to
        ask such an object for a token, and its own code would meet what stands for the value.
        """
        return Replacement(self._policy, self._encode, builtin_only=True).apply(argument)

    def _encode(self, value: Any) -> Any:
        """Return a large value encoded, or as it is if Dask had better hash it itself."""
        kind = type(value)
        if kind not in _CANONICAL and kind.__module__.partition(".")[0] not in _CANONICAL_PACKAGES:
            return value
        encoded = self._encoded.get(id(value))
        if encoded is None:
            payload = self._owner.store.encode(value)
            lease = self._lease(value, payload)
            encoded = Encoded(value, payload, lease, self._policy.nbytes)
            self._encoded[id(value)] = encoded
        return encoded

    def _lease(self, value: Any, payload: Payload) -> Lease | None:
        try:
            lease = self._owner.lease(value, payload)
        except StoreFullError:
            # There may be room when the graph is made; if not, that is the place to say so.
            return None
        self._leases.append(lease)
        return lease


@normalize_token.register(Proxy)  # type: ignore[untyped-decorator]
def _normalize_proxy(proxy: Proxy[Any]) -> tuple[str, Any]:
    """Return what makes a proxy the same as another one: where its object is, not its content."""
    factory = get_factory(proxy)
    if type(factory) is StoreFactory:
        # Only names in it, so that its pickle does; Dask's way takes four times as long.
        return ("proxyflow", pickle.dumps(factory))
    # It may hold a function of the main module, or one without a name.
    return ("proxyflow", normalize_token(factory))


@dataclass(frozen=True)
class GraphPolicy(Policy):
    """A policy that leaves alone what Dask itself has to find in a graph: futures and nodes."""

    @classmethod
    def like(cls, policy: Policy) -> GraphPolicy:
        """Return the same policy, for a graph."""
        return cls(policy.threshold, policy.types, policy.nested, policy.depth)

    def allows(self, obj: Any) -> bool:
        """Return whether a value may be replaced as a whole."""
        value = obj.value if type(obj) is Encoded else obj
        return super().allows(value) and not _holds_nodes(value)


def _holds_nodes(value: Any) -> bool:
    """Return whether Dask would find a future, a collection or a part of a graph in a value."""
    if isinstance(value, dict):
        return any(map(_holds_nodes, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(_holds_nodes, value))
    return isinstance(value, GraphNode | TaskRef) or hasattr(type(value), "__dask_graph__")
