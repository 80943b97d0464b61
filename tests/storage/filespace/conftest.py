"""Fixtures for filespaces: hubs of every kind, and a server that speaks S3."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from filespace_support import Bucket, new_bucket, s3_server

from proxyflow.storage.filespace import Filespace, Workspace


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str) -> Bucket:
    return new_bucket(s3_endpoint)


@pytest.fixture(params=["directory", "memory", "s3"])
def hub(request: pytest.FixtureRequest, tmp_path: Any) -> tuple[str, dict[str, Any]]:
    """Return a fresh hub of each kind: its URL and what its file system takes."""
    if request.param == "directory":
        return str(tmp_path / "hub"), {}
    if request.param == "memory":
        return f"memory://hub-{uuid.uuid4().hex}", {}
    fresh = new_bucket(request.getfixturevalue("s3_endpoint"))
    return f"s3://{fresh.name}/hub", fresh.storage_options


@pytest.fixture
def link(hub: tuple[str, dict[str, Any]]) -> Iterator[Callable[..., Filespace]]:
    """Return a function that links the filespace "data" as another client each time."""
    url, options = hub
    opened: list[Workspace] = []

    def link_another(**arguments: Any) -> Filespace:
        workspace = Workspace(url, "lab", storage_options=options)
        opened.append(workspace)
        return workspace.link_filespace(name="data", **arguments)

    yield link_another
    for workspace in opened:
        for filespace in workspace.linked_filespaces:
            filespace.unlink(discard=True)
        workspace.stop()


@pytest.fixture
def workspace(tmp_path: Any) -> Iterator[Workspace]:
    """Open a workspace in a directory."""
    fresh = Workspace(str(tmp_path / "hub"), "lab")
    yield fresh
    for filespace in fresh.linked_filespaces:
        filespace.unlink(discard=True)
    fresh.stop()


@pytest.fixture
def filespace(workspace: Workspace) -> Filespace:
    """Link a filespace in a directory."""
    return workspace.link_filespace(name="data")
