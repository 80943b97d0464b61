"""Where a store's settings come from when the program does not spell them out.

In this order: the argument; the environment (``PROXYFLOW_STORE``, ``PROXYFLOW_THRESHOLD``,
``PROXYFLOW_SECRET``); a TOML file named by ``PROXYFLOW_CONFIG``; what suits this host.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

from proxyflow.connectors.session import is_private, new_name
from proxyflow.connectors.url import StoreURL
from proxyflow.errors import ConfigError
from proxyflow.sizes import parse_size

__all__ = ["default_secret", "default_threshold", "default_url"]

_SHARED_MEMORY = "/dev/shm"
# Containers often get 64 MB of shared memory: too little to count on.
_ROOM = 1 << 30
_THRESHOLD = 1 << 20


def default_url() -> StoreURL:
    """Return the URL of the store that ``Store()`` opens.

    A directory of this user under shared memory when there is room (1 GiB), with the temp
    directory to spill to; else in the temp directory.

    Raises
    ------
    ConfigError
        If the configuration file cannot be read.
    """
    configured = os.environ.get("PROXYFLOW_STORE") or _file_settings().get("store")
    if configured:
        return StoreURL.parse(str(configured))
    name = f"proxyflow-{os.geteuid()}"
    disk = _private_directory(tempfile.gettempdir(), name)
    if not _has_room(_SHARED_MEMORY):
        return StoreURL("file", path=disk)
    memory = _private_directory(_SHARED_MEMORY, name)
    return StoreURL("file", path=memory, options={"spill": disk} if disk != memory else {})


def default_threshold() -> int:
    """Return from how many bytes on a value is worth a proxy: 1 MiB unless configured."""
    configured = os.environ.get("PROXYFLOW_THRESHOLD") or _file_settings().get("threshold")
    return _THRESHOLD if configured is None else parse_size(configured)


def default_secret() -> bytes | None:
    """Return the secret that authenticates payloads, from ``PROXYFLOW_SECRET``."""
    secret = os.environ.get("PROXYFLOW_SECRET")
    return secret.encode() if secret else None


def _file_settings() -> dict[str, Any]:
    path = os.environ.get("PROXYFLOW_CONFIG")
    if not path:
        return {}
    import tomllib

    try:
        with open(path, "rb") as file:
            settings = tomllib.load(file).get("proxyflow", {})
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"PROXYFLOW_CONFIG={path} cannot be read: {error}") from error
    unknown = sorted(set(settings) - {"store", "threshold"})
    if unknown:
        raise ConfigError(
            f"{path} has an unknown setting {unknown[0]!r} in [proxyflow]",
            remedy="known: store, threshold",
        )
    return dict(settings)


def _has_room(directory: str) -> bool:
    try:
        return os.access(directory, os.W_OK) and shutil.disk_usage(directory).free >= _ROOM
    except OSError:
        return False


def _private_directory(parent: str, name: str) -> str:
    """Return a path in a directory everybody may write to, where nobody else could sit already."""
    path = os.path.join(parent, name)
    return path if is_private(path) else f"{path}-{new_name(8)}"
