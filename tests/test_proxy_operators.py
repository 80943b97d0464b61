"""Every operation on a proxy gives what it gives on the target, whichever operand is the proxy."""

from __future__ import annotations

import _thread
import array
import copy
import datetime
import io
import itertools
import math
import operator
import os
import pathlib
import sys
import time
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from proxyflow import proxy as px
from proxyflow.facts import describe
from tests.proxy_cases import Give, Point, scale

DAY = datetime.timedelta(1)
NOON = datetime.datetime(2020, 1, 2, 12)


def unpacked(a: Any, b: Any) -> Any:
    """Pass ``a`` as positional and ``b`` as keyword arguments."""
    return (lambda *args, **kwargs: (args, kwargs))(*a, **b)


def sequence_match(a: Any) -> Any:
    match a:
        case [first, *rest]:
            return first, rest
        case {"k": value}:
            return value
        case str() | bytes() as text:
            return len(text)
        case Point(x, y):
            return x, y
    return None


BINARY: list[tuple[Any, Any]] = [
    (7, 2),
    (7.5, 2),
    (2, 7.5),
    (True, 3),
    (1j, 2),
    (Decimal("7.5"), 2),
    (2, Fraction(1, 3)),
    ("ab", "cd"),
    ("ab", 2),
    (2, b"ab"),
    ("%s-%s", (1, 2)),
    ("%s", [1]),
    (b"ab", b"cd"),
    (bytearray(b"ab"), b"cd"),
    ([1], [2]),
    ([1], 2),
    ((1,), (2,)),
    ({1, 2}, {2, 3}),
    (frozenset({1}), {1, 2}),
    ({"a": 1}, {"b": 2}),
    (deque([1]), deque([2])),
    (NOON, DAY),
    (NOON, NOON),
    (DAY, 2),
    (pathlib.Path("/a"), "b"),
    ("a", pathlib.Path("b")),
    (Point(1, 2), Point(1, 2)),
    (Point(1, 2), Point(2, 1)),
    ([1], (2,)),
    (object, 1),
]
OPERATORS = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.matmul,
    operator.truediv,
    operator.floordiv,
    operator.mod,
    operator.lshift,
    operator.rshift,
    operator.and_,
    operator.xor,
    operator.or_,
    operator.pow,
    divmod,
    operator.lt,
    operator.le,
    operator.eq,
    operator.ne,
    operator.gt,
    operator.ge,
    operator.contains,
]
SYMBOLS = ["+=", "-=", "*=", "@=", "/=", "//=", "%=", "**=", "<<=", ">>=", "&=", "^=", "|="]
# Where a left operand that is no proxy insists on exact types and never asks the proxy.
INSISTENT = {
    (operator.contains, str),
    (operator.contains, bytes),
    (operator.contains, bytearray),
    (operator.contains, set),
    (operator.contains, frozenset),
    (operator.mod, str),
    (operator.mod, bytes),
    (operator.mod, bytearray),
    (operator.eq, Point),
    (operator.ne, Point),
    ("%=", str),
    ("%=", bytes),
    ("%=", bytearray),
    (pow, int),
    ("slicing", list),
    ("membership", str),
}

