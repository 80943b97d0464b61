"""Objects come back as they were, or not at all."""

from __future__ import annotations

import collections
import copyreg
import ctypes
import dataclasses
import datetime
import decimal
import enum
import fractions
import gc
import sys
import threading
import tracemalloc
import uuid
import weakref
from array import array
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyflow.errors import AuthenticationError, CorruptObjectError, SerializationError
from proxyflow.serialize import (
    deserialize,
    register_serializer,
    serialize,
    unregister_serializer,
)
from proxyflow.serialize.payload import pack
from tests.processes import run


def written(obj: object, **options: Any) -> bytearray:
    return bytearray().join(serialize(obj, **options).frames)


def round_trip(obj: Any, *, compress: bool = False, secret: bytes | None = None) -> Any:
    return deserialize(written(obj, compress=compress, secret=secret), secret=secret)


@dataclasses.dataclass
class Point:
    x: object
    y: object = None


Pair = collections.namedtuple("Pair", "first second")


class Color(enum.Enum):
    RED = 1


class OwnBytes(bytes):
    """A subclass is not its base."""


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
    | st.binary().map(bytearray)
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.datetimes(timezones=st.none() | st.just(datetime.UTC))
    | st.uuids()
    | st.sampled_from([Color.RED, Point, len, ...])
)
hashable = st.integers() | st.text() | st.binary() | st.tuples(st.integers(), st.text())
nested = st.recursive(
    scalars,
    lambda children: (
        st.lists(children)
        | st.lists(children).map(tuple)
        | st.dictionaries(hashable, children)
        | st.sets(hashable)
        | st.frozensets(hashable)
        | st.builds(Pair, children, children)
        | st.builds(Point, children, children)
        | children.map(lambda child: [child, child])
    ),
    max_leaves=30,
)


@given(nested, st.booleans(), st.sampled_from([None, b"secret"]))
@settings(max_examples=300, deadline=None)
def test_builtin_values_survive(obj: object, compress: bool, secret: bytes | None) -> None:
    """Any nesting of ordinary values is equal and of the same type afterwards."""
    result = round_trip(obj, compress=compress, secret=secret)
    assert type(result) is type(obj)
    assert result == obj


@pytest.mark.parametrize(
    "obj",
    [
        b"",
        b"x" * 100_000,
        bytearray(b"y" * 100_000),
        "",
        "ascii" * 50_000,
        "é€😀" * 50_000,
        "lone \udc80 surrogate",
        OwnBytes(b"z" * 100_000),
        {"nested": [b"x" * 100_000, bytearray(b"y" * 100_000), "é" * 100_000]},
        fractions.Fraction(1, 3),
        decimal.Decimal("1.50"),
        uuid.UUID(int=7),
        10**300_000,
    ],
    ids=lambda obj: type(obj).__name__,
)
@pytest.mark.parametrize("compress", [False, True])
def test_large_strings_survive(obj: Any, compress: bool) -> None:
    """Top-level strings have payloads of their own kind; nested and subclassed ones do not."""
    result = round_trip(obj, compress=compress)
    assert type(result) is type(obj)
    assert result == obj


def test_identity_and_cycles_survive() -> None:
    """What was one object, or contained itself, is and does so again."""
    shared = array("d", [1.0] * 5000)
    loop: list[Any] = [shared, shared]
    loop.append(loop)
    result = round_trip(loop)
    assert result[0] is result[1]
    assert result[2] is result


@pytest.mark.parametrize(
    "view",
    [
        memoryview(b""),
        memoryview(b"bytes" * 5000),
        memoryview(bytearray(b"bytes" * 5000)),
        memoryview(bytearray(b"bytes" * 5000))[::-3],
        memoryview(b"bytes" * 5000)[::2],
        memoryview(array("d", range(5000))),
        memoryview(array("i", range(6000))).cast("B").cast("i", [30, 20, 10]),
        memoryview(bytes(5000)).cast("?"),
        memoryview(b"12345678").cast("B").cast("q", []),
    ],
    ids=lambda view: f"{view.format}{view.shape}{view.strides}",
)
def test_memoryviews_survive(view: memoryview) -> None:
    """Format, shape, content and read-only flag are kept, on its own or within a container."""
    for result in (round_trip(view), round_trip({"view": (view,)})["view"][0]):
        assert type(result) is memoryview
        assert (result.format, result.shape) == (view.format, view.shape)
        assert result.readonly == view.readonly
        assert result.tobytes() == view.tobytes()


def test_equal_objects_have_equal_digests() -> None:
    """Content stored once is found again whatever the options, different content is not."""
    for one, other in [("a" * 9000, b"a" * 9000), ([1, 2], [1, 3]), (b"", bytearray())]:
        assert serialize(one).digest == serialize(one, compress=True).digest
        assert serialize(one).digest != serialize(other).digest


# ------------------------------------------------------------------------------- memory


