"""The engines that a KVS test runs over."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyflow.storage import kvs
from tests.redis_server import RedisServer, redis_server

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def no_namespace_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLUX_KVS_NAMESPACE", raising=False)


@pytest.fixture(scope="session")
def server() -> Iterator[RedisServer]:
    """Run a Redis server for the tests that do not end it; it puts every command on disk."""
    with redis_server(appendonly="yes", appendfsync="always") as running:
        yield running


@pytest.fixture
def redis_url(server: RedisServer) -> str:
    """Empty the server."""
    server.cli("FLUSHALL")
    return server.url


@pytest.fixture
def lmdb_url(tmp_path: Path) -> str:
    return f"lmdb://{tmp_path}/kvs"


@pytest.fixture
def memory_url() -> str:
    return f"memory://test-{next(_numbers)}"


@pytest.fixture(params=["memory", "lmdb", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    """Name an empty KVS, on each engine in turn."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(params=["lmdb", "redis"])
def shared_url(request: pytest.FixtureRequest) -> str:
    """Name an empty KVS that several processes can open, on each such engine in turn."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def handle(url: str) -> Iterator[kvs.Handle]:
    with kvs.open(url) as opened:
        yield opened
