"""A proxy: what it knows, when it resolves, what it claims to be, and how it is copied."""

from __future__ import annotations

import abc
import collections.abc
import copy
import functools
import gc
import inspect
import pickle
import sys
import typing
import weakref
from types import FunctionType
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pytest

from proxyflow import proxy as px
from proxyflow.errors import ProxyflowError
from proxyflow.facts import Facts, describe
from proxyflow.proxy import Proxy
from tests.proxy_cases import Flaky, Give, Point, Refuse, scale


def annotated(a: Proxy[np.ndarray], b: Proxy[int] | None = None) -> None:
    """Exist for the annotations."""


ARRAY = np.zeros((1000, 1000))


class TestLaziness:
    """Nothing that was recorded, and nothing that concerns the proxy itself, fetches the target."""

    @pytest.mark.parametrize("target", [ARRAY, [1, 2], "text", {"a": 1}, 7, Point(1, 2), Point])
    def test_making_copying_and_pickling(self, target: Any) -> None:
        p = px.Proxy(Refuse(), describe(target))
        twins = [pickle.loads(pickle.dumps(p, protocol)) for protocol in range(6)]
        twins += [pickle.loads(cloudpickle.dumps(p)), copy.copy(p), copy.deepcopy(p)]
        twins += [pickle._loads(pickle._dumps(p))]  # type: ignore[attr-defined]  # without C
        for twin in [p, *twins]:
            assert not px.is_resolved(twin)
            assert isinstance(twin, px.Proxy)
            assert isinstance(twin, type(target))
            assert "unresolved" in repr(twin)

    def test_a_proxied_function_pickles_as_a_proxy(self) -> None:
        """Cloudpickle would embed the code of whatever says it is a function."""
        p = px.Proxy(Give(scale), describe(scale))
        for _ in "unresolved", "resolved":
            twin = pickle.loads(cloudpickle.dumps(p))
            assert isinstance(twin, px.Proxy)
            assert not px.is_resolved(twin)
            assert not isinstance(p, FunctionType)
            assert p(2) == 4

    def test_recorded_facts(self) -> None:
        p = px.Proxy(Refuse(), describe(ARRAY))
        assert (len(p), p.shape, p.nbytes, p.ndim, p.size) == (
            1000,
            (1000, 1000),
            8000000,
            2,
            10**6,
        )
        assert p.dtype == np.dtype("f8")
        assert isinstance(p.dtype, np.dtype)
        assert len(px.Proxy(Refuse(), describe("text"))) == 4
        assert hash(px.Proxy(Refuse(), describe("text"))) == hash("text")
        assert not px.Proxy(Refuse(), describe([]))
        assert px.Proxy(Refuse(), describe(Point(1, 2)))  # neither __bool__ nor __len__: true

    def test_facts_that_nobody_can_have_recorded(self) -> None:
        """Facts come out of pickles, and C that believes them all ends the process."""
        facts = describe("text")
        with pytest.raises(ValueError, match="should return >= 0"):
            len(px.Proxy(Refuse(), facts._replace(length=-5)))
        assert hash(px.Proxy(Refuse(), facts._replace(hash=-1))) == -2
        for wrong in ("a", "b"), (*facts, 1):
            with pytest.raises(ValueError, match=f"{len(wrong)} facts about the target"):
                px.Proxy(Refuse(), tuple.__new__(Facts, wrong))

    def test_unhashable_targets_are_known_to_be(self) -> None:
        p = px.Proxy(Refuse(), describe([1]))
        with pytest.raises(TypeError, match="unhashable"):
            hash(p)
        assert not isinstance(p, collections.abc.Hashable)

    def test_probing_for_protocols_of_libraries(self) -> None:
        """Dask asks everything for ``__dask_graph__``; that must not move the target."""
        for target in ARRAY, [1], Point(1, 2), pd.DataFrame({"a": [1]}), pd.Series([1]):
            p = px.Proxy(Refuse(), describe(target))
            with pytest.raises(AttributeError, match=f"'{type(target).__name__}' object has no"):
                p.__dask_graph__  # noqa: B018

    def test_an_objects_own_dunder_attribute_is_found(self) -> None:
        point = Point(1, 2)
        point.__dask_graph__ = "mine"  # type: ignore[attr-defined]
        assert px.Proxy(Give(point), describe(point)).__dask_graph__ == "mine"

    def test_memory_size_of_an_unresolved_proxy_is_its_own(self) -> None:
        p = px.Proxy(Give(ARRAY), describe(ARRAY))
        assert sys.getsizeof(p) < 200
        assert not px.is_resolved(p)
        px.resolve(p)
        assert sys.getsizeof(p) >= 8000000

    def test_type_arguments_at_creation(self) -> None:
        """``Proxy[int](...)`` assigns ``__orig_class__``, which must not reach the target."""
        assert not px.is_resolved(px.Proxy[int](Refuse()))

    def test_a_class_attribute_that_holds_a_proxy_without_facts(self) -> None:
        holder = type("Holder", (), {"part": px.Proxy(Refuse())})()
        assert not px.is_resolved(holder.part)
        holder.part = 1
        assert holder.part == 1


