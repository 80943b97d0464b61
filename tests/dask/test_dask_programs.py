"""Whole programs of many dependent small tasks, at a threshold at which nearly all is replaced."""

from __future__ import annotations

import collections
import string
from typing import Any

import numpy as np
import pytest
from dask_shop import Cluster, Shop, until
from distributed import Client

BLOCKS, SIZE = 5, 16


@pytest.fixture(params=[False, True], ids=["arguments", "results"])
def tiny_shop(request: Any, shared_cluster: Cluster, store_url: str) -> Any:
    """Provide a client with a threshold of 1 kB."""
    shop = Shop(shared_cluster.address, store_url, threshold="1 kB", results=request.param)
    yield shop
    shop.expect_empty()
    shop.client.close()
    until(lambda: not shop.directory.exists())


def factor(block: Any) -> Any:
    return np.linalg.cholesky(block)


def solve(block: Any, diagonal: Any) -> Any:
    return np.linalg.solve(diagonal, block.T).T


def update(block: Any, left: Any, right: Any) -> Any:
    return block - left @ right.T


def cholesky(client: Client, matrix: Any) -> Any:
    """Factorise a matrix in tiles, each step a task that depends on others."""
    cut = [slice(i * SIZE, (i + 1) * SIZE) for i in range(BLOCKS)]
    tile: dict[tuple[int, int], Any] = {
        (i, j): matrix[cut[i], cut[j]] for i in range(BLOCKS) for j in range(i + 1)
    }
    for k in range(BLOCKS):
        tile[k, k] = client.submit(factor, tile[k, k])
        for i in range(k + 1, BLOCKS):
            tile[i, k] = client.submit(solve, tile[i, k], tile[k, k])
        for i in range(k + 1, BLOCKS):
            for j in range(k + 1, i + 1):
                tile[i, j] = client.submit(update, tile[i, j], tile[i, k], tile[j, k])
    made = client.gather(tile)
    result = np.zeros_like(matrix)
    for (i, j), block in made.items():
        result[cut[i], cut[j]] = block
    return result


def test_tiled_cholesky(tiny_shop: Shop) -> None:
    """The same factor as NumPy's, from a graph of dependent tasks."""
    rng = np.random.default_rng(3)
    root = rng.random((BLOCKS * SIZE, BLOCKS * SIZE))
    matrix = root @ root.T + BLOCKS * SIZE * np.eye(BLOCKS * SIZE)
    np.testing.assert_allclose(cholesky(tiny_shop.client, matrix), np.linalg.cholesky(matrix))


def count_words(text: Any) -> Any:
    return collections.Counter(text.split())


def merge(counts: Any) -> Any:
    return sum(counts, collections.Counter())


def test_map_reduce_over_text(tiny_shop: Shop) -> None:
    """The same counts as in one process, reduced in a tree."""
    rng = np.random.default_rng(5)
    words = ["".join(rng.choice(list(string.ascii_lowercase), 3)) for _ in range(400)]
    texts = [" ".join(rng.choice(words, 600)) for _ in range(12)]
    client = tiny_shop.client
    counts = client.map(count_words, texts)
    while len(counts) > 1:
        counts = [client.submit(merge, counts[i : i + 3]) for i in range(0, len(counts), 3)]
    assert counts[0].result() == collections.Counter(" ".join(texts).split())
