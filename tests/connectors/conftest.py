from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.redis_server import RedisServer, redis_server


@pytest.fixture(scope="session")
def server() -> Iterator[RedisServer]:
    """Run a Redis server for the tests that do not end it."""
    with redis_server() as running:
        yield running