class TestClaims:
    """A proxy has the special methods of its target, and no others."""

    NAMES = (
        *("add", "sub", "pow", "matmul", "iadd", "neg", "int", "float", "index", "bool", "hash"),
        *("len", "getitem", "setitem", "delitem", "contains", "iter", "next", "reversed", "call"),
        *("enter", "aenter", "await", "aiter", "anext", "fspath", "get", "array", "array_ufunc"),
    )
    ABSTRACT = (
        collections.abc.Awaitable,
        collections.abc.Container,
        collections.abc.Hashable,
        collections.abc.Iterable,
        collections.abc.Mapping,
        collections.abc.Sequence,
        collections.abc.Sized,
    )

    @pytest.mark.parametrize("target", [ARRAY, [1], {1: 2}, {1}, iter([1]), scale, Point(1, 2)])
    def test_has_what_the_target_has(self, target: Any) -> None:
        # But for what makes a proxy usable where Python insists on exact types: the __radd__ of a
        # list, the __fspath__ of a string, the __array__ of a number or a dict.
        for facts in describe(target), None:
            p = px.Proxy(Give(target), facts)
            if facts is None:
                px.resolve(p)
            for name in (f"__{short}__" for short in self.NAMES):
                has = getattr(type(target), name, None) is not None
                has |= isinstance(target, dict) and name.startswith("__array_")
                assert (getattr(type(p), name, None) is not None) == has, name
            assert callable(p) == callable(target)
            for cls in self.ABSTRACT:
                assert isinstance(p, cls) == isinstance(target, cls), cls

    def test_without_facts_everything_until_resolved(self) -> None:
        p = px.Proxy(Give([1]))
        assert callable(p)
        assert isinstance(p, collections.abc.Awaitable)
        assert len(p) == 1
        assert not callable(p)
        assert isinstance(p, list)
        assert isinstance(p, px.Proxy)

    def test_narrows_to_the_class_that_came_not_the_one_recorded(self) -> None:
        p = px.Proxy(Give((1, 2)), describe([1]))
        assert p[1] == 2
        assert isinstance(p, tuple)
        assert not hasattr(p, "__setitem__")
        assert len(p) == 2

    def test_after_resolution_the_target_answers(self) -> None:
        p = px.Proxy(Give([1]), describe([1]))
        p.append(2)
        assert len(p) == 2
        assert px.resolve(p) == [1, 2]

    def test_a_recorded_hash_outlives_resolution(self) -> None:
        """A dict key must not change its hash."""
        p = px.Proxy(Give("key"), describe("key"))
        table = {p: 1}
        px.resolve(p)
        assert table[p] == table["key"] == 1

    def test_a_hash_by_identity_is_that_of_the_target(self) -> None:
        target = object()
        assert hash(px.Proxy(Give(target), describe(target))) == hash(target)

    def test_class_and_type(self) -> None:
        p = px.Proxy(Refuse(), describe(ARRAY))
        assert p.__class__ is np.ndarray
        assert type(p) is not np.ndarray
        assert type(p).__name__ == "Proxy"
        assert type(p).__module__ == "proxyflow.proxy"
        assert issubclass(type(p), px.Proxy)
        assert type(p) is type(px.Proxy(Refuse(), describe(np.ones(2))))
        assert px.Proxy(Refuse()).__class__.__name__ == "Proxy"

    def test_attributes_of_the_type_do_not_hide_the_targets(self) -> None:
        p = px.Proxy(Give(scale), describe(scale))
        assert (p.__name__, p.__doc__, p.__module__) == (
            "scale",
            "Multiply ``value`` by ``factor``.",
            "tests.proxy_cases",
        )
        assert p.__annotations__ == {"value": "float", "factor": "float", "return": "float"}
        assert px.Proxy(Give(Point), describe(Point)).__annotations__ == {"x": "int"}
        # A type gets annotations by being asked for them.
        assert (px.Proxy.__annotations__, inspect.get_annotations(type(p))) == ({}, {})
        assert "value" in px.Proxy(Give(scale), describe(scale)).__annotations__
        assert not hasattr(px.Proxy(Give(3), describe(3)), "__annotations__")
        assert "lazy stand-in" in px.Proxy.__doc__

    @pytest.mark.parametrize("target", [scale, Point, Point(1, 2).swapped, pytest.raises])
    def test_signature(self, target: Any) -> None:
        for facts in describe(target), None:
            p = px.Proxy(Give(target), facts)
            assert inspect.signature(p) == inspect.signature(target)

    def test_annotation(self) -> None:
        hints = typing.get_type_hints(annotated)
        assert typing.get_origin(hints["a"]) is Proxy
        assert typing.get_args(hints["a"]) == (np.ndarray,)
        assert typing.get_origin(px.Proxy[int]) is px.Proxy
        assert pickle.loads(pickle.dumps(px.Proxy[int])) == px.Proxy[int]

    def test_repr(self) -> None:
        def shown(target: Any) -> str:
            return repr(px.Proxy(Refuse(), None if target is None else describe(target)))

        assert shown(ARRAY) == (
            "<Proxy of numpy.ndarray (1000, 1000) float64, 7.6 MiB, unresolved, Refuse()>"
        )
        assert shown([1, 2]) == "<Proxy of list of 2, unresolved, Refuse()>"
        assert shown(Point(1, 2)) == "<Proxy of tests.proxy_cases.Point, unresolved, Refuse()>"
        assert shown(None) == "<Proxy of an unknown class, unresolved, Refuse()>"
        p = px.Proxy(Give([1]))
        assert str(p) == repr(p) == "[1]"


