"""The lazy transparent proxy and its verbs.

A :class:`Proxy` stands for an object that is somewhere else. It holds a *factory* that fetches the
object, the target, the first time something needs it, and from then on every operation on the proxy
is one on the target. What never needs the target, because it was recorded when the proxy was made:
pickling, ``repr``, ``isinstance``, ``hash``, ``len``, and an array's shape, dtype and size.

The verbs are functions, since any method of ours would hide the target's method of that name.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from proxyflow.errors import ProxyflowError
from proxyflow.facts import Facts, class_of, lacks, summary
from proxyflow.flight import single_flight
from proxyflow.special import (
    ALWAYS,
    ATTRIBUTES,
    Forwarder,
    TypeText,
    match_like,
    method,
    special_methods,
)
from proxyflow.traits import BIT, MAPPING_PATTERN, SEQUENCE_PATTERN, TEXT, mask_of

if TYPE_CHECKING:
    from proxyflow.prefetch import ProxyFuture

__all__ = [
    "Proxy",
    "extract",
    "get_factory",
    "is_resolved",
    "resolve",
    "resolve_async",
]

T = TypeVar("T")

if TYPE_CHECKING:

    class _Base(Forwarder, Generic[T]):
        pass
else:
    # For the type checker a proxy is Generic. At run time Generic would put attributes of its own
    # (`__orig_bases__`, `__parameters__`, `_is_protocol`) where they hide the target's.
    _Base = {T: Forwarder}


class Proxy(_Base[T]):
    """A lazy stand-in for the object that ``factory()`` returns.

    Its type is a subclass of ``Proxy`` with just the special methods that the target's class has,
    so ``callable(p)`` or ``isinstance(p, Iterable)`` are true when they are for the target. Without
    ``facts`` it has all of them until it is resolved, except those of descriptors: reading a class
    attribute that holds a proxy must not resolve it. A proxied plain function is callable but is
    no instance of ``types.FunctionType``, because cloudpickle would pickle the function for it.

    Parameters
    ----------
    factory
        Called without arguments for the target when it is first needed. Picklable if the proxy is
        to be. A proxy in its place is returned as it is.
    facts
        What is known of the target already, from :func:`proxyflow.facts.describe`.

    Raises
    ------
    TypeError
        If ``factory`` cannot be called.

    Notes
    -----
    Whatever ``factory`` raises reaches the code that needed the target, and the next use tries
    again. The one exception is an ``AttributeError`` while an attribute is read: ``hasattr`` would
    take it for a missing attribute and hide that the target could not be fetched, so there it
    becomes the cause of a ``ProxyflowError``.

    A pickle of a proxy holds factory and facts, never the target, resolved or not. ``copy.copy``
    and ``copy.deepcopy`` of a resolved proxy copy the target too.

    Some C code accepts only objects of exact types and cannot be persuaded (``"a".join([p])`` with
    a proxied string, ``json.dumps(p)``); use :func:`extract` there. Before Python 3.12 no proxy can
    export a buffer: ``memoryview(p)`` raises, ``bytes(p)`` is right, but ``bytearray(p)`` goes
    through the items.

    Examples
    --------
    >>> from proxyflow.facts import describe
    >>> p = Proxy(lambda: [1, 2, 3], describe([1, 2, 3]))
    >>> isinstance(p, list), len(p), is_resolved(p)
    (True, 3, False)
    >>> p + [4]
    [1, 2, 3, 4]
    >>> is_resolved(p)
    True
    """

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
        mask = _ANYTHING if facts is None else facts.mask
        self: Proxy[T] = _new(_types.get(mask) or _make_type(mask))
        _set_factory(self, factory)
        _set_facts(self, facts)
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            target = _target_of(self)
        except AttributeError:
            pass  # not resolved: continued below, outside the context of this exception
        else:
            return ATTRIBUTES.get(name, getattr)(target, name)
        if name == "__proxy_target__":
            return _resolve(self)
        return _attribute_of_unresolved(self, name)

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
            facts = self.__proxy_facts__
            cls = None if facts is None else class_of(facts)
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
            described = summary(self.__proxy_facts__)
            return f"<Proxy of {described}, unresolved, {self.__proxy_factory__!r}>"
        return repr(target)

    def __sizeof__(self) -> int:
        try:
            target = _target_of(self)
        except AttributeError:
            return object.__sizeof__(self)
        return cast(int, target.__sizeof__())

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        facts = self.__proxy_facts__
        factory = self.__proxy_factory__
        if facts is None:
            return _p, (factory,)
        # Most targets have a class, at best a length, and nothing else worth the bytes.
        return _p, (factory, *(facts[:4] if facts[4:] == _NO_MORE else facts))

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__reduce_ex__(2)

    def __copy__(self) -> Proxy[T]:
        twin = Proxy(self.__proxy_factory__, self.__proxy_facts__)
        if is_resolved(self):
            _set_resolved(twin, copy.copy(self.__proxy_target__))
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Proxy[T]:
        twin = Proxy(self.__proxy_factory__, self.__proxy_facts__)
        memo[id(self)] = twin  # before the target, which may contain its own proxy
        if is_resolved(self):
            _set_resolved(twin, copy.deepcopy(self.__proxy_target__, memo))
        return twin


def resolve(proxy: Proxy[T]) -> T:
    """Return the target, fetching it if that has not happened yet.

    Raises
    ------
    TypeError
        If ``proxy`` is no proxy.
    Exception
        Whatever the factory raises; the proxy stays unresolved and can be tried again.

    Examples
    --------
    >>> resolve(Proxy(lambda: 42))
    42
    """
    _check(proxy)
    return cast(T, proxy.__proxy_target__)


def resolve_async(proxy: Proxy[T]) -> ProxyFuture[T]:
    """Start fetching the target in the background.

    Using the proxy meanwhile waits for this attempt rather than starting another.

    Returns
    -------
    concurrent.futures.Future
        Gives the target, or the factory's exception. It can also be awaited.

    Raises
    ------
    TypeError
        If ``proxy`` is no proxy.

    Examples
    --------
    >>> resolve_async(Proxy(lambda: 42)).result()
    42
    """
    _check(proxy)
    # concurrent.futures imports logging and threading; those who do not prefetch do not pay.
    from proxyflow.prefetch import prefetch

    return prefetch(proxy)


def is_resolved(proxy: Proxy[Any]) -> bool:
    """Tell whether the target has been fetched.

    Raises
    ------
    TypeError
        If ``proxy`` is no proxy.

    Examples
    --------
    >>> is_resolved(Proxy(lambda: 42))
    False
    """
    _check(proxy)
    try:
        _target_of(proxy)
    except AttributeError:
        return False
    return True


@overload
def extract(obj: Proxy[T]) -> T: ...
@overload
def extract(obj: T) -> T: ...
def extract(obj: Any) -> Any:
    """Return the target of a proxy, and anything else as it is.

    Raises
    ------
    Exception
        Whatever the factory raises.

    Examples
    --------
    >>> extract(Proxy(lambda: 42)), extract(43)
    (42, 43)
    """
    return obj.__proxy_target__ if issubclass(type(obj), Proxy) else obj


def get_factory(proxy: Proxy[T]) -> Callable[[], T]:
    """Return the factory the proxy was made with.

    Raises
    ------
    TypeError
        If ``proxy`` is no proxy.

    Examples
    --------
    >>> get_factory(Proxy(list))
    <class 'list'>
    """
    _check(proxy)
    return cast("Callable[[], T]", proxy.__proxy_factory__)


def _check(proxy: object) -> None:
    if not issubclass(type(proxy), Proxy):
        raise TypeError(f"expected a Proxy, not {type(proxy).__name__}; extract() takes anything")


def _p(factory: Callable[[], Any], *facts: Any) -> Any:
    """Rebuild a proxy from its pickle; named to be short, since the name is in every pickle."""
    # What Proxy() does, less its checks: the arguments come from a proxy that passed them.
    known = Facts(*facts) if facts else None
    mask = _ANYTHING if known is None else known.mask
    self = _new(_types.get(mask) or _make_type(mask))
    _set_factory(self, factory)
    _set_facts(self, known)
    return self


# The slots of Proxy, without the detour through attribute lookup. `_target_of` raises
# AttributeError while there is no target.
_target_of: Callable[[object], Any] = Proxy.__dict__["__proxy_target__"].__get__
_set_target: Callable[[object, object], None] = Proxy.__dict__["__proxy_target__"].__set__
_set_factory: Callable[[object, object], None] = Proxy.__dict__["__proxy_factory__"].__set__
_set_facts: Callable[[object, object], None] = Proxy.__dict__["__proxy_facts__"].__set__
_new: Callable[[type], Any] = object.__new__
# Assigning to `proxy.__class__` would assign to the target's.
_set_type: Callable[[object, type], None] = object.__dict__["__class__"].__set__

for _name in ALWAYS:
    setattr(Proxy, _name, method(_name))


def _resolve(proxy: Proxy[Any]) -> Any:
    def fly() -> None:
        target = proxy.__proxy_factory__()
        while issubclass(type(target), Proxy):
            target = target.__proxy_target__
        _set_resolved(proxy, target)

    single_flight(proxy, lambda: is_resolved(proxy), fly)
    return _target_of(proxy)


def _set_resolved(proxy: Proxy[Any], target: object) -> None:
    mask = mask_of(target)
    # First the type: a thread that finds the target also finds what it can do.
    _set_type(proxy, _types.get(mask) or _make_type(mask))
    _set_target(proxy, target)


def _attribute_of_unresolved(proxy: Proxy[Any], name: str) -> Any:
    facts = proxy.__proxy_facts__
    if facts is not None:
        value = facts.attribute(name)
        if value is not None:
            return value
        cls = class_of(facts)
        if cls is not None and name not in ATTRIBUTES and lacks(cls, facts, name):
            # Naming the class in `obj` keeps tracebacks from asking the proxy for suggestions.
            message = f"{cls.__name__!r} object has no attribute {name!r}"
            raise AttributeError(message, name=name, obj=cls)
    try:
        _resolve(proxy)
    except AttributeError as error:
        raise ProxyflowError(
            f"the target of {proxy!r} could not be fetched to read its attribute {name!r}: "
            f"its factory failed with AttributeError: {error}",
        ) from error
    return getattr(proxy, name)


def _len(self: Proxy[Any]) -> int:
    try:
        target = _target_of(self)
    except AttributeError:
        facts = self.__proxy_facts__
        if facts is not None and facts.length is not None:
            return cast(int, facts.length)
        target = self.__proxy_target__
    return len(target)


_NO_MORE = (None,) * (len(Facts._fields) - 4)
_TYPE_BITS = sum(BIT.values()) | SEQUENCE_PATTERN | MAPPING_PATTERN | TEXT
_DESCRIPTORS = ("__get__", "__set__", "__delete__", "__set_name__")
_ANYTHING = sum(bit for name, bit in BIT.items() if name not in _DESCRIPTORS)
_types: dict[int, type] = {}


def _make_type(traits: int) -> type:
    # Looked up by all the bits, which saves masking them for every proxy; made once for those
    # that make a difference to the type.
    mask = traits & _TYPE_BITS
    if mask != traits:
        return _types.setdefault(traits, _types.get(mask) or _make_type(mask))
    namespace: dict[str, Any] = dict(special_methods(mask))
    namespace["__slots__"] = ()
    for attribute in ("__doc__", "__module__"):
        namespace[attribute] = TypeText(attribute, getattr(Proxy, attribute))
    if mask & BIT["__len__"]:
        namespace["__len__"] = _len
    if not mask & BIT["__hash__"]:
        namespace["__hash__"] = None
    made = type("Proxy", (Proxy,), namespace)
    match_like(made, mask)
    return _types.setdefault(mask, made)
