"""Arrays, frames and tables come back exactly, and without their memory being copied."""

from __future__ import annotations

import ctypes
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from proxyflow.serialize import deserialize, serialize


def written(obj: object, **options: Any) -> bytearray:
    return bytearray().join(serialize(obj, **options).frames)


def round_trip(obj: Any, *, compress: bool = False) -> Any:
    return deserialize(written(obj, compress=compress))


def assert_same_array(result: Any, array: Any) -> None:
    assert type(result) is type(array)
    assert result.dtype == array.dtype
    assert result.shape == array.shape
    assert result.flags.writeable == array.flags.writeable
    if array.dtype.hasobject or array.dtype.kind == "T":
        np.testing.assert_array_equal(result, array)
    else:
        assert result.tobytes() == array.tobytes()


dtypes = (
    hnp.scalar_dtypes()
    | hnp.unicode_string_dtypes()
    | hnp.byte_string_dtypes()
    | hnp.array_dtypes(hnp.scalar_dtypes(), allow_subarrays=True)
    | hnp.nested_dtypes()
)


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """Draw arrays of any dtype, byte order, memory order and stride, some of them large."""
    array = draw(hnp.arrays(draw(dtypes), draw(hnp.array_shapes(min_dims=0, min_side=0))))
    if array.size and draw(st.booleans()):
        array = np.tile(array, draw(st.integers(1, 3000)))
    if draw(st.booleans()):
        array = array.transpose(draw(st.permutations(range(array.ndim))))
    if array.ndim and draw(st.booleans()):
        array = array[:: draw(st.sampled_from([-1, 2, -3]))]
    if draw(st.booleans()):
        array = array[...]
        array.flags.writeable = False
    return array


@given(arrays(), st.booleans())
@settings(max_examples=400, deadline=None)
def test_arrays_survive(array: Any, compress: bool) -> None:
    """Every dtype, order and stride; on its own and within a container."""
    assert_same_array(round_trip(array, compress=compress), array)
    assert_same_array(round_trip([(array,)], compress=compress)[0][0], array)


def large(dtype: Any) -> Any:
    return np.zeros(60_000, dtype).reshape(200, 300)


@pytest.mark.parametrize(
    "array",
    [
        large("f8"),
        large(">i4").T,
        large("f8").reshape(20, 30, 100).transpose(2, 0, 1),
        large("M8[ns]"),
        large("m8[D]").T,
        large("i4,f8,M8[s]"),
        large("U3"),
        large("S5"),
        large("V7"),
        large("c16"),
        large("g"),
        large([("a", "<i8", (3,)), ("b", "f2")]),
        large("f8").view(np.matrix),
        large("i4,f8").view(np.recarray),
    ],
    ids=lambda a: f"{type(a).__name__}-{a.dtype.str}",
)
def test_contiguous_memory_is_never_copied(array: Any) -> None:
    """From the array to the frame and from the payload to the array: the same memory."""
    payload = serialize(array)
    assert any(np.shares_memory(np.frombuffer(frame, "u1"), array) for frame in payload.frames)
    data = bytearray().join(payload.frames)
    for verify in (True, False):
        result = deserialize(data, verify=verify)
        assert np.shares_memory(np.frombuffer(data, "u1"), result)
        assert_same_array(result, array)
        assert (result.flags.c_contiguous, result.flags.f_contiguous) == (
            array.flags.c_contiguous,
            array.flags.f_contiguous,
        )
    assert not deserialize(bytes(data)).flags.writeable


def test_strided_arrays_are_copied_once_and_keep_their_axis_order() -> None:
    """A slice of a Fortran array is copied in memory order and stays one."""
    array = np.asfortranarray(np.random.default_rng(0).random((400, 50)))[::2]
    payload = serialize(array)
    assert payload.nbytes < array.nbytes + 1000
    result = deserialize(bytearray().join(payload.frames))
    assert result.flags.f_contiguous
    assert_same_array(result, array)


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize(
    "array",
    [
        np.array([1, None, "x", [2]], object),
        np.array(["text", "of any length"] * 3000, dtype="T"),
        np.zeros(5, "V0"),
        np.zeros((0, 3), order="F"),
        np.array(1.5),
        np.zeros(3000, np.dtype("i4,O")),
        np.array(np.datetime64("2020-01-01T00:00")),
    ],
    ids=lambda a: str(getattr(a, "dtype", a)),
)
def test_arrays_without_plain_memory_survive(array: Any, readonly: bool) -> None:
    """What cannot travel out of band travels by NumPy's own pickling, read-only flag included."""
    array = array.copy()
    array.flags.writeable = not readonly
    assert_same_array(round_trip(array), array)