class TestResolution:
    """The factory is called once, and what it raises is not dressed up or hidden."""

    def test_verbs(self) -> None:
        factory = Give([1])
        p = px.Proxy(factory)
        assert px.get_factory(p) is factory
        assert px.resolve(p) is factory.target
        assert px.extract(p) is factory.target
        assert px.extract(5) == 5
        assert px.is_resolved(p)
        assert factory.calls == 1

    @pytest.mark.parametrize("verb", ["resolve", "resolve_async", "is_resolved", "get_factory"])
    def test_verbs_refuse_what_is_no_proxy(self, verb: str) -> None:
        with pytest.raises(TypeError, match="expected a Proxy, not list"):
            getattr(px, verb)([])

    def test_a_factory_must_be_callable(self) -> None:
        with pytest.raises(TypeError, match="callable, not 5"):
            px.Proxy(5)

    def test_nested_proxies_collapse(self) -> None:
        p = px.Proxy(Give(5))
        assert px.Proxy(p) is p
        outer = px.Proxy(Give(px.Proxy(Give(p))))
        assert type(px.resolve(outer)) is int

    def test_a_failure_reaches_the_caller_and_can_be_retried(self) -> None:
        p = px.Proxy(Flaky([1], OSError("disk"), KeyboardInterrupt()), describe([1]))
        with pytest.raises(OSError, match="disk"):
            p.append(2)
        with pytest.raises(KeyboardInterrupt):
            p[0]
        assert not px.is_resolved(p)
        p.append(2)
        assert p == [1, 2]

    def test_a_missing_attribute_is_the_targets_own_error(self) -> None:
        p = px.Proxy(Give([1]), describe([1]))
        for _ in "unresolved", "resolved":
            with pytest.raises(AttributeError, match=r"^'list' object has no attribute 'nothing'$"):
                p.nothing  # noqa: B018

    def test_a_failing_factory_is_no_missing_attribute(self) -> None:
        """``hasattr`` swallows AttributeError, also one that means the target cannot be fetched."""
        p = px.Proxy(Flaky([1], *(AttributeError("broken") for _ in range(3))))
        with pytest.raises(ProxyflowError, match=r"'append'.*AttributeError: broken") as caught:
            hasattr(p, "append")
        assert isinstance(caught.value.__cause__, AttributeError)
        with pytest.raises(AttributeError, match="broken"):
            px.resolve(p)
        with pytest.raises(AttributeError, match="broken"):
            len(p)
        assert hasattr(p, "append")

    def test_attributes_are_set_and_deleted_on_the_target(self) -> None:
        point = Point(1, 2)
        p = px.Proxy(Give(point), describe(point))
        p.z = 3
        assert vars(p) == {"x": 1, "y": 2, "z": 3}
        del p.z
        assert vars(point) == {"x": 1, "y": 2}
        assert "swapped" in dir(p)

    @pytest.mark.parametrize("name", ["__doc__", "__module__", "__annotations__", "__other__"])
    def test_a_factory_that_fails_is_called_once_for_each_use(self, name: str) -> None:
        """Fetching takes time, and the second failure would say less of why."""
        for facts in describe(scale), None:
            p = px.Proxy(Flaky(scale, AttributeError("broken"), OSError("again")), facts)
            with pytest.raises(ProxyflowError, match=f"{name!r}.*AttributeError: broken"):
                getattr(p, name)
            with pytest.raises(OSError, match="again"):
                getattr(p, name)
            assert not hasattr(p, "__other__")
            assert p.__doc__ == scale.__doc__

    def test_a_name_must_be_a_string(self) -> None:
        """A special method that is called directly gets what nobody has looked at."""
        p = px.Proxy(Give([1]))
        uses: dict[str, tuple[int, ...]]
        uses = {"__getattribute__": (), "__setattr__": (1,), "__delattr__": ()}
        for name in 1 << 400, b"append":
            for use, arguments in uses.items():
                with pytest.raises(TypeError, match="attribute name must be string"):
                    getattr(type(p), use)(p, name, *arguments)

    @pytest.mark.parametrize("target", [None, True, 0, ""])
    def test_a_factory_may_give_anything(self, target: Any) -> None:
        p = px.Proxy(Give(target))
        assert px.resolve(p) is target
        assert p == target
        assert bool(p) == bool(target)


