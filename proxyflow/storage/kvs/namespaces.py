"""Trees of their own within one KVS."""

from __future__ import annotations

from proxyflow.storage.kvs.handle import Handle
from proxyflow.storage.kvs.keys import which_namespace

__all__ = ["namespace_create", "namespace_list", "namespace_remove"]


def namespace_create(
    flux_handle: Handle, namespace: str, owner: int | None = None, flags: int = 0
) -> None:
    """Create a namespace: a tree of its own.

    Parameters
    ----------
    flux_handle
        What `open` returned.
    namespace
        Its name.
    owner
        The uid it belongs to, by default the caller's. Only Flux keeps owners.
    flags
        Unused; must be 0.

    Raises
    ------
    NamespaceExistsError
        There is one of this name.
    UnsupportedError
        Another owner was given, and the engine keeps none.

    Examples
    --------
    >>> from proxyflow.storage import kvs
    >>> handle = kvs.open("memory://")
    >>> namespace_create(handle, "run-7")
    >>> namespace_list(handle)
    ['primary', 'run-7']
    >>> namespace_remove(handle, "run-7")
    """
    flux_handle.backend.namespace_create(_named(namespace), owner, flags)


def namespace_remove(flux_handle: Handle, namespace: str) -> None:
    """Remove a namespace with all in it; a missing one is no error.

    Raises
    ------
    NamespaceError
        It is the primary namespace.
    """
    flux_handle.backend.namespace_remove(_named(namespace))


def namespace_list(flux_handle: Handle) -> list[str]:
    """Return the names of all namespaces, ``primary`` first."""
    return flux_handle.backend.namespace_list()


def _named(namespace: str) -> str:
    if not isinstance(namespace, str):
        raise TypeError(f"a namespace is named by a string, not {type(namespace).__name__}")
    return which_namespace(namespace)
