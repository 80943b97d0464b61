"""Where a store's settings come from when the program does not spell them out.

In this order: the argument; the environment (``PROXYFLOW_STORE``, ``PROXYFLOW_THRESHOLD``,
``PROXYFLOW_SECRET``); a TOML file named by ``PROXYFLOW_CONFIG``; what suits this host.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from typing import Any

from proxyflow.connectors.root import in_memory
from proxyflow.connectors.session import private_directory
from proxyflow.connectors.sweep import sweep
from proxyflow.connectors.url import StoreURL
from proxyflow.errors import ConfigError, StoreUnreachableError
from proxyflow.sizes import parse_size

__all__ = ["as_url", "default_secret", "default_threshold", "default_url"]

_SHARED_MEMORY = "/dev/shm"
# Containers often get 64 MB of shared memory: too little to count on.
_ROOM = 1 << 30
_THRESHOLD = 1 << 20


def as_url(url: str | StoreURL | os.PathLike[str] | None) -> StoreURL:
    """Return the URL that was given in whatever form; the default one for None.

    Raises
    ------
    ConfigError
        If it makes no sense.
    """
    if url is None:
        return default_url()
    if isinstance(url, StoreURL):
        return url
    if isinstance(url, os.PathLike):
        return StoreURL("file", path=os.path.abspath(url))
    if not isinstance(url, str):
        raise ConfigError(
            f"neither the URL of a store nor a directory: {url!r}",
            remedy="write it like 'file:///dev/shm/run1'",
        )
    return StoreURL.parse(url)


def default_url(*, everywhere: bool = False) -> StoreURL:
    """Return the URL of the store that ``Store()`` opens.

    A directory of this user under shared memory when there is room (1 GiB), with the temp
    directory to spill to; else in the temp directory.

    Parameters
    ----------
    everywhere
        Return one that names every directory that may be chosen, be there room or not.

    Raises
    ------
    ConfigError
        If the configuration makes no sense.
    """
    configured = _configured("PROXYFLOW_STORE", "store")
    if configured is not None:
        return StoreURL.parse(str(configured))
    disk = private_directory(tempfile.gettempdir())
    memory = private_directory(_SHARED_MEMORY)
    if disk == memory or not (everywhere or _has_room(_SHARED_MEMORY, memory)):
        return StoreURL("file", path=disk)
    return StoreURL("shm", path=memory, options={"spill": disk})


def default_threshold() -> int:
    """Return from how many bytes on a value is worth a proxy: 1 MiB unless configured.

    Raises
    ------
    ConfigError
        If the configuration makes no sense.
    """
    configured = _configured("PROXYFLOW_THRESHOLD", "threshold")
    try:
        return _THRESHOLD if configured is None else parse_size(configured)
    except ValueError as error:
        raise ConfigError(f"the configured threshold is {error}") from error


def default_secret() -> bytes | None:
    """Return the secret that authenticates payloads, from ``PROXYFLOW_SECRET``."""
    secret = os.environ.get("PROXYFLOW_SECRET")
    return secret.encode() if secret else None


def _configured(variable: str, setting: str) -> Any:
    return os.environ.get(variable) or _file_settings().get(setting)


def _file_settings() -> dict[str, Any]:
    path = os.environ.get("PROXYFLOW_CONFIG")
    if not path:
        return {}
    import tomllib

    try:
        with open(path, "rb") as file:
            found = tomllib.load(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"PROXYFLOW_CONFIG={path} cannot be read: {error}") from error
    if found and "proxyflow" not in found:
        # Its settings would be ignored silently.
        raise ConfigError(
            f"{path} has no table [proxyflow]", remedy="write [proxyflow] above the settings"
        )
    settings = found.get("proxyflow", {})
    if not isinstance(settings, dict):
        raise ConfigError(f"proxyflow is no table in {path}", remedy="write [proxyflow]")
    unknown = sorted(set(settings) - {"store", "threshold"})
    if unknown:
        raise ConfigError(
            f"{path} has an unknown setting {unknown[0]!r} in [proxyflow]",
            remedy="known: store, threshold",
        )
    return settings


def _has_room(file_system: str, directory: str) -> bool:
    if not os.path.isdir(file_system) or not in_memory(file_system):
        return False
    if _free(file_system) < _ROOM:
        # What fills it may be what a killed run of ours left.
        with contextlib.suppress(StoreUnreachableError):
            sweep(directory)
    return _free(file_system) >= _ROOM


def _free(file_system: str) -> int:
    """Return how many bytes this process could write there."""
    if not os.access(file_system, os.W_OK):
        return 0
    return shutil.disk_usage(file_system).free