class TestCopies:
    """Copies are proxies; pickles hold the recipe only."""

    def test_a_resolved_proxy_is_copied_with_its_target(self) -> None:
        p = px.Proxy(Give([[1]]), describe([[1]]))
        p.append(2)
        shallow, deep = copy.copy(p), copy.deepcopy(p)
        p[0].append(3)
        assert px.is_resolved(shallow)
        assert px.is_resolved(deep)
        assert shallow == [[1, 3], 2]
        assert deep == [[1], 2]
        assert type(deep) is type(p)

    def test_a_target_that_contains_its_proxy(self) -> None:
        target: list[Any] = []
        p = px.Proxy(Give(target), describe(target))
        p.append(p)
        twin = copy.deepcopy(p)
        assert twin[0] is twin
        assert px.resolve(twin) is not target

    def test_a_target_that_is_copied_as_its_own_proxy(self) -> None:
        """A copy that is its own target would never come to an end."""

        class Shared:
            proxy: Any = None

            def __copy__(self) -> Any:
                return self.proxy

            def __deepcopy__(self, memo: dict[int, Any]) -> Any:
                return copy.deepcopy(self.proxy, memo)

        target = Shared()
        target.proxy = p = px.Proxy(Give(target), describe(target))
        px.resolve(p)
        for twin in copy.copy(p), copy.deepcopy(p):
            assert twin is not p
            assert type(px.resolve(twin)) is Shared
        with pytest.raises(TypeError, match="cannot be a proxy"):
            px.Proxy(list).__proxy_settle__(p)

    def test_a_pickle_does_not_grow_with_resolution(self) -> None:
        p = px.Proxy(list, describe([1]))
        before = pickle.dumps(p)
        p.extend(range(1000))
        assert pickle.dumps(p) == before
        assert p.__reduce__() == p.__reduce_ex__(5)
        assert px.resolve(pickle.loads(before)) == []

    def test_the_state_is_that_of_the_target(self) -> None:
        """Libraries read it, and of the proxy there is nothing to know."""
        for facts in describe(Point(1, 2)), None:
            p = px.Proxy(functools.partial(Point, 1, 2), facts)
            before = pickle.dumps(p)
            assert p.__getstate__() == {"x": 1, "y": 2}
            assert pickle.dumps(p) == before

    def test_a_pickle_is_small(self) -> None:
        p = px.Proxy(Refuse(), describe(ARRAY))
        assert len(pickle.dumps(p, 5)) - len(pickle.dumps(Refuse(), 5)) <= 100

    def test_weak_references_and_cycles(self) -> None:
        factory = Give(None)
        factory.target = px.Proxy(factory)  # the factory's proxy is what it would return
        reference = weakref.ref(factory.target)
        del factory
        gc.collect()
        assert reference() is None


