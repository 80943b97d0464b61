"""The proxy in Python: what there is where the one in C could not be built."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from proxyflow.behaviour import (
    Behaviour,
    attribute_of_unresolved,
    class_of_unresolved,
    resolve,
    special_attribute,
    text_of_unresolved,
)
from proxyflow.facts import Facts
from proxyflow.proxytypes import ANYTHING, ProxyTypes
from proxyflow.special import ALWAYS, match_like, method, special_methods
from proxyflow.traits import BIT

__all__ = ["Proxy", "rebuild"]

T = TypeVar("T")

if TYPE_CHECKING:
    from proxyflow.typedproxy import TypedProxy as _Base
else:
    # For the type checker a proxy is Generic. At run time Generic would put attributes of its own
    # (`__orig_bases__`, `__parameters__`, `_is_protocol`) where they hide the target's.
    _Base = {T: Behaviour}


class Proxy(_Base[T]):  # noqa: D101
    __doc__ = Behaviour.__doc__
    __module__ = "proxyflow.proxy"

    # An unresolved proxy has no target in the slot, and reading it there falls through to
    # `__getattr__`, which resolves: so the common case, a resolved proxy, checks nothing.
    __slots__ = ("__proxy_factory__", "__proxy_facts__", "__proxy_target__", "__weakref__")

    __class_getitem__ = classmethod(types.GenericAlias)  # type: ignore[var-annotated]

    def __new__(cls, factory: Callable[[], T], facts: Facts | None = None) -> Proxy[T]:
        """Make a proxy of the type that fits the facts."""
        # Asked of the type, because `isinstance` would ask any factory for its `__class__`.
        if issubclass(type(factory), Proxy):
            return factory  # type: ignore[return-value]
        if not callable(factory):
            raise TypeError(f"a proxy's factory must be callable, not {factory!r}")
        if facts is not None and len(facts) != len(Facts._fields):
            raise ValueError(f"{len(facts)} facts about the target of a proxy")
        return cast("Proxy[T]", _make(factory, facts))

    def __getattr__(self, name: str) -> Any:
        try:
            target = _target_of(self)
        except AttributeError:
            pass  # not resolved: continued below, outside the context of this exception
        else:
            return special_attribute(target, name)
        return resolve(self) if name == "__proxy_target__" else attribute_of_unresolved(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__orig_class__":
            # Set, if possible, by `Proxy[int](factory)`. It is no attribute of the target.
            raise AttributeError("a proxy does not remember its type arguments")
        setattr(self.__proxy_target__, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.__proxy_target__, name)

    @property  # type: ignore[misc]  # object's has a setter, which __setattr__ makes unreachable
    def __class__(self) -> Any:
        try:
            cls = _target_of(self).__class__
        except AttributeError:
            cls = class_of_unresolved(self)
        # cloudpickle tells functions by isinstance and would pickle the body in place of the proxy.
        return type(self) if cls is None or cls is types.FunctionType else cls

    def __hash__(self) -> int:
        # The recorded hash stays when the proxy is resolved: a key in a dict must not change it.
        facts = self.__proxy_facts__
        recorded = None if facts is None else facts.trusted_hash
        return hash(self.__proxy_target__) if recorded is None else recorded

    def __repr__(self) -> str:
        try:
            target = _target_of(self)
        except AttributeError:
            return text_of_unresolved(self)
        return repr(target)

    @property
    def __proxy_resolved__(self) -> bool:
        try:
            _target_of(self)
        except AttributeError:
            return False
        return True

    def __proxy_settle__(self, target: object) -> None:
        if issubclass(type(target), Proxy):  # what forwards to itself never ends
            raise TypeError("the target of a proxy cannot be a proxy")
        _set_target(self, target)


def rebuild(factory: Callable[[], Any], facts: tuple[Any, ...]) -> Any:
    """Return a proxy as its pickle describes it: facts are a tuple, maybe a short one."""
    return _make(factory, Facts(*facts) if facts else None)


def _make(factory: Callable[[], Any], facts: Facts | None) -> Any:
    self = _new(_types[ANYTHING if facts is None else facts.mask])
    _set_factory(self, factory)
    _set_facts(self, facts)
    return self


# The slots of Proxy, without the detour through attribute lookup. `_target_of` raises
# AttributeError while there is no target.
_target_of: Callable[[object], Any] = Proxy.__dict__["__proxy_target__"].__get__
_set_target: Callable[[object, object], None] = Proxy.__dict__["__proxy_target__"].__set__
_set_factory: Callable[[object, object], None] = Proxy.__dict__["__proxy_factory__"].__set__
_set_facts: Callable[[object, object], None] = Proxy.__dict__["__proxy_facts__"].__set__
_new: Callable[[type], Any] = object.__new__


def _len(self: Proxy[Any]) -> int:
    try:
        target = _target_of(self)
    except AttributeError:
        facts = self.__proxy_facts__
        if facts is not None and facts.length is not None:
            return facts.length
        target = self.__proxy_target__
    return len(target)


def _derive(traits: int) -> type:
    namespace: dict[str, Any] = dict(special_methods(traits))
    namespace["__slots__"] = ()
    if traits & BIT["__len__"]:
        namespace["__len__"] = _len
    if not traits & BIT["__hash__"]:
        namespace["__hash__"] = None
    made = type("Proxy", (Proxy,), namespace)
    match_like(made, traits)
    return made


for _name in ALWAYS:
    setattr(Proxy, _name, method(_name))

_types = ProxyTypes(Proxy, _derive)
Proxy.__proxy_types__ = _types