def test_large_buffers_are_written_from_where_they_are() -> None:
    """Serialising takes no memory worth mentioning, whatever the size of what is serialised."""
    content, mutable = bytes(16 << 20), bytearray(16 << 20)
    numbers, view = array("d", bytes(16 << 20)), memoryview(bytearray(16 << 20))
    register_serializer(array, "array", lambda a: (a.typecode, [a]), lambda t, b: b[0].cast(t))
    try:
        tracemalloc.start()
        payloads = [
            serialize(obj) for obj in (content, mutable, view, [content, mutable, view, numbers])
        ]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        unregister_serializer("array")
    assert peak < 1 << 20
    assert any(frame is content for frame in payloads[0].frames)
    assert any(frame is mutable for frame in payloads[1].frames)
    assert any(frame is content for frame in payloads[3].frames)


def test_nothing_outlives_the_payload() -> None:
    """Without the garbage collector's help, an object goes with the last reference to it."""
    numbers = Point(array("d", bytes(100_000)))
    gone = weakref.ref(numbers.x)
    data = written(memoryview(bytearray(100_000)))
    gc.disable()
    try:
        payload = serialize([numbers, memoryview(numbers.x)])
        del numbers
        assert gone() is not None
        del payload
        assert gone() is None
        result = deserialize(data)
        with pytest.raises(BufferError):
            data.clear()
        assert len(result) == 100_000
        del result
        data.clear()
    finally:
        gc.enable()


# ------------------------------------------------------------------------------- failure

_rebuilt: list[str] = []


class Witness:
    """Tells when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _witness, ()


def _witness() -> None:
    _rebuilt.append("unpickled")


@pytest.mark.parametrize("secret", [None, b"secret"])
def test_nothing_damaged_is_unpickled(secret: bytes | None) -> None:
    """Whichever byte is wrong: the error comes before any code of the payload runs."""
    data = written([Witness(), memoryview(bytes(8000))], secret=secret)
    _rebuilt.clear()
    for at in range(len(data)):
        data[at] ^= 0x41
        with pytest.raises(CorruptObjectError):
            deserialize(data, secret=secret)
        data[at] ^= 0x41
    for size in range(0, len(data), 7):
        with pytest.raises(CorruptObjectError):
            deserialize(data[:size], secret=secret)
    for wrong in (b"other", None if secret else b"secret"):
        with pytest.raises(AuthenticationError):
            deserialize(data, secret=wrong)
    assert _rebuilt == []
    deserialize(data, secret=secret)
    assert _rebuilt == ["unpickled"]


def test_kinds_nobody_writes_are_refused() -> None:
    """A payload whose frame format is right may still be none of ours."""
    for payload, reason in [
        (pack(9, [b"?"], []), "unknown kind 9"),
        (pack(1, [b"?"], [memoryview(b"?")]), "1 buffers instead of none"),
        (pack(3, [b"\xff"], []), "no UTF-8 text"),
    ]:
        with pytest.raises(CorruptObjectError, match=reason):
            deserialize(b"".join(payload.frames))


class Holder:
    def __init__(self) -> None:
        self.fine = 1
        self.inner = {"locks": (0, threading.Lock())}


def _holding_function() -> Any:
    lock = threading.Lock()
    if not lock:
        unset = 0
    return lambda: (unset, lock)


def test_the_part_that_cannot_be_serialised_is_named() -> None:
    """The message leads to the attribute, item or closure variable at fault."""
    for obj, name, path in [
        (Holder(), "Holder", r"\.inner\['locks'\]\[1\] \(an object of type _thread.lock\)"),
        ([_holding_function()], "list", r"\[0\]\.lock"),
        ({"k" * 999: threading.Lock()}, "dict", r"\['k+\.\.\.k+'\]"),
        ((item for item in ()), "generator", "cannot pickle 'generator' object"),
    ]:
        with pytest.raises(SerializationError, match=path) as caught:
            serialize(obj)
        assert name in str(caught.value)
        assert isinstance(caught.value.__cause__, TypeError)


class Failing:
    def __reduce__(self) -> tuple[Any, ...]:
        raise ValueError("I would rather not")


class FailingLater:
    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


class OutOfMemory:
    def __reduce__(self) -> tuple[Any, ...]:
        raise MemoryError


class OutOfMemoryLater:
    def __reduce__(self) -> tuple[Any, ...]:
        return _run_out, ()


def _run_out() -> None:
    raise MemoryError


def test_errors_of_the_objects_own_code() -> None:
    """Both ways, the cause is kept; running out of memory is nobody's serialisation error."""
    with pytest.raises(SerializationError, match="ValueError: I would rather not") as caught:
        serialize(Failing())
    assert isinstance(caught.value.__cause__, ValueError)
    data = written(FailingLater())
    with pytest.raises(SerializationError, match="cannot rebuild the object: ValueError"):
        deserialize(data)
    with pytest.raises(MemoryError):
        serialize(OutOfMemory())
    data = written(OutOfMemoryLater())
    with pytest.raises(MemoryError):
        deserialize(data)