def test_an_object_array_that_contains_itself_survives() -> None:
    array = np.empty(1, object)
    array[0] = array
    array.flags.writeable = False
    result = round_trip(array)
    assert result[0] is result
    assert not result.flags.writeable


class Unit(np.ndarray):  # type: ignore[type-arg]
    """A subclass that carries something along, as users write them."""

    unit = "m"

    def __reduce__(self) -> Any:
        return _with_unit, (np.asarray(self), self.unit)


def _with_unit(array: Any, unit: str) -> Unit:
    result: Unit = array.view(Unit)
    result.unit = unit
    return result


def test_subclasses_have_their_say() -> None:
    """A user's subclass is pickled by its own rules, its array out of band all the same."""
    array = large("f8").view(Unit)
    array.unit = "km"
    payload = serialize(array)
    assert any(np.shares_memory(np.frombuffer(f, "u1"), np.asarray(array)) for f in payload.frames)
    result = deserialize(b"".join(payload.frames))
    assert type(result) is Unit
    assert result.unit == "km"


@pytest.mark.parametrize("dtype", ["f8", "i4,f8", "M8[s]"])
@pytest.mark.parametrize("masked", [False, True])
def test_masked_arrays_survive(dtype: str, masked: bool) -> None:
    """Data, mask (or that there is none), fill value and hardness; the data without a copy."""
    array = np.ma.zeros((100, 100), dtype)
    if masked:
        array[::3] = np.ma.masked
        array.harden_mask()
    array.fill_value = np.ones(1, dtype)[0]
    payload = serialize(array)
    assert any(np.shares_memory(np.frombuffer(f, "u1"), array.data) for f in payload.frames)
    result = deserialize(bytearray().join(payload.frames))
    assert type(result) is type(array)
    assert result.dtype == array.dtype
    assert (np.ma.getmask(result) is np.ma.nomask) == (np.ma.getmask(array) is np.ma.nomask)
    assert (np.ma.getmaskarray(result) == np.ma.getmaskarray(array)).all()
    assert (result.data == array.data).all()
    assert result.fill_value == array.fill_value
    assert result.hardmask == array.hardmask


def test_a_mapped_file_keeps_its_class_and_loses_its_file(tmp_path: Path) -> None:
    """It is the content that travels; nothing at the other end maps the file, as with pickle."""
    path = tmp_path / "numbers"
    path.write_bytes(np.arange(5000.0).tobytes())
    mapped: Any = np.memmap(path, "f8", "r")
    result = round_trip(mapped)
    assert type(result) is type(pickle.loads(pickle.dumps(mapped))) is np.memmap
    assert result.filename is None
    assert (result == np.arange(5000.0)).all()
    assert not result.flags.writeable


@pytest.mark.parametrize(
    "scalar", [np.float32(1.5), np.datetime64("2020", "Y"), np.str_("x"), np.zeros(1, "i4,f8")[0]]
)
def test_scalars_survive(scalar: Any) -> None:
    result = round_trip(scalar)
    assert type(result) is type(scalar)
    assert result == scalar


@pytest.mark.parametrize(
    "view",
    [
        memoryview(large("f8")),
        memoryview(large("f8"))[::2],
        memoryview(np.array(1.5)),
        memoryview(np.zeros((0, 3))),
        memoryview(large("c16")),
        memoryview(large("i4,f8")),
        memoryview(large("f2")),
        memoryview(large(">i4")),
        memoryview((ctypes.c_int * 2000)(*range(2000))),  # type: ignore[arg-type]
    ],
    ids=lambda view: f"{view.format}{view.shape}",
)
def test_memoryviews_of_any_format_survive(view: memoryview) -> None:
    """Formats that Python itself cannot make a view of come back by way of NumPy."""
    result = round_trip([view])[0]
    assert type(result) is memoryview
    assert (result.format, result.shape) == (view.format.lstrip("<"), view.shape)
    assert result.tobytes() == view.tobytes()


