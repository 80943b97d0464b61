"""NumPy, pandas and PyArrow take a proxy for what it stands for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from proxyflow import proxy as px
from proxyflow.facts import describe
from tests.proxy_cases import Give

MATRIX = np.arange(6.0).reshape(2, 3)
VECTOR = np.arange(3.0)
DATES = np.array(["2020-01-01"], "M8[D]")
SERIES = pd.Series([3.0, 1.0, 2.0], name="s")
FRAME = pd.DataFrame({"a": [1, 2, 3], "b": list("xyz")})


def assigned(array: Any, value: Any) -> Any:
    """Return a copy of the array in which every item has been set."""
    array = np.array(array)
    array[:] = value
    return array


CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "ufunc": (lambda a, b: np.add(a, b), (MATRIX, 1)),
    "ufunc with two arrays": (lambda a, b: np.multiply(a, b), (MATRIX, VECTOR)),
    "ufunc method": (lambda a: np.add.reduce(a, axis=1), (MATRIX,)),
    "ufunc of numbers": (lambda a, b: (np.isnan(a), np.hypot(a, b)), (3.0, 4)),
    "operators": (lambda a, b: a + b * a - b, (MATRIX, VECTOR)),
    "comparison": (lambda a, b: a > b, (MATRIX, 2.0)),
    "matmul": (lambda a, b: a @ b, (MATRIX, VECTOR)),
    "integer index": (lambda a, i: a[i], (MATRIX, 1)),
    "mask": (lambda a, i: a[i], (MATRIX, MATRIX > 2)),
    "concatenate": (lambda a, b: np.concatenate([a, b]), (VECTOR, VECTOR)),
    "nested arguments": (lambda a, b: np.block([[a, b], [b, a]]), (MATRIX, MATRIX)),
    "array function": (lambda a: (np.sum(a), np.linalg.norm(a), a.mean()), (MATRIX,)),
    "array of arrays": (lambda a, b: np.array([a, b]), (VECTOR, VECTOR)),
    "array of numbers": (lambda a, b: np.array([a, b]), (1, 2)),
    "array of a number": (lambda a: np.asarray(a), (2.5,)),
    "array of a string": (lambda a: np.asarray(a), ("abc",)),
    "array of a dict": (lambda a: np.asarray(a), ({"a": 1},)),
    "array filled with a string": (lambda a: np.full(2, a), ("ab",)),
    "strings compared": (lambda a, b: (a == b, b == a), (np.array(["ab", "x"]), "ab")),
    "bytes compared": (lambda a, b: (a != b, b < a), (np.array([b"ab", b"x"]), b"ab")),
    "strings assigned": (assigned, (np.array(["ab", "cd"]), "zz")),
    "strings searched": (lambda a, b: np.isin(a, b), (np.array(["ab", "x"]), "ab")),
    "array of a list": (lambda a: np.asarray(a), ([1, 2],)),
    "dtype of asarray": (lambda a: np.asarray(a, dtype="f4"), (VECTOR,)),
    "dates": (
        lambda a: np.asarray(a) + np.timedelta64(1, "D"),
        (np.array(["2020-01-01"], "M8[D]"),),
    ),
    "numpy scalar": (lambda a, b: a * b + 1, (np.float32(2), np.float32(3))),
    "series arithmetic": (lambda a, b: a * b + b, (SERIES, SERIES)),
    "series with array": (lambda a, b: a - b, (SERIES, VECTOR)),
    "series comparison": (lambda a, b: a >= b, (SERIES, SERIES)),
    "series methods": (lambda a: (a.sum(), a.max(), len(a), a.sort_values()), (SERIES,)),
    "concat series": (lambda a, b: pd.concat([a, b]), (SERIES, SERIES)),
    "concat frames": (lambda a, b: pd.concat([a, b]), (FRAME, FRAME)),
    "assign series": (lambda a, c: a.assign(c=c), (FRAME, SERIES)),
    "assign array": (lambda a, c: a.assign(c=c), (FRAME, VECTOR)),
    "select columns": (lambda a, c: a[c], (FRAME, ["a"])),
    "select rows": (lambda a, c: a[c], (FRAME, FRAME.a > 1)),
    "merge": (lambda a, b: a.merge(b, on="a"), (FRAME, FRAME)),
    "group": (lambda a: a.groupby("b").sum(), (FRAME,)),
    "frame of array": (lambda a: pd.DataFrame(a), (MATRIX,)),
    "frame of columns": (lambda a, b: pd.DataFrame({"x": a, "y": b}), (VECTOR, SERIES)),
    "frame of frame": (lambda a: pd.DataFrame(a), (FRAME,)),
    "series of array": (lambda a: pd.Series(a), (VECTOR,)),
    "arrow array of array": (lambda a: pa.array(a).to_pylist(), (VECTOR,)),
    "arrow array with type": (lambda a: pa.array(a, type=pa.float32()), (VECTOR,)),
    "arrow array of series": (lambda a: pa.array(a), (SERIES,)),
    "arrow array of list": (lambda a: pa.array(a), ([1, 2, None],)),
    "arrow table of frame": (lambda a: (pa.table(a), pa.Table.from_pandas(a)), (FRAME,)),
    "arrow table of columns": (lambda a: pa.table({"x": a}), (VECTOR,)),
}


def assert_same(actual: Any, expected: Any) -> None:
    assert type(actual) is type(expected)
    if isinstance(expected, tuple):
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(actual, expected)
    elif isinstance(expected, pd.Series):
        pd.testing.assert_series_equal(actual, expected)
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(actual, expected)
        assert actual.dtype == expected.dtype
    else:
        assert actual == expected


@pytest.mark.parametrize("state", ["described", "narrowed"])
@pytest.mark.parametrize("name", CASES)
def test_libraries_take_a_proxy_for_its_target(name: str, state: str) -> None:
    operation, operands = CASES[name]
    expected = operation(*operands)
    for position in range(len(operands)):
        for everywhere in False, True:
            mixed = [
                make(value, state) if everywhere or here == position else value
                for here, value in enumerate(operands)
            ]
            assert_same(operation(*mixed), expected)


def make(target: Any, state: str) -> Any:
    p = px.Proxy(Give(target), describe(target) if state == "described" else None)
    if state == "narrowed":
        px.resolve(p)
    return p


def test_no_copy() -> None:
    """``np.asarray(proxy)`` is a view of the target."""
    p = px.Proxy(Give(MATRIX), describe(MATRIX))
    assert np.shares_memory(np.asarray(p), MATRIX)


@pytest.mark.parametrize(
    "target",
    [
        np.array(["2020-01-01"], "M8[D]"),
        np.array([1, 2], ">i2"),
        np.array([(1, 2.5)], np.dtype([("a", "i1"), ("b", "f8")], align=True)),
        np.array(["x", None], object),
        np.array(["x", "yy"], np.dtypes.StringDType()),
        np.array([True, False]),
        np.array([1j]),
        np.array(7.0),
        np.zeros((0, 3)),
        MATRIX.T[::2],
    ],
    ids=lambda target: str(target.dtype),
)
def test_every_dtype_arrives(target: np.ndarray) -> None:
    """NumPy has four ways to ask for an array, and some lose the unit of a date."""
    p = px.Proxy(Give(target), describe(target))
    assert p.dtype == target.dtype
    px.resolve(p)
    assert np.asarray(p).dtype == target.dtype
    np.testing.assert_array_equal(np.asarray(p), target)
    np.testing.assert_array_equal(np.array([p, p]), np.array([target, target]))


def test_array_interface_for_others() -> None:
    """Pillow reads the interface itself."""
    p = px.Proxy(Give(MATRIX), describe(MATRIX))
    assert p.__array_interface__["shape"] == (2, 3)


def test_output_goes_into_the_target() -> None:
    target = np.zeros(3)
    p = px.Proxy(Give(target), describe(target))
    np.add(VECTOR, 1, out=p)
    held = p
    p += 1
    p[0] = 7
    assert p is held
    assert target.tolist() == [7, 3, 4]
    target += p
    assert target.tolist() == [14, 6, 8]


def test_dispatch_on_the_class() -> None:
    @functools.singledispatch
    def kind(value: object) -> str:
        return "object"

    kind.register(np.ndarray)(lambda value: "array")
    kind.register(pd.DataFrame)(lambda value: "frame")
    assert kind(px.Proxy(Give(MATRIX), describe(MATRIX))) == "array"
    assert kind(px.Proxy(Give(FRAME), describe(FRAME))) == "frame"
