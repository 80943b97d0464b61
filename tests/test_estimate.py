"""How large an object is, found out without serialising it."""

from __future__ import annotations

import array
import pickle
import time
from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from proxyflow import Proxy, is_resolved
from proxyflow.estimate import estimate_size


class Holder:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Slots:
    __slots__ = ("content", "unset")

    def __init__(self, content: Any) -> None:
        self.content = content


class OneSlot(Slots):
    __slots__ = "more"


class Items(list):  # type: ignore[type-arg]
    pass


@dataclass
class Table(dict):  # type: ignore[type-arg]
    extra: Any


def with_extra(container: Any, extra: Any) -> Any:
    container.extra = extra
    return container


ARRAY = np.zeros(100_000)
TEXT = "x" * 100_000
# Pickle writes an object that occurs twice only once, hence distinct ones.
TEXTS = [f"{i:100000}" for i in range(20)]
BLOBS = [bytes([i]) * 1000 for i in range(100)]
OBJECTS = {
    "bytes": b"x" * 100_000,
    "bytearray": bytearray(100_000),
    "str": TEXT,
    "str, not ascii": "ä" * 100_000,
    "int": 1 << 800_000,
    "array.array": array.array("d", bytes(80_000)),
    "ndarray": ARRAY,
    "strided": np.zeros((1000, 200))[::2, ::2],
    "masked": np.ma.zeros(10_000),
    "structured": np.zeros(1000, dtype="i8,f8,S10"),
    "0-d": np.array(1.5),
    "objects": np.array(TEXTS, dtype=object),
    "strided objects": np.array([[text, text] for text in TEXTS], dtype=object)[:, 0],
    "empty objects": np.array([], dtype=object),
    "list": [TEXT, ARRAY],
    "long list": [b"%100d" % i for i in range(10_000)],
    "tuple": (ARRAY, ARRAY + 1, ARRAY + 2),
    "deque": deque(TEXTS),
    "set": {str(i) * 10 for i in range(10_000)},
    "empty": [],
    "dict": {i: TEXT + str(i) for i in range(10)},
    "keys": {TEXT + str(i): i for i in range(10)},
    "OrderedDict": OrderedDict(a=ARRAY),
    "defaultdict": defaultdict(list, a=ARRAY),
    "list with attributes": with_extra(Items([1]), ARRAY),
    "dict with attributes": Table(ARRAY),
    "object": Holder(data=ARRAY),
    "object of objects": Holder(parts=[Holder(data=TEXT + str(i)) for i in range(10)]),
    "slots": Slots(ARRAY),
    "inherited slots": OneSlot(ARRAY),
    "DataFrame": pd.DataFrame({"a": np.arange(10_000), "b": np.arange(10_000) / 7}),
    "names twice": pd.DataFrame(np.zeros((1000, 2)), columns=["a", "a"]),
    "objects twice": pd.DataFrame(
        [[blob, blob + b"y"] for blob in BLOBS], columns=["a", "a"], dtype=object
    ),
    "Series": pd.Series(np.arange(10_000)),
    "Series of objects": pd.Series(BLOBS, dtype=object),
    "Series of str": pd.Series(["text" * 100 + str(i) for i in range(1000)]),
    "Index": pd.Index(np.arange(10_000) / 3),
    "Index of objects": pd.Index([(i, blob) for i, blob in enumerate(BLOBS)], tupleize_cols=False),
    "Arrow table": pa.table({"a": np.arange(10_000)}),
    "Arrow array": pa.array(["text"] * 10_000),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_estimate_is_about_the_size_of_the_pickle(name: str) -> None:
    """Neither so low that something large is missed nor so high that something small is stored."""
    size = len(pickle.dumps(OBJECTS[name], protocol=5))
    assert 0.6 * size - 300 <= estimate_size(OBJECTS[name]) <= 1.7 * size + 300


def test_buffer_that_cannot_be_pickled() -> None:
    assert estimate_size(memoryview(bytes(100_000))) == 100_000


def test_large_elements_away_from_the_head_are_seen() -> None:
    """The head of a list is often a header; the sample is taken along all of it."""
    assert estimate_size([None] * 100 + [b"x" * 10_000] * 900) > 4_000_000


def test_what_travels_by_name_counts_as_nothing() -> None:
    for obj in (None, True, 1.5, 2j, int, len, pickle, estimate_size):
        assert estimate_size(obj) < 100


def test_proxy_counts_as_nothing_and_is_not_resolved() -> None:
    """Also inside of objects that are sampled."""
    proxy: Any = Proxy(lambda: pytest.fail("resolved"))
    for obj in (proxy, [proxy], {1: proxy}, deque([proxy]), Holder(a=proxy), Slots(proxy)):
        assert estimate_size(obj) < 1000
    assert not is_resolved(proxy)


def test_dask_collection_counts_as_nothing() -> None:
    """Its size is that of a result that does not exist yet."""
    da = pytest.importorskip("dask.array")
    assert estimate_size(da.zeros((10_000, 10_000))) < 1000


class Labelled:
    """Like an xarray object: may hold a Dask collection, or an array."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.nbytes = 12_345

    nbytes: int = 0

    def __dask_graph__(self) -> Any:
        return self.graph


def test_collection_that_holds_its_data_itself() -> None:
    assert estimate_size(Labelled(None)) == 12_345
    assert estimate_size(Labelled({"task": 1})) < 100


def test_same_names_with_another_meaning() -> None:
    """A class of the user's may have attributes that are called like those of arrays."""

    class Meter:
        nbytes = "many"

        def memory_usage(self) -> int:
            return 5

    class Broken:
        @property
        def nbytes(self) -> int:
            raise AttributeError("not yet")

    assert 0 < estimate_size(Meter()) < 1000
    assert 0 < estimate_size(Broken()) < 1000


def test_knots_and_towers_take_no_time() -> None:
    """Objects that refer to each other many times over, or are nested deeply, are only sampled."""
    knot: list[Any] = []
    knot.extend([knot, {"knot": knot}, Holder(knot=knot)] * 100)
    graph: dict[int, Any] = {}
    graph.update({i: {"edges": graph, "node": Holder(graph=graph)} for i in range(100)})
    tower: Any = 1
    for _ in range(10_000):
        tower = [tower]
    started = time.perf_counter()
    for obj in (knot, graph, tower):
        assert estimate_size(obj) > 0
    assert time.perf_counter() - started < 20
