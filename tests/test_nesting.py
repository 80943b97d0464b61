"""Large values inside containers: replaced on the way out, put back on the way in."""

from __future__ import annotations

import copy
import pickle
import time
from collections import OrderedDict, defaultdict, deque, namedtuple
from dataclasses import InitVar, dataclass, field
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyflow import Policy, Proxy, extract, is_resolved
from proxyflow.facts import describe
from proxyflow.nesting import Replacement, Restoration, contains_proxy

LARGE = 10_000
POLICY = Policy(LARGE)
T = TypeVar("T")


class Point(NamedTuple):
    x: Any
    y: Any = 0


class Labelled(namedtuple("Labelled", "x y")):
    pass


@dataclass
class Plain:
    a: Any
    b: Any = None


@dataclass(frozen=True)
class Frozen:
    a: Any
    b: Any = None


@dataclass(slots=True)
class Slotted:
    a: Any
    b: Any = None


@dataclass(frozen=True, slots=True)
class FrozenSlotted:
    a: Any
    b: Any = None


@dataclass
class Derived(Plain):
    c: Any = None
    made: Any = field(init=False)
    scale: InitVar[int] = 1

    def __post_init__(self, scale: int) -> None:
        assert not isinstance(self.a, Proxy), "a rebuilt dataclass must not be initialised again"
        self.made = [scale]


@dataclass
class Generically(Generic[T]):
    a: T


def replaced_by_proxies(value: Any, policy: Policy = POLICY) -> tuple[Any, list[Any]]:
    """Return the value with proxies in it, and what they stand for."""
    stored: list[Any] = []

    def replace(large: Any) -> Proxy[Any]:
        stored.append(large)
        return Proxy(lambda: large)

    return Replacement(policy, replace).apply(value), stored


def restored(value: Any) -> Any:
    return Restoration(extract).apply(value)


def parts(value: Any) -> list[Any]:
    """Return what a value holds, by means of its own."""
    if isinstance(value, dict):
        return [part for item in value.items() for part in item]
    if isinstance(value, (list, tuple)):
        return list(value) + list(getattr(value, "__dict__", {}).values())
    if hasattr(value, "__dataclass_fields__"):
        names = {**value.__dataclass_fields__, **getattr(value, "__dict__", {})}
        return [getattr(value, name) for name in names if name != "scale"]
    return []


def assert_same_structure(a: Any, b: Any) -> None:
    """Assert equal types, equal content, and the same objects in the same places."""
    there: dict[int, int] = {}
    back: dict[int, int] = {}
    pending = [(a, b)]
    while pending:
        a, b = pending.pop()
        assert type(a) is type(b)
        if a is None or isinstance(a, (int, float, str)) or a == ():
            # Of these nobody cares which object they are; nor does pickle.
            assert a == b
            continue
        if id(a) in there or id(b) in back:
            assert there.get(id(a)) == id(b)
            assert back.get(id(b)) == id(a)
            continue
        there[id(a)], back[id(b)] = id(b), id(a)
        mine, theirs = parts(a), parts(b)
        assert len(mine) == len(theirs)
        if not mine:
            assert a == b
        pending += zip(mine, theirs, strict=True)


def snapshot(value: Any) -> list[tuple[int, list[int]]]:
    """Return which objects are where in a value."""
    seen: dict[int, list[int]] = {}
    pending = [value]
    while pending:
        value = pending.pop()
        if id(value) not in seen:
            seen[id(value)] = [id(part) for part in parts(value)]
            pending += parts(value)
    return sorted(seen.items())


def _mapping(kind: Any) -> Any:
    return lambda values: kind((f"k{i}", value) for i, value in enumerate(values))


def _pair(kind: Any) -> Any:
    return lambda values: kind(*(values * 2)[:2]) if values else kind(None)


BUILDERS = [
    list,
    tuple,
    _mapping(dict),
    _mapping(OrderedDict),
    lambda values: defaultdict(list, _mapping(dict)(values)),
    lambda values: Point(*(values * 2)[:2]) if values else Point(None),
    _pair(Plain),
    _pair(Frozen),
    _pair(Slotted),
    _pair(FrozenSlotted),
    _pair(Derived),
]


