"""What a task receives for what was replaced, and what comes back."""

from __future__ import annotations

import dataclasses
import functools
import gc
import math
import os
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import numpy as np
import pytest

from proxyflow import Policy, Proxy, Store, extract, get_factory, is_resolved
from proxyflow.annotations import lazy_parameters
from proxyflow.boundary import Call, check_resolve, receive, restores, send
from proxyflow.connectors.memory import MemoryConnector
from proxyflow.errors import ConfigError, ObjectNotFoundError, StoreFullError
from proxyflow.results import StoredResult, Ticketing

if TYPE_CHECKING:
    from nowhere import Unknown


@pytest.fixture
def store() -> Iterator[Store]:
    with Store("memory://") as store:
        yield store


def proxy(value: Any = "target") -> Proxy[Any]:
    return Proxy(lambda: value)


# -- resolve -----------------------------------------------------------------------------------


def plain(a, b, c=None): ...
def first(a: Proxy, b, c=None): ...
def of_type(a, b: Proxy[bytes], c=None): ...
def as_text(a: "Proxy[bytes]", b: "bytes", c=None): ...  # noqa: UP037
def unknown(a: Proxy[Unknown], b: Unknown, c=None): ...
def optional(a: Optional[Proxy[bytes]], b: Proxy[bytes] | None = None, c=None): ...  # noqa: UP045
def annotated(a: Annotated[Proxy[bytes], "large"], b, c=None): ...
def listed(a: list[Proxy[bytes]], b: Callable[..., bytes], c: dict[str, Any] | None = None): ...
def positional(a, b: Proxy[bytes], /, c=None): ...
def keyword(a, b, *, c: Proxy[bytes]): ...
def rest(a, *others: Proxy[bytes], c=None): ...
def named(a, b, **others: Proxy[bytes]): ...


class Callables:
    def method(self, a: Proxy[bytes], b, c=None): ...
    @classmethod
    def of_class(cls, a: Proxy[bytes], b, c=None): ...
    @staticmethod
    def static(a: Proxy[bytes], b, c=None): ...
    def __call__(self, a, b: Proxy[bytes], c=None): ...


class Made:
    def __init__(self, a: Proxy[bytes], b, c=None): ...


@functools.wraps(first)
def wrapper(*args: Any, **kwargs: Any) -> Any:
    return first(*args, **kwargs)


@pytest.mark.parametrize(
    ("function", "lazy"),
    [
        (plain, ""),
        (first, "a"),
        (of_type, "b"),
        (as_text, "a"),
        (unknown, "a"),
        (optional, "ab"),
        (annotated, "a"),
        (listed, "a"),
        (positional, "b"),
        (keyword, "c"),
        (rest, "b"),
        (named, "c"),
        (Callables().method, "a"),
        (Callables.method, "b"),
        (Callables.of_class, "a"),
        (Callables.static, "a"),
        (Callables(), "b"),
        (Made, "a"),
        (wrapper, "a"),
        (functools.partial(first, c=1), "a"),
        (functools.partial(of_type, 1), "a"),
        (functools.partial(functools.partial(first)), "a"),
        (functools.partial(Callables().method), "a"),
        (lambda a, b, c=None: None, ""),
        (Call(first, "auto"), "a"),
        (print, ""),
        (min, ""),
        (math.hypot, ""),
        (np.add, ""),
        (dict, ""),
        (functools.partial(print, 1), ""),
    ],
)
def test_auto_goes_by_the_annotations(function: Any, lazy: str) -> None:
    """A parameter annotated Proxy[...] receives the proxy, every other one the exact object."""
    args, kwargs, lent = receive(function, (proxy(), proxy()), {"c": proxy()}, "auto")
    found = {"a": args[0], "b": args[1], **kwargs}
    assert {name for name, value in found.items() if type(value) is not str} == set(lazy)
    assert lent == bool(lazy)


def test_rest_and_others() -> None:
    """*args and **kwargs take what no other parameter takes, at any place."""
    lazy = lazy_parameters(rest)
    assert [lazy.position(i) for i in range(4)] == [False, True, True, True]
    assert not lazy.keyword("c")
    lazy = lazy_parameters(named)
    assert (lazy.keyword("a"), lazy.keyword("z"), lazy.position(0)) == (False, True, False)