class TestTypes:
    """Classes that make life hard."""

    def test_a_class_with_slots_and_one_that_computes_attributes(self) -> None:
        class Computed:
            def __getattr__(self, name: str) -> str:
                return name

        p = px.Proxy(Give(Computed()), describe(Computed()))
        assert p.__anything__ == "__anything__"

        class Slotted:
            __slots__ = ("shape",)

        slotted = Slotted()
        slotted.shape = "round"
        assert px.Proxy(Give(slotted), describe(slotted)).shape == "round"

    def test_a_metaclass_whose_classes_are_unhashable(self) -> None:
        class Meta(type):
            def __eq__(cls, other: object) -> bool:
                raise TypeError("compared")

        cls = Meta("Odd", (), {"answer": lambda self: 42})
        odd = cls()
        p = px.Proxy(Give(odd), describe(odd))
        assert p.answer() == 42
        assert px.Proxy(Give([odd]))[0] is odd

    def test_a_proxied_class(self) -> None:
        for facts in describe(Point), None:
            p = px.Proxy(Give(Point), facts)
            assert isinstance(Point(1, 2), p)
            assert not isinstance(1, p)
            assert issubclass(type("Sub", (Point,), {}), p)
            assert p(1, 2) == Point(1, 2)
            sub = type(p)  # not the target's metaclass
            assert issubclass(sub, px.Proxy)

            class Child(p):  # type: ignore[misc]
                pass

            assert Child.__bases__ == (Point,)

    def test_a_proxied_generic_alias_as_a_base(self) -> None:
        class Child(px.Proxy(Give(list[int]))):  # type: ignore[misc]
            pass

        assert Child.__bases__ == (list,)

    def test_abstract_classes_see_the_class(self) -> None:
        class Abstract(abc.ABC):  # noqa: B024
            pass

        Abstract.register(Point)
        assert isinstance(px.Proxy(Refuse(), describe(Point(1, 2))), Abstract)

    def test_a_proxied_descriptor_binds(self) -> None:
        class Holder:
            method = px.Proxy(Give(scale), describe(scale))
            half = px.Proxy(Give(property(lambda self: 0.5)), describe(property()))

            def __mul__(self, other: int) -> int:
                return other * 10

        assert Holder().method(3) == 30
        assert Holder().half == 0.5
        with pytest.raises(AttributeError):
            Holder().half = 1
