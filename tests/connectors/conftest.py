from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.redis_server import RedisServer, redis_server
from tests.s3_server import S3Server, run_s3_server
from tests.storage.tagblob.serving import run_server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """Run an S3 server; credentials are in the environment, as a user has them."""
    with run_s3_server() as server, pytest.MonkeyPatch.context() as patch:
        server.make_bucket("store")
        patch.setenv("AWS_ACCESS_KEY_ID", server.storage_options["key"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", server.storage_options["secret"])
        yield server


@pytest.fixture(scope="session")
def s3_url(s3: S3Server) -> str:
    endpoint = s3.endpoint_url
    return f"ddfs+s3://store/shared?endpoint={endpoint}"


@pytest.fixture(scope="session")
def disco_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a server of ours for a tag/blob store."""
    root = tmp_path_factory.mktemp("disco")
    with run_server(f"file://{root}", "--volumes", "2") as port:
        yield f"disco://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def server() -> Iterator[RedisServer]:
    """Run a Redis server for the tests that do not end it."""
    with redis_server() as running:
        yield running
