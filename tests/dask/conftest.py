"""Clusters of real processes, and clients whose stores must be empty in the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dask_shop import Cluster, Shop, until


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[Cluster]:
    """Provide a cluster for the tests that leave its processes alive."""
    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    """Provide a cluster for one test, which may kill parts of it."""
    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    return f"file://{tmp_path / 'store'}"


@pytest.fixture
def shop(shared_cluster: Cluster, store_url: str) -> Iterator[Shop]:
    """Provide a client with a threshold of 100 kB; in the end its store must be empty."""
    shop = Shop(shared_cluster.address, store_url, threshold="100 kB")
    yield shop
    if shop.client.status == "running":
        shop.expect_empty()
        shop.client.close()
    until(lambda: not shop.files())


@pytest.fixture
def result_shop(shared_cluster: Cluster, store_url: str) -> Iterator[Shop]:
    """Provide the same with large results in the store."""
    shop = Shop(shared_cluster.address, store_url, threshold="100 kB", results=True)
    yield shop
    shop.expect_empty()
    shop.client.close()
    until(lambda: not shop.files())
