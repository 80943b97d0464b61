"""Stores to test with: embedded in a directory, in S3, and behind a server by HTTP."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyflow.storage.tagblob import DDFS
from tests.s3_server import S3Server, run_s3_server
from tests.storage.tagblob.serving import run_server

VOLUMES = 3
#: "disco" is our server with the requests of a Disco master only.
ENGINES = ["embedded", "s3", "http", "disco"]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISCO_MASTER", "DISCO_PROXY", "DDFS_READ_TOKEN", "DDFS_WRITE_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with run_s3_server() as server:
        server.make_bucket("store")
        yield server


@pytest.fixture(scope="session")
def s3_store(s3: S3Server) -> dict[str, Any]:
    master = {"master": "s3://store/shared", "storage_options": s3.storage_options}
    DDFS(**master, volumes=VOLUMES)
    return master


@pytest.fixture(scope="session")
def server_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    root = tmp_path_factory.mktemp("server")
    with run_server(f"file://{root}", "--volumes", str(VOLUMES)) as port:
        yield port


@pytest.fixture(scope="session")
def plain_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    root = tmp_path_factory.mktemp("plain")
    with run_server(f"file://{root}", "--volumes", str(VOLUMES), "--max-at-once", "0") as port:
        yield port


@pytest.fixture
def master(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Return the arguments of a DDFS on the engine that `ddfs` is parametrised with."""
    engine = request.param
    if engine == "embedded":
        return {"master": f"file://{tmp_path}/store", "volumes": VOLUMES}
    if engine == "s3":
        shared: dict[str, Any] = request.getfixturevalue("s3_store")
        return shared
    server = "server_port" if engine == "http" else "plain_port"
    return {"master": f"disco://127.0.0.1:{request.getfixturevalue(server)}"}


@pytest.fixture
def ddfs(master: dict[str, Any]) -> Iterator[DDFS]:
    """Yield one store after the other, on every engine."""
    with DDFS(**master) as store:
        yield store


@pytest.fixture
def local(tmp_path: Path) -> DDFS:
    """Return a store in a directory, two replicas on three volumes."""
    return DDFS(f"file://{tmp_path}/store", volumes=VOLUMES, replicas=2)


@pytest.fixture
def name() -> Callable[[], str]:
    """Tag names nobody else uses: S3 and the server hold one store for all tests."""
    prefix = f"test:{uuid.uuid4().hex}"
    counter = itertools.count()
    return lambda: f"{prefix}:{next(counter)}"


@pytest.fixture
def tag(name: Callable[[], str]) -> str:
    return name()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "master" in metafunc.fixturenames:
        metafunc.parametrize("master", ENGINES, indirect=True)