# name: operation, operands
OPERATIONS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "neg pos abs invert": (lambda a: (-a, +a, abs(a), ~a), (-3,)),
    "numbers": (lambda a: (int(a), float(a), complex(a), round(a), round(a, 1)), (2.57,)),
    "integer parts": (lambda a: (math.trunc(a), math.floor(a), math.ceil(a)), (-2.5,)),
    "index": (lambda a: ([1, 2, 3][a], hex(a), list(range(a)), operator.index(a)), (2,)),
    "math": (lambda a, b: (math.sqrt(a), math.gcd(a, b), math.hypot(a, b)), (4, 6)),
    "power with modulus": (pow, (2, 3, 5)),
    "power without modulus": (pow, (2, 3)),
    "bool": (lambda a: (bool(a), not a), (0,)),
    "truth of containers": (lambda a: "full" if a else "empty", ([],)),
    "format": (lambda a, b: (f"{a:.2f}", f"{a!r:>9}", str(b), format(b, ">5")), (3.14159, "x")),
    "percent": (lambda a: "%d|%s".__mod__((a, a)), (5,)),
    "bytes": (lambda a, b, c, d: (bytes(a), bytes(b), bytes(c), bytes(d)),
              (b"x", [1, 2], bytearray(b"y"), 3)),
    "getitem": (lambda a, i: a[i], ([1, 2, 3], 1)),
    "slicing": (lambda a, i: (a[i], operator.delitem(a, i), list(a)), ([1, 2, 3], slice(0, 2))),
    "getitem of dict": (lambda a, k: (a[k], k in a), ({"k": 1}, "k")),
    "setitem": (lambda a, i, v: (operator.setitem(a, i, v), list(a))[1], ([1, 2, 3], 1, 5)),
    "delitem": (lambda a, i: (operator.delitem(a, i), list(a))[1], ([1, 2, 3], 1)),
    "iteration": (lambda a: (list(a), tuple(a), sum(a), sorted(a), max(a)), ([2, 1],)),
    "reversed": (lambda a: list(reversed(a)), ([1, 2],)),
    "next": (lambda a: [next(a), *a], (iter([1, 2]),)),
    "length hint": (lambda a: (operator.length_hint(a), list(a)), (iter([1, 2]),)),
    "join": (lambda a: "-".join(a), (["x", "y"],)),
    "unpacking": (unpacked, ([1, 2], {"k": 3})),
    "merging": (lambda a: ({**a}, dict(a), dict(**a), [*a]), ({"k": 3},)),
    "assignment": (lambda a: (lambda x, *y: (x, y))(*a), ((1, 2, 3),)),
    "membership": (lambda a, b: b in a, ("cat", "a")),
    "key": (lambda a, b: ({1: "x", "k": 2}[a], {b, 5}), ("k", 7)),
    "call": (lambda f, x: f(x, factor=3), (scale, 2)),
    "attributes": (lambda a: (a.x, a.swapped().y, getattr(a, "z", None)), (Point(1, 2),)),
    "isinstance": (lambda a, b: (isinstance(a, b), issubclass(bool, b)), (5, int)),
    "match list": (sequence_match, ([1, 2],)),
    "match dict": (sequence_match, ({"k": 1},)),
    "match str": (sequence_match, ("text",)),
    "match bytes": (sequence_match, (b"text",)),
    "match class": (sequence_match, (Point(1, 2),)),
    "match nothing": (sequence_match, (5,)),
    "path": (lambda a, b: (os.fspath(a), os.path.join(a, b), pathlib.Path(b)),
             (pathlib.Path("/a"), "b")),
    "open": (lambda a, b: (open(a).close(), open(b, "rb").close()),
             (pathlib.Path(os.devnull), os.devnull)),
    "with": (lambda a: a.__enter__().read(), (io.StringIO("text"),)),
    "sequence of proxies": (lambda a, b: (sorted([a, b]), max(a, b), [a].count(b)), (2, 1)),
    "dir and vars": (lambda a: (dir(a), vars(a)), (Point(1, 2),)),
    "missing special method": (lambda a: a(), ([],)),
    "missing getitem": (lambda a: a[0], (5,)),
    "not iterable": (lambda a: list(a), (5,)),
}  # fmt: skip


def outcome(operation: Callable[..., Any], operands: list[Any]) -> Any:
    """Return the result with its type, or the type of the exception."""
    try:
        result = operation(*operands)
    except Exception as error:  # noqa: BLE001 - the exception is the outcome
        return type(error)
    return plain(result)


def plain(value: Any) -> Any:
    """Replace the proxies in a result by their targets."""
    if hasattr(type(value), "__proxy_target__"):
        return plain(value.__proxy_target__)
    if type(value) in (list, tuple, set):
        return type(value), [plain(item) for item in value]
    return type(value), value


def check(name: object, operation: Callable[..., Any], operands: tuple[Any, ...]) -> None:
    """Compare the operation on targets with the one on every choice of proxies, in every state."""
    expected = outcome(operation, copied(operands))
    for chosen in itertools.product([False, True], repeat=len(operands)):
        if not chosen[0] and (name, type(operands[0])) in INSISTENT:
            continue
        for state in "described", "resolved", "narrowed":
            mixed = [
                make(value, state) if proxied else value
                for value, proxied in zip(copied(operands), chosen, strict=True)
            ]
            assert outcome(operation, mixed) == expected, (chosen, state)


def copied(operands: tuple[Any, ...]) -> list[Any]:
    return [io.StringIO("text") if type(x) is io.StringIO else copy.copy(x) for x in operands]


def make(target: Any, state: str) -> Any:
    p = px.Proxy(Give(target), None if state == "narrowed" else describe(target))
    if state != "described":
        px.resolve(p)
    return p


@pytest.mark.parametrize("operands", BINARY, ids=lambda value: repr(value))
def test_binary_operators(operands: tuple[Any, Any]) -> None:
    for operation in OPERATORS:
        check(operation, operation, operands)


