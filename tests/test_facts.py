"""What is recorded of a target, and what is left alone."""

from __future__ import annotations

import array
import collections
import enum
import fractions
import pickle
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyflow.errors import ProxyTargetError
from proxyflow.facts import Facts, check_target, class_of, describe, summary
from proxyflow.traits import BIT, mask_of
from tests.proxy_cases import Point, scale


class Costly:
    """A class whose Python-level properties must not be touched."""

    def __len__(self) -> NoReturn:
        raise AssertionError("len() may compute a whole frame")

    @property
    def shape(self) -> NoReturn:
        raise AssertionError("shape may compute a whole frame")


class Unhashable:
    def __repr__(self) -> str:
        return "Unhashable()"

    def __hash__(self) -> int:
        raise ValueError("not today")


class Color(enum.Enum):
    RED = 1


@pytest.mark.parametrize("target", [None, True, False, Ellipsis, NotImplemented])
def test_singletons_are_refused(target: Any) -> None:
    """``p is None`` would be false for a proxy of None."""
    with pytest.raises(ProxyTargetError, match=f"{target!r}.*'is'.*pass the value itself"):
        check_target(target)


@pytest.mark.parametrize("target", [0, 1, "", [], np.bool_(True), Color.RED, scale, object()])
def test_everything_else_is_accepted(target: Any) -> None:
    check_target(target)


@pytest.mark.parametrize(
    ("target", "recorded"),
    [
        ([1, 2], {"length": 2}),
        ("abc", {"length": 3}),
        (b"abc", {"length": 3}),
        ({"a": 1}, {"length": 1}),
        (range(5), {"length": 5}),
        (collections.deque([1]), {"length": 1}),
        (collections.OrderedDict(a=1), {"length": 1}),
        (7, {}),
        (scale, {}),
        (Costly(), {}),
        (array.array("d", [1, 2]), {"length": 2}),
        (np.zeros((2, 3)), {"length": 2, "shape": (2, 3), "dtype": "<f8", "nbytes": 48}),
        (np.zeros(3, "M8[s]"), {"length": 3, "shape": (3,), "dtype": "<M8[s]", "nbytes": 24}),
        (np.zeros(3, "i4,f8"), {"length": 3, "shape": (3,), "nbytes": 36}),
        (np.zeros(3, np.dtypes.StringDType()), {"length": 3, "shape": (3,), "nbytes": 48}),
        (np.array(5.0), {"shape": (), "dtype": "<f8", "nbytes": 8}),
        (np.float32(1), {"shape": (), "dtype": "<f4", "nbytes": 4}),
        (pd.Series([1.0]), {"length": 1, "shape": (1,), "dtype": "<f8", "nbytes": 8}),
        (pd.DataFrame({"a": [1, 2]}), {"length": 2, "shape": (2, 1)}),
        (pd.Series(["a"], dtype="category"), {"length": 1, "shape": (1,)}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_recorded(target: Any, recorded: dict[str, Any]) -> None:
    facts = describe(target, hashed=False)
    assert facts.module == type(target).__module__
    assert facts.qualname == type(target).__qualname__
    for name in ("length", "shape", "dtype"):
        assert getattr(facts, name) == recorded.get(name), name
    if "nbytes" in recorded:
        assert facts.nbytes == recorded["nbytes"]
    if "shape" in recorded:
        assert facts.ndim == len(recorded["shape"])
        assert facts.size == np.prod(recorded["shape"], dtype=int)


def test_dtype_metadata_is_not_lost() -> None:
    """A dtype that is more than its string is left to the target."""
    tagged = np.dtype("f8", metadata={"unit": "m"})
    assert describe(np.zeros(2, tagged)).dtype is None


def test_a_released_buffer_has_no_length() -> None:
    view = memoryview(b"abc")
    view.release()
    facts = describe(view)
    assert facts.length is None
    assert facts.nbytes is None
    assert facts.mask & BIT["__buffer__"]


@pytest.mark.parametrize(
    ("target", "hashed"),
    [
        ("abc", True),
        (5, True),
        ((1, "a"), True),
        (fractions.Fraction(1, 2), True),
        (Point(1, 2), True),
        ([1], False),
        (([1],), False),
        (object(), False),
        (scale, False),
        (Point, False),
        (Unhashable(), False),
    ],
    # No addresses: every process must give a test the same name.
    ids=lambda value: str(value).partition(" at 0x")[0],
)
def test_hash(target: Any, hashed: bool) -> None:
    """Hashes by value are recorded; those by identity are another object's."""
    assert describe(target).hash == (hash(target) if hashed else None)
    assert describe(target).trusted_hash == (hash(target) if hashed else None)
    assert describe(target)._replace(seed=1).trusted_hash is None
    assert describe(target, hashed=False).hash is None


@given(
    st.recursive(
        st.one_of(st.integers(), st.text(), st.floats(), st.binary(), st.booleans()),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner),
    )
)
def test_any_plain_object(target: Any) -> None:
    """Facts are flat, survive pickling, name the class, and are never wrong."""
    facts = describe(target)
    twin = Facts(*pickle.loads(pickle.dumps(tuple(facts))))
    assert twin == facts
    assert class_of(facts) is type(target)
    assert facts.length == (len(target) if hasattr(target, "__len__") else None)
    assert facts.hash is None or facts.hash == hash(target)
    assert type(target).__name__ in summary(facts)


def test_the_class_by_name() -> None:
    class Inner:
        pass

    assert class_of(describe(Point(1, 2))) is Point
    assert class_of(describe(Inner())) is None
    assert class_of(describe(Point(1, 2))._replace(qualname="scale")) is None
    assert class_of(describe(Point(1, 2))._replace(module="tests.no_such_module")) is None


def test_bits_never_move() -> None:
    """The mask travels in pickles: names may be added at the end, never moved or removed."""
    assert list(BIT)[:3] == ["__add__", "__sub__", "__mul__"]
    assert BIT["__add__"] == 1
    assert BIT["__len__"] == 1 << 55
    assert BIT["__buffer__"] == 1 << 83
    assert len(BIT) <= 96


def test_masks() -> None:
    assert mask_of([]) & BIT["__len__"]
    assert not mask_of([]) & BIT["__hash__"]
    assert mask_of(bytearray()) & BIT["__buffer__"]
    assert not mask_of(SimpleNamespace()) & BIT["__call__"]
    assert mask_of(scale) & BIT["__call__"]


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (np.zeros((2, 3), ">f4"), "numpy.ndarray (2, 3) >f4, 24 B"),
        (np.zeros(2, bool), "numpy.ndarray (2,) bool, 2 B"),
        (np.zeros(2, "c16"), "numpy.ndarray (2,) complex128, 32 B"),
        (np.zeros(2, "M8[s]"), "numpy.ndarray (2,) <M8[s], 16 B"),
        (np.broadcast_to(np.uint8(0), (1 << 20, 1 << 22)), "(1048576, 4194304) uint8, 4.0 TiB"),
        (np.broadcast_to(np.uint8(0), (1 << 30, 1 << 22)), "4096.0 TiB"),
        ({}, "dict of 0"),
        (5, "int"),
    ],
)
def test_summary(target: Any, text: str) -> None:
    assert summary(describe(target)).endswith(text)