def test_lazy_and_eager_ask_nobody() -> None:
    for function in (plain, first, keyword):
        args, kwargs, _ = receive(function, (proxy(), [proxy()]), {"c": proxy()}, "lazy")
        assert type(args[1][0]) is not str
        args, kwargs, _ = receive(function, (proxy(), [proxy()]), {"c": proxy()}, "eager")
        assert (args, kwargs) == (("target", ["target"]), {"c": "target"})
        assert type(args[0]) is str


@pytest.mark.parametrize("mode", ["", "Lazy", "yes", None])
def test_unknown_mode_is_refused(mode: Any) -> None:
    with pytest.raises(ConfigError, match="use 'auto', 'lazy' or 'eager'"):
        check_resolve(mode)


def test_functions_are_not_kept_alive() -> None:
    """A function that came by value is another one in each task, and may hold a large array."""

    class Model:
        def apply(self, a: Proxy[bytes]) -> None: ...

    model = Model()
    closure = (lambda model: lambda a: model)(model)
    gone = weakref.ref(model)
    for function in (model.apply, closure, functools.partial(closure, 1)):
        lazy_parameters(function)
    del model, closure, function
    gc.collect()
    assert gone() is None


def test_exact_types(store: Store) -> None:
    """A function that checks type(x) gets what the caller passed."""
    values = (np.zeros(1000), b"x" * 1000, {"a": ["y" * 1000]}, Point(bytes(1000), 2))
    sent = send(values, {}, Policy(500), store.references, store)
    assert all(value is not original for value, original in zip(sent.args, values, strict=True))
    received = receive(plain, pickle.loads(pickle.dumps(sent.args)), {}, "auto").args
    assert [type(value) for value in received] == [type(value) for value in values]
    np.testing.assert_array_equal(received[0], values[0])
    assert received[1:] == values[1:]


@dataclasses.dataclass
class Point:
    x: Any
    y: Any


def test_one_argument_twice_is_one_object(store: Store) -> None:
    """f(a, a) gets one array twice; f(a, a.copy()) gets two."""
    a = np.zeros(1000)
    sent = send((a, a, a.copy()), {"k": [a]}, Policy(500), store.references, store)
    assert len(list(store.scan())) == 1
    args, kwargs = pickle.loads(pickle.dumps((sent.args, sent.kwargs)))
    args, kwargs, _ = receive(plain, args, kwargs, "auto")
    assert args[0] is args[1]
    assert kwargs["k"][0] is args[0]
    assert args[2] is not args[0]
    args[0][0] = 1
    assert args[2][0] == 0


# -- send --------------------------------------------------------------------------------------


def test_small_values_of_a_call_are_not_added_up(store: Store) -> None:
    """Two arguments under the threshold stay as they are, though together they are over it."""
    args = (bytes(400), bytes(300))
    sent = send(args, {"a": bytes(400)}, Policy(500), store.references, store)
    assert (sent.args, sent.kwargs, sent.keys, sent.proxies) == (args, {"a": bytes(400)}, [], False)


def test_own_proxies_are_noticed_and_left(store: Store) -> None:
    """They are restored at the other end; what they stand for stays the caller's to evict."""
    mine = store.proxy(b"x" * 1000)
    sent = send((mine, [mine]), {}, Policy(500), store.references, store)
    assert sent.args[0] is mine
    assert sent.proxies
    assert not sent.keys
    assert not is_resolved(mine)


def test_what_fails_leaves_nothing(store: Store) -> None:
    """When the third argument cannot be pickled, the first two are evicted again."""
    with pytest.raises(TypeError):
        send((bytes(1000), "x" * 1000, [bytes(400), threading.Lock(), bytes(400)]), {}, Policy(500),
             store.references, store)  # fmt: skip
    assert list(store.scan()) == []


def test_full_store_passes_by_value() -> None:
    """A slow task is worth more than none: what does not fit travels by value, with a warning."""

    class Small(MemoryConnector):
        def put_frames(self, frames: Any) -> Any:
            if sum(memoryview(frame).nbytes for frame in frames) > 5000:
                raise StoreFullError("no room")
            return super().put_frames(frames)

    with Store(connector=Small()) as store:
        large = os.urandom(10_000)
        with pytest.warns(RuntimeWarning, match="by value.*no room"):
            sent = send(([large], b"x" * 1000), {}, Policy(500), store.references, store)
        assert sent.args[0][0] is large
        assert len(sent.keys) == 1


# -- calls -------------------------------------------------------------------------------------