@pytest.mark.parametrize("symbol", SYMBOLS)
@pytest.mark.parametrize("operands", BINARY, ids=lambda value: repr(value))
def test_in_place_operators(symbol: str, operands: tuple[Any, Any]) -> None:
    """The result is right, and whoever else holds the left operand sees what it would see."""
    namespace: dict[str, Any] = {}
    exec(f"def operate(a, b):\n held = a\n a {symbol} b\n return a, held, a is held", namespace)
    if isinstance(operands[0], (int, float, str, bytes, tuple)):
        # Immutable: `held` stays behind, and may be the proxy of what it was.
        check(symbol, lambda a, b: namespace["operate"](a, b)[:2], operands)
    else:
        check(symbol, namespace["operate"], operands)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name: str) -> None:
    operation, operands = OPERATIONS[name]
    check(operation if operation is pow else name, operation, operands)


def test_in_place_keeps_the_proxy_of_what_changed_itself() -> None:
    """``p += x`` on a list must change the target every holder of the proxy sees."""
    target = [1]
    p = held = px.Proxy(Give(target), describe(target))
    p += [2]
    assert p is held
    assert target == [1, 2]


def test_in_place_on_an_immutable_target_gives_the_plain_result() -> None:
    for facts in describe(1), None:
        p = px.Proxy(Give(1), facts)
        p += 1
        assert type(p) is int
        assert p == 2


def test_an_operator_that_no_python_code_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is in place is told from the code that calls it, and a thread may have none."""
    results: deque[Any] = deque()
    monkeypatch.setattr(sys, "unraisablehook", results.append)
    items = [1]
    sums = map(operator.add, [items], [px.Proxy(Give([2]))])
    _thread.start_new_thread(results.extend, (sums,))
    while not results:
        time.sleep(0.001)
    assert (list(results), items) == ([[1, 2]], [1])


def test_patterns_of_an_unresolved_proxy_need_its_facts() -> None:
    assert sequence_match(px.Proxy(Give([1, 2]), describe([1, 2]))) == (1, [2])


class Async:
    """Everything asynchronous that an object can be."""

    async def __aenter__(self) -> str:
        return "entered"

    async def __aexit__(self, *exc: object) -> bool:
        return True

    def __aiter__(self) -> Async:
        self.left = 2
        return self

    async def __anext__(self) -> int:
        self.left -= 1
        if self.left < 0:
            raise StopAsyncIteration
        return self.left

    def __await__(self) -> Any:
        yield from ()
        return "awaited"


def test_asynchronous_protocols() -> None:
    async def use(target: Any) -> tuple[Any, ...]:
        async with target as entered:
            pass
        return entered, await target, [item async for item in target]

    for facts in describe(Async()), None:
        coroutine = use(px.Proxy(Give(Async()), facts))
        with pytest.raises(StopIteration) as finished:
            coroutine.send(None)
        assert finished.value.value == ("entered", "awaited", [1, 0])


def test_context_manager_sees_the_exception() -> None:
    target = io.StringIO("text")
    with pytest.raises(KeyError), px.Proxy(Give(target), describe(target)):
        raise KeyError
    assert target.closed


class Named:
    """A descriptor that wants to know its name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, obj: object, owner: type | None = None) -> str:
        return self.name

    def __delete__(self, obj: object) -> None:
        self.name = "deleted"


def test_descriptor_protocol() -> None:
    target = Named()
    holder = type("Holder", (), {"part": px.Proxy(Give(target), describe(target))})()
    assert holder.part == "part"
    del holder.part
    assert holder.part == "deleted"


def test_bytes_of_every_buffer() -> None:
    """bytes() of what exports no buffer would go through the items: other bytes, and no error."""
    target = array.array("i", [1, 2])
    for facts in describe(target), None:
        assert bytes(px.Proxy(Give(target), facts)) == target.tobytes()


def test_buffer_protocol() -> None:
    """The view is the target's own memory; before Python 3.12 only a class in C can export it."""
    target = bytearray(b"abc")
    p = px.Proxy(Give(target), describe(target))
    if px.IMPLEMENTATION == "Python" and sys.version_info < (3, 12):
        with pytest.raises(TypeError, match="bytes-like object is required"):
            memoryview(p)
        return
    with memoryview(p) as view:
        view[0] = ord("x")
        with pytest.raises(BufferError):
            target.append(1)
    target.append(ord("d"))
    assert target == b"xbcd"
    with pytest.raises(TypeError, match="read-write"):
        io.BytesIO(b"xyz").readinto(px.Proxy(Give(b"abc"), describe(b"abc")))