def test_small_arrays_take_no_frames_of_their_own() -> None:
    """Ten thousand small arrays are one frame, written and checked in one go."""
    arrays = [np.arange(10) for _ in range(10_000)]
    payload = serialize(arrays)
    assert payload.nbytes < 10_000 * 150
    assert len(payload.frames) < 50
    result = deserialize(b"".join(payload.frames))
    assert (np.array(result) == np.array(arrays)).all()
    assert result[0].flags.writeable


# ------------------------------------------------------------------------------- pandas and Arrow

N = 4000


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    data = pd.DataFrame(
        {
            "int": np.arange(N),
            "float": np.linspace(0, 1, N),
            "category": pd.Categorical(["x", "y"] * (N // 2), ordered=True),
            "text": [f"text {i}" for i in range(N)],
            "object": [(i,) for i in range(N)],
            "zoned": pd.date_range("2020", periods=N, tz="Europe/Paris"),
            "delta": pd.to_timedelta(np.arange(N), unit="s"),
            "nullable": pd.array([1, None] * (N // 2), dtype="Int64"),
            "string": pd.array(["a", None] * (N // 2), dtype="string"),
            "arrow": pd.array([1.5, None] * (N // 2), dtype=pd.ArrowDtype(pa.float64())),
        }
    )
    data.index = pd.MultiIndex.from_arrays([np.arange(N), np.arange(N) % 7], names=["i", "j"])
    data.attrs["origin"] = "here"
    return data


@pytest.mark.parametrize("compress", [False, True])
def test_data_frames_survive(frame: pd.DataFrame, compress: bool) -> None:
    """Every kind of column and index, and the result can be worked on."""
    result = round_trip(frame, compress=compress)
    pd.testing.assert_frame_equal(result, frame)
    assert result.attrs == frame.attrs
    result["int"] += 1
    result.iloc[0, 1] = 7.0
    for column in frame:
        pd.testing.assert_series_equal(round_trip(frame[column]), frame[column])
    pd.testing.assert_index_equal(round_trip(frame.index), frame.index)
    sparse = pd.Series(pd.arrays.SparseArray([0] * N + [1]))
    pd.testing.assert_series_equal(round_trip(sparse), sparse)


def test_data_frames_are_not_copied() -> None:
    """The blocks of a frame are frames of the payload, and views of it afterwards."""
    data = pd.DataFrame(np.random.default_rng(0).random((N, 5)), columns=list("abcde"))
    payload = serialize(data)
    assert any(np.shares_memory(np.frombuffer(f, "u1"), data.to_numpy()) for f in payload.frames)
    joined = bytearray().join(payload.frames)
    assert np.shares_memory(np.frombuffer(joined, "u1"), deserialize(joined).to_numpy())


TABLE = pa.table(
    {"number": np.arange(N), "text": [f"é {i}" for i in range(N)], "list": [[1, None]] * N}
)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    "obj",
    [
        TABLE,
        TABLE.slice(10, 100),
        TABLE["text"],
        TABLE["text"].chunk(0),
        TABLE.to_batches()[0],
        TABLE.schema,
        pa.array([1, None, 3]),
        pa.array(["a", "b"] * N).dictionary_encode(),
        pa.py_buffer(bytes(range(256)) * 100),
    ],
    ids=lambda obj: type(obj).__name__,
)
def test_arrow_data_survives(obj: Any, compress: bool) -> None:
    result = round_trip(obj, compress=compress)
    assert type(result) is type(obj)
    assert result.equals(obj)


def test_arrow_buffers_are_views_of_the_payload() -> None:
    """A column read from a mapping takes no memory of its own."""
    data = written(TABLE)
    start = np.frombuffer(data, "u1").ctypes.data
    buffer = deserialize(data)["number"].chunk(0).buffers()[1]
    assert start <= buffer.address < start + len(data)
    assert buffer.address % 8 == 0


def test_sparse_matrices_survive() -> None:
    matrix = scipy.sparse.random(1000, 1000, 0.05, format="csr")
    data = written({"m": matrix})
    result = deserialize(data)["m"]
    assert (result != matrix).nnz == 0
    assert np.shares_memory(np.frombuffer(data, "u1"), result.data)
