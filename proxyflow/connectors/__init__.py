"""Storage systems seen as put, get, exists and evict of bytes, and the registry of them.

A connector is known by the scheme of its URLs. The registry holds import paths, not classes:
listing what exists imports nothing, and a connector whose package is missing says what to install
only when somebody asks for it. Other packages add theirs through the entry-point group
``proxyflow.connectors`` (name: the scheme, value: ``module:Class``).
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

from proxyflow.connectors.url import StoreURL
from proxyflow.errors import ConfigError, MissingDependencyError

__all__ = ["connector_class", "known_connectors", "open_url", "register_connector"]

_ENTRY_POINTS = "proxyflow.connectors"


class _Entry(NamedTuple):
    path: str
    """Where the class is: ``module:Class``."""
    install: str | None
    """What to install when importing it fails."""


_registry = {
    "ddfs+file": _Entry("proxyflow.connectors.tagbloblocal:LocalTagBlobConnector", None),
    "ddfs+s3": _Entry("proxyflow.connectors.tagblob:TagBlobConnector", "proxyflow[s3]"),
    "disco": _Entry("proxyflow.connectors.tagblob:TagBlobConnector", "proxyflow[ddfs]"),
    "file": _Entry("proxyflow.connectors.file:FileConnector", None),
    "filespace": _Entry("proxyflow.connectors.filespace:FilespaceConnector", None),
    "flux": _Entry("proxyflow.connectors.flux:FluxConnector", "proxyflow[flux]"),
    "lmdb": _Entry("proxyflow.connectors.lmdb:LMDBConnector", "proxyflow[lmdb]"),
    "maildir": _Entry("proxyflow.connectors.maildir:MaildirConnector", None),
    "memory": _Entry("proxyflow.connectors.memory:MemoryConnector", None),
    "redis": _Entry("proxyflow.connectors.redis:RedisConnector", None),
    "redis+unix": _Entry("proxyflow.connectors.redis:RedisConnector", None),
    "rediss": _Entry("proxyflow.connectors.redis:RedisConnector", None),
    "shm": _Entry("proxyflow.connectors.shm:SharedMemoryConnector", None),
    "unix": _Entry("proxyflow.connectors.redis:RedisConnector", None),
}


def register_connector(scheme: str, path: str, *, install: str | None = None) -> None:
    """Make a connector known by its URL scheme.

    Parameters
    ----------
    scheme
        What stands before ``://``.
    path
        Where the class is, as ``module:Class``; imported when first asked for. The class has a
        classmethod ``from_url(url: StoreURL)``.
    install
        What to install when importing it fails, for example ``"proxyflow[redis]"``.

    Examples
    --------
    >>> register_connector("mine", "mypackage.connectors:Mine", install="mypackage")
    >>> "mine" in known_connectors()
    True
    """
    _registry[scheme] = _Entry(path, install)


def known_connectors() -> list[str]:
    """Return the schemes of every connector there is, installed packages' included.

    Examples
    --------
    >>> {"file", "memory"} <= set(known_connectors())
    True
    """
    return sorted({*_registry, *_entry_points()})


def connector_class(name: str) -> Any:
    """Return the class of a connector.

    Parameters
    ----------
    name
        A URL scheme, or an import path ``module:Class``.

    Raises
    ------
    ConfigError
        If there is no connector of that name.
    MissingDependencyError
        If it stands on a package that is not installed; says which.
    """
    entry = _Entry(name, None) if ":" in name else _registry.get(name) or _entry_points().get(name)
    if entry is None:
        raise ConfigError(
            f"there is no connector {name!r}", remedy=f"known: {', '.join(known_connectors())}"
        )
    module, _, attribute = entry.path.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ValueError as error:
        raise ConfigError(f"connector {name!r} is not at {entry.path!r}") from error
    except ImportError as error:
        raise MissingDependencyError(
            f"connector {name!r} cannot be imported: {error}",
            # In quotes: to some shells the brackets of an extra mean something.
            remedy=f"pip install '{entry.install}'" if entry.install else None,
        ) from error
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise ConfigError(f"connector {name!r} is not at {entry.path}")
    return found


def open_url(url: str | StoreURL) -> Any:
    """Open the connector a URL names.

    Raises
    ------
    ConfigError
        If the URL makes no sense.
    MissingDependencyError
        If its connector stands on a package that is not installed.
    """
    parsed = url if isinstance(url, StoreURL) else StoreURL.parse(url)
    return connector_class(parsed.scheme).from_url(parsed)


def _entry_points() -> dict[str, _Entry]:
    # importlib.metadata takes longer to import than the rest of proxyflow together.
    from importlib.metadata import entry_points

    return {
        point.name: _Entry(point.value, point.dist.name if point.dist else None)
        for point in entry_points(group=_ENTRY_POINTS)
    }