@st.composite
def values(draw: Any, large: bool = True) -> Any:
    """Draw a value whose parts may be shared: each container is made of what was made before."""
    leaf = st.one_of(
        st.integers(),
        st.text(max_size=5),
        st.none(),
        st.booleans(),
        st.floats(allow_nan=False),
        st.frozensets(st.integers(), max_size=3),
        *([st.binary(min_size=1, max_size=1).map(lambda b: b * LARGE)] if large else []),
    )
    made = draw(st.lists(leaf, min_size=1, max_size=6))
    for _ in range(draw(st.integers(0, 6))):
        indices = draw(st.lists(st.integers(0, len(made) - 1), max_size=4))
        made.append(draw(st.sampled_from(BUILDERS))([made[i] for i in indices]))
    return made[-1]


@given(values())
def test_restored_is_what_was_replaced(value: Any) -> None:
    """Types, content, and which objects are one and the same survive the journey."""
    replaced, _ = replaced_by_proxies(value)
    assert_same_structure(restored(replaced), value)


@given(values())
def test_survives_pickling_in_between(value: Any) -> None:
    """A worker that unpickles the arguments finds shared parts shared, distinct ones distinct."""
    stored: list[Any] = []

    def replace(large: Any) -> Proxy[Any]:
        stored.append(large)
        return Proxy(Stored(large))

    replaced = Replacement(POLICY, replace).apply(value)
    assert_same_structure(restored(pickle.loads(pickle.dumps(replaced))), value)


class Stored:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self) -> Any:
        return self.value


@given(values())
def test_callers_containers_are_never_modified(value: Any) -> None:
    """Neither replacing nor restoring writes to a container it was given."""
    before = snapshot(value)
    replaced, _ = replaced_by_proxies(value)
    assert snapshot(value) == before
    again = snapshot(replaced)
    restored(replaced)
    assert snapshot(replaced) == again


@given(values(large=False))
def test_what_is_small_is_handed_on_as_it_is(value: Any) -> None:
    """A value under the threshold is not even copied."""
    replaced, stored = replaced_by_proxies(value)
    assert replaced is value
    assert not stored
    assert restored(value) is value


@given(values())
def test_each_large_object_is_replaced_once(value: Any) -> None:
    """One object in two places is stored once; equal objects are not taken for one."""
    replaced, stored = replaced_by_proxies(value)
    assert len(stored) == len({id(large) for large in stored})
    assert contains_proxy(replaced) == bool(stored)


@given(values())
def test_no_large_value_stays(value: Any) -> None:
    """What is left in place pickles to less than a threshold for each part of it."""
    replaced, stored = replaced_by_proxies(value)
    if stored:
        assert not any(isinstance(v, bytes) and len(v) >= LARGE for v in all_parts(replaced))


def all_parts(value: Any) -> list[Any]:
    found, pending = [], [value]
    while pending:
        value = pending.pop()
        found.append(value)
        if not isinstance(value, Proxy):
            pending += parts(value)
    return found


LARGE_BYTES = b"x" * LARGE


