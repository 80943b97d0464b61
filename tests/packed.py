"""What lies in the directory of a session whose small objects are packed."""

from __future__ import annotations

import os
from pathlib import Path

from proxyflow.connectors.file import FileConnector
from proxyflow.connectors.filekey import FileKey
from proxyflow.storage.arena import PREFIX

__all__ = ["arena_of", "arenas", "directory_of", "files"]


def directory_of(connector: FileConnector) -> Path:
    return Path(connector.store_dir, connector.session)


def arenas(connector: FileConnector) -> list[str]:
    return [n for n in os.listdir(directory_of(connector)) if n.startswith(PREFIX)]


def files(connector: FileConnector) -> list[str]:
    return [n for n in os.listdir(directory_of(connector)) if not n.startswith(".")]


def arena_of(key: FileKey) -> str:
    return key.filename.split(".")[1][:8]