def storing(function: Any, resolve: Any, store: Store, policy: Policy) -> Call:
    """Return a call whose result is stored if it is large."""
    ticketing = Ticketing(store, policy)
    return Call(function, resolve, ticketing.results, ticketing.issue())


def call(store: Store, function: Any, *args: Any, resolve: Any = "auto", **kwargs: Any) -> Any:
    """Do what an executor does with one call, pickling included."""
    sent = send(args, kwargs, Policy(500), store.references, store)
    work = storing(function, resolve, store, Policy(500))
    result = work(*pickle.loads(pickle.dumps(sent.args)), **pickle.loads(pickle.dumps(sent.kwargs)))
    store.references.release(sent.keys)
    return result


def identity(a: Any) -> Any:
    return a


def lazy_identity(a: Proxy[Any]) -> Any:
    return a


def nested_lazily(a: Proxy[Any]) -> Any:
    return [{"deep": [(1, [a])]}]


def is_lazy(a: Proxy[Any]) -> tuple[bool, int]:
    return is_resolved(a), len(a)


def test_lazy_parameter_receives_the_unresolved_proxy(store: Store) -> None:
    assert call(store, is_lazy, bytes(1000)) == (False, 1000)


def test_large_result_is_stored_small_one_is_not(store: Store) -> None:
    result = call(store, identity, b"x" * 1000)
    assert type(result) is StoredResult
    assert extract(result.proxy) == b"x" * 1000
    assert call(store, identity, b"x" * 100) == b"x" * 100
    assert call(store, lambda: None) is None


def test_forked_child_issues_other_tickets(tmp_path: Path) -> None:
    """A child that counts on from its parent's numbers would overwrite its parent's results."""
    with Store(f"file://{tmp_path}/store") as store:
        ticketing = Ticketing(store, Policy(500))

        def keys() -> set[Any]:
            return {ticketing.results.key(ticketing.issue()) for _ in range(10)}

        with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
            _inherited.append(keys)
            theirs = pool.submit(_call_inherited).result()
            _inherited.clear()
        assert len(theirs | keys()) == 20


_inherited: list[Any] = []


def _call_inherited() -> Any:
    return _inherited[0]()


def test_types_hold_for_results(store: Store) -> None:
    work = storing(identity, None, store, Policy(500, np.ndarray))
    assert type(work(bytes(1000))) is bytes
    assert type(work(np.zeros(1000))) is StoredResult


def test_what_was_lent_is_not_handed_on(store: Store) -> None:
    """A proxy that a task returns of its argument would be dangling once the argument is gone."""
    for function in (lazy_identity, nested_lazily):
        result = extract(call(store, function, bytes(1000)).proxy)
        while not isinstance(result, bytes):
            (*_, result) = result.values() if isinstance(result, dict) else result
        assert type(result) is bytes


def test_proxy_that_the_task_made_is_its_result(store: Store) -> None:
    """What a task keeps in a store of its own and returns by proxy comes back as that proxy."""
    for function in (identity, lazy_identity):
        mine = store.proxy(b"y" * 1000)
        result = call(store, lambda a, mine=mine, function=function: function(mine), bytes(1000))
        assert get_factory(result) == get_factory(mine)


def test_evicted_argument_is_missed_by_name(store: Store) -> None:
    """Somebody who smuggles a lent proxy out of a task is told why it does not resolve."""
    smuggled: list[Any] = []
    call(store, smuggled.append, bytes(1000), resolve="lazy")
    with pytest.raises(ObjectNotFoundError, match="evicted"):
        extract(smuggled[0])


def test_full_store_returns_by_value() -> None:
    class Full(MemoryConnector):
        def set_frames(self, key: Any, frames: Any) -> None:
            raise StoreFullError("no room")

    with Store(connector=Full()) as store, pytest.warns(RuntimeWarning, match="result.*by value"):
        assert call(store, identity, bytes(450) * 2) == bytes(900)


def test_call_looks_like_its_function() -> None:
    """Schedulers list tasks by the name of their function; keywords may be called anything."""
    assert Call(identity, None).__name__ == "identity"
    assert Call(Callables(), None).__name__ == "Callables"
    assert "identity" in repr(Call(identity, None))
    assert Call(dict, "eager")(self=proxy(), function=1) == {"self": "target", "function": 1}


def test_who_is_closest_to_the_function_decides() -> None:
    """A call that restores already is not wrapped to restore again."""
    assert restores(Call(identity, "lazy"))
    assert not restores(Call(identity, None))
    assert not restores(identity)