@pytest.mark.parametrize(
    "value",
    [
        Point(LARGE_BYTES, 1),
        Plain(LARGE_BYTES, [1]),
        Frozen(LARGE_BYTES),
        Slotted(LARGE_BYTES, 2),
        FrozenSlotted(LARGE_BYTES, 3),
        Derived(1, 2, LARGE_BYTES, scale=3),
        Generically(LARGE_BYTES),
        OrderedDict([("z", LARGE_BYTES), ("a", 1)]),
        {"nested": [{"deeper": (Point(1, Plain(LARGE_BYTES)),)}]},
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_kind_of_container(value: Any) -> None:
    replaced, stored = replaced_by_proxies(value)
    assert stored == [LARGE_BYTES]
    assert type(replaced) is type(value)
    assert_same_structure(restored(replaced), value)


def test_order_and_factory_of_dicts() -> None:
    """An OrderedDict keeps its order, a defaultdict goes on making defaults."""
    ordered = OrderedDict([("z", 1), ("a", LARGE_BYTES), ("m", 2)])
    assert list(restored(replaced_by_proxies(ordered)[0])) == ["z", "a", "m"]
    default = defaultdict(list, a=LARGE_BYTES)
    back = restored(replaced_by_proxies(default)[0])
    assert type(back) is defaultdict
    assert back["missing"] == []
    assert "missing" not in default


def test_unset_field_stays_unset() -> None:
    """A field(init=False) that nobody has set is not invented."""

    @dataclass
    class Late:
        a: Any
        later: Any = field(init=False, repr=False)

    back = restored(replaced_by_proxies(Late(LARGE_BYTES))[0])
    assert back.a == LARGE_BYTES
    assert not hasattr(back, "later")


def test_large_attributes_besides_the_fields() -> None:
    """What __post_init__ or a cached property put into a dataclass is looked at as well."""

    @dataclass
    class Cached:
        seed: int

        @cached_property
        def table(self) -> bytes:
            return bytes([self.seed]) * LARGE

    value = Cached(7)
    table = value.table
    replaced, stored = replaced_by_proxies(value)
    assert stored == [table]
    assert vars(restored(replaced)) == {"seed": 7, "table": table}
    labelled = Labelled(LARGE_BYTES, 1)
    labelled.note = "kept"
    assert restored(replaced_by_proxies(labelled)[0]).note == "kept"


def test_dataclass_that_pickles_itself_goes_whole() -> None:
    """Its own __getstate__ would meet a proxy, and copy() might do more than copy."""

    @dataclass
    class Own:
        a: Any

        def __getstate__(self) -> Any:
            return {"a": bytes(self.a)}

    @dataclass
    class Also(dict):  # type: ignore[type-arg]
        a: Any

    for value in (Own(LARGE_BYTES), Also(LARGE_BYTES)):
        replaced, stored = replaced_by_proxies(value)
        assert isinstance(replaced, Proxy)
        assert stored[0] is value


def test_sets_go_whole() -> None:
    """A proxy in a set would be hashed, and thereby resolved, wherever the set is unpickled."""
    for value in ({LARGE_BYTES}, frozenset([LARGE_BYTES, 1])):
        replaced, stored = replaced_by_proxies([value, 1])
        assert isinstance(replaced[0], Proxy)
        assert stored == [value]
        assert restored(replaced) == [value, 1]


def test_set_of_proxies_stays() -> None:
    """Its elements are restored at the other end, whatever its size."""
    mine = Proxy(lambda: "mine", describe("mine"))
    value = [{mine, *range(LARGE)}, LARGE_BYTES]
    replaced, stored = replaced_by_proxies(value)
    assert stored == [LARGE_BYTES]
    assert replaced[0] is value[0]
    assert "mine" in restored(replaced)[0]


def test_many_small_values_go_as_a_whole_and_only_so() -> None:
    """A container that is large by number is stored once, not also piece by piece."""
    value = [LARGE_BYTES, b"s" * (LARGE // 2), b"t" * (LARGE // 2)]
    replaced, stored = replaced_by_proxies(value)
    assert isinstance(replaced, Proxy)
    assert len(stored) == 1
    assert stored[0] is value


def test_keys_count() -> None:
    """A dict may be large by its keys alone."""
    value = {"k" * 100 + str(i): i for i in range(200)}
    assert isinstance(replaced_by_proxies(value)[0], Proxy)


def test_long_containers_are_looked_at_to_the_end() -> None:
    """One large array or one proxy among thousands of values is found wherever it is."""
    array = np.zeros(100_000)
    value: list[Any] = [None] * 5000
    value[777] = array
    replaced, stored = replaced_by_proxies(value, Policy(array.nbytes))
    assert isinstance(replaced[777], Proxy)
    assert len(stored) == 1
    assert stored[0] is array
    proxies = [Proxy(lambda i=i: i) for i in range(3000)]
    assert contains_proxy(proxies)
    assert restored(proxies) == list(range(3000))


def test_a_container_with_proxies_is_not_stored() -> None:
    """Otherwise the function would meet the user's proxies where it wants objects."""
    mine = Proxy(lambda: "mine")
    value = [mine, b"s" * (LARGE // 2), b"t" * (LARGE // 2)]
    replaced, stored = replaced_by_proxies(value)
    assert replaced is value
    assert not stored
    assert restored(replaced)[0] == "mine"


@pytest.mark.parametrize("make", [list, lambda parts: dict(enumerate(parts)), lambda p: Plain(p)])
def test_what_contains_itself(make: Any) -> None:
    """Cycles neither hang nor break: they go as a whole when large, and untouched when not."""
    inner = [1]
    small = make([inner])
    inner.append(small)
    replaced, stored = replaced_by_proxies(small)
    assert replaced is small
    assert not stored
    assert restored(small) is small
    assert not contains_proxy(small)
    inner.append(LARGE_BYTES)
    replaced, stored = replaced_by_proxies([small, 2])
    assert restored(replaced)[0] is small or restored(replaced) == [small, 2]
    assert stored
    assert all(type(large) in (list, dict, Plain) for large in stored)


def test_wide_cycle_takes_no_time() -> None:
    """Objects that refer to each other many times over are looked at once each."""
    knot: list[Any] = []
    knot.extend([knot] * 500)
    row = [1.5, "a"] * 10
    shared = row
    for _ in range(30):
        shared = [shared] * 50
    started = time.perf_counter()
    for value in (knot, shared, Plain(knot, shared), {"a": deque([knot, shared])}):
        replaced, _ = replaced_by_proxies(value)
        assert not contains_proxy(value)
        restored(value)
        del replaced
    assert time.perf_counter() - started < 10


def test_depth_and_nested_option() -> None:
    """The policy says how deep to look; what lies deeper goes with its container."""
    value = [[[LARGE_BYTES]]]
    whole, _ = replaced_by_proxies(value, Policy(LARGE, nested=False))
    assert isinstance(whole, Proxy)
    deep, _ = replaced_by_proxies(value, Policy(LARGE, depth=2))
    assert isinstance(deep[0][0], Proxy)
    assert restored(deep) == value
    bottom, _ = replaced_by_proxies(value, Policy(LARGE, depth=3))
    assert isinstance(bottom[0][0][0], Proxy)


def test_types() -> None:
    """Only instances of the named classes are replaced, containers of them included."""
    array = np.zeros(LARGE)
    value = [array, LARGE_BYTES]
    replaced, _ = replaced_by_proxies(value, Policy(LARGE, types=np.ndarray))
    assert isinstance(replaced[0], Proxy)
    assert replaced[1] is LARGE_BYTES


def test_nothing_is_resolved_by_looking() -> None:
    """Proxies of the caller's are passed over without touching what they stand for."""

    class Holder:
        def __init__(self, content: Any) -> None:
            self.content = content

    mine = Proxy(lambda: pytest.fail("resolved"))
    value = [mine, {"a": (mine,)}, Holder(mine), {1: {2: deque([mine])}}]
    replaced, stored = replaced_by_proxies(value)
    assert replaced is value
    assert not stored
    assert not is_resolved(mine)


def test_failing_replacement_leaves_the_value() -> None:
    """When a value is kept (a full store), the container around it is handed on as it is."""
    value = [LARGE_BYTES, {"a": LARGE_BYTES}]
    replacement = Replacement(POLICY, lambda large: large)
    assert replacement.apply(value) is value
    assert not replacement.proxies


def test_arguments_share_what_they_shared() -> None:
    """One pass over several arguments keeps an object that is in two of them one object."""
    shared = [LARGE_BYTES]
    replacement = Replacement(POLICY, lambda large: Proxy(lambda: large))
    first, second = replacement.apply(shared), replacement.apply((shared,))
    assert second[0] is first
    restoration = Restoration(extract)
    assert restoration.apply(second)[0] is restoration.apply(first)


def test_copy_of_a_container_is_another() -> None:
    """Equal but distinct containers stay distinct."""
    one = [LARGE_BYTES]
    replaced, _ = replaced_by_proxies([one, copy.copy(one)])
    back = restored(replaced)
    assert back[0] == back[1]
    assert back[0] is not back[1]