def test_foreign_memoryviews_need_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without NumPy the error says what is needed."""
    view: Any = memoryview((ctypes.c_int * 2)(1, 2))
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(SerializationError, match=r"format '<i' and shape \(2,\) needs NumPy"):
        serialize([view])


def test_nesting_too_deep_is_an_error_and_no_crash() -> None:
    """The interpreter's recursion limit becomes an error that says so."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    try:
        with pytest.raises(SerializationError, match="recursion"):
            serialize(deep)
    finally:
        while deep:
            deep = deep.pop()


# ------------------------------------------------------------------------------- registered types


class Matrix:
    """A user's type whose memory pickle would copy."""

    def __init__(self, rows: int, memory: Any) -> None:
        self.rows = rows
        self.memory = memory

    def __reduce__(self) -> Any:
        raise AssertionError("the registered serializer should have been asked")


class SubMatrix(Matrix):
    def __reduce__(self) -> tuple[Any, ...]:
        return SubMatrix, (self.rows, None)


@pytest.fixture
def matrix_serializer() -> Iterator[None]:
    register_serializer(
        Matrix, "matrix", lambda m: (m.rows, [m.memory, b"tail"]), lambda r, b: Matrix(r, b[0])
    )
    yield
    unregister_serializer("matrix")


@pytest.mark.usefixtures("matrix_serializer")
@pytest.mark.parametrize("size", [10, 100_000])
def test_registered_types_travel_out_of_band(size: int) -> None:
    """Anywhere in an object, and beside a lambda that needs cloudpickle, memory is not copied."""
    memory = bytearray(size)
    for obj in (Matrix(3, memory), {"m": [Matrix(3, memory)]}, [Matrix(3, memory), lambda: 0]):
        payload = serialize(obj)
        result = deserialize(bytearray().join(payload.frames))
        while not isinstance(result, Matrix):
            result = result[0] if isinstance(result, list) else result["m"]
        assert type(result.memory) is memoryview
        assert not result.memory.readonly
        assert (result.rows, result.memory) == (3, memory)
        shared = [f for f in payload.frames if isinstance(f, memoryview) and f.obj is memory]
        assert len(shared) == (size > 10)


@pytest.mark.usefixtures("matrix_serializer")
def test_subclasses_of_registered_types_are_left_alone() -> None:
    """A serializer knows nothing of what a subclass adds."""
    assert type(round_trip(SubMatrix(4, b""))) is SubMatrix


def test_a_reader_without_the_serializer_is_told() -> None:
    """The name of what is missing, and what to call, is in the message."""
    register_serializer(Matrix, "m", lambda m: (m.rows, []), lambda rows, _: Matrix(rows, None))
    data = written(Matrix(1, None))
    unregister_serializer("m")
    with pytest.raises(SerializationError, match=r"'m' is registered.*register_serializer"):
        deserialize(data)
    with pytest.raises(KeyError):
        unregister_serializer("m")


@pytest.mark.usefixtures("matrix_serializer")
def test_registrations_that_cannot_work_are_refused() -> None:
    """One name means one class; types pickle treats itself would never be asked about."""
    arguments: Any = (lambda obj: (None, []), lambda meta, buffers: None)
    with pytest.raises(ValueError, match=r"belongs to .*Matrix"):
        register_serializer(Point, "matrix", *arguments)
    with pytest.raises(ValueError, match="pickle treats dict itself"):
        register_serializer(dict, "dict", *arguments)
    with pytest.raises(TypeError, match="is for a class"):
        register_serializer(lambda: 0, "function", *arguments)  # type: ignore[arg-type]


@pytest.mark.usefixtures("matrix_serializer")
def test_a_class_defined_anew_takes_over_its_name() -> None:
    """Running a notebook cell again, or reloading a module, is no conflict."""
    again = type("Matrix", (), {"__module__": __name__, "rows": 5})
    register_serializer(again, "matrix", lambda m: (m.rows, []), lambda rows, _: rows)
    assert round_trip(again()) == 5


class Late:
    """Pickled by a reducer that is registered late."""


def test_a_reducer_registered_between_two_objects_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The table of reducers is kept from one object to the next."""
    assert isinstance(deserialize(b"".join(serialize(Late()).frames)), Late)
    monkeypatch.setitem(copyreg.dispatch_table, Late, lambda late: (int, (42,)))
    assert deserialize(b"".join(serialize(Late()).frames)) == 42


NUMPY_LATER = """
import sys
from proxyflow.serialize import serialize
serialize([])
assert "numpy" not in sys.modules
import numpy
assert b"rebuild_array" in b"".join(serialize(numpy.arange(3)).frames)
"""


def test_numpy_may_be_imported_between_two_objects() -> None:
    """The table of reducers is kept from one object to the next."""
    run(NUMPY_LATER)
