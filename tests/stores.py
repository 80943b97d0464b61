"""One store of each kind, for tests of what holds whatever the store is.

A new connector is one line here.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.redis_server import redis_server

_names = itertools.count()

KINDS = ["file", "shm", "maildir", "lmdb", "redis", "ddfs+file", "filespace"]


@contextlib.contextmanager
def store_url(kind: str, directory: Path) -> Iterator[str]:
    """Provide the URL of an empty store of some kind, its server running if it has one."""
    name = f"{kind}-{next(_names)}"
    if kind == "redis":
        with redis_server() as server:
            yield server.url
    elif kind == "shm":
        with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
            yield f"shm://{memory}/{name}"
    elif kind == "filespace":
        yield f"filespace://lab/data/{name}?hub={directory}/hub"
    else:
        yield f"{kind}://{directory}/{name}"


@pytest.fixture(params=KINDS)
def any_store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Provide a store of each kind in turn."""
    with store_url(request.param, tmp_path) as url:
        yield url
