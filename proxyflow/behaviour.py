"""What both implementations of the proxy have in common: all that is not in a hot path.

`pureproxy.py` and `_proxy.c` hold a factory, facts and a target, and forward to the target. They
come here for the rest: fetching the target, what is known before that, pickling and copying. Here a
proxy is reached only through its attributes ``__proxy_factory__``, ``__proxy_facts__``,
``__proxy_target__`` (which resolves), ``__proxy_resolved__``, ``__proxy_settle__`` (which sets the
target), ``__proxy_types__`` and ``__proxy_rebuild__`` (which undoes ``__reduce__``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from proxyflow.facts import Facts, class_of, lacks, summary
from proxyflow.flight import single_flight
from proxyflow.special import ATTRIBUTES, Forwarder, fetched
from proxyflow.traits import mask_of

if TYPE_CHECKING:
    from proxyflow.proxytypes import ProxyTypes

__all__ = [
    "Behaviour",
    "attribute_of_unresolved",
    "class_of_unresolved",
    "resolve",
    "special_attribute",
    "text_of_unresolved",
]


if TYPE_CHECKING:

    class _Forwarder(Forwarder):
        __proxy_factory__: Callable[[], Any]
        __proxy_facts__: Facts | None
        __proxy_rebuild__: Callable[..., Any]
        __proxy_target__: Any
        __proxy_types__: ProxyTypes

        def __init__(self, factory: Callable[[], Any], facts: Facts | None = None) -> None: ...
        @property
        def __proxy_resolved__(self) -> bool: ...
        def __proxy_settle__(self, target: object) -> None: ...

else:
    _Forwarder = Forwarder


class Behaviour(_Forwarder):
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
    a proxied string, ``json.dumps(p)``); use :func:`extract` there. Where the proxy in C was not
    built, no proxy exports a buffer before Python 3.12: ``memoryview(p)`` raises, ``bytes(p)`` is
    right, but ``bytearray(p)`` goes through the items, and what has items without being a sequence
    (a NumPy scalar, a match) seems to be one. Where it was built, NumPy takes the buffer for what
    there is: ``numpy.asarray(p)`` with proxied bytes is an array of numbers.

    Examples
    --------
    >>> from proxyflow import Proxy, is_resolved
    >>> from proxyflow.facts import describe
    >>> p = Proxy(lambda: [1, 2, 3], describe([1, 2, 3]))
    >>> isinstance(p, list), len(p), is_resolved(p)
    (True, 3, False)
    >>> p + [4]
    [1, 2, 3, 4]
    >>> is_resolved(p)
    True
    """

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        facts = self.__proxy_facts__
        factory = self.__proxy_factory__
        known = () if facts is None else _shortened(facts)
        compact = getattr(type(factory), "__reduce_proxy__", None)
        if compact is not None:
            return cast("tuple[Any, ...]", compact(factory, known))
        return self.__proxy_rebuild__, (factory, *known)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__reduce_ex__(2)

    def __getstate__(self) -> Any:
        # That of the proxy itself is nobody's business: it is pickled without.
        return self.__proxy_target__.__getstate__()

    def __copy__(self) -> Behaviour:
        twin = _unresolved_twin(self)
        if self.__proxy_resolved__:
            _settle_copy(twin, copy.copy(self.__proxy_target__))
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Behaviour:
        twin = _unresolved_twin(self)
        memo[id(self)] = twin  # before the target, which may contain its own proxy
        if self.__proxy_resolved__:
            _settle_copy(twin, copy.deepcopy(self.__proxy_target__, memo))
        return twin

    def __sizeof__(self) -> int:
        if self.__proxy_resolved__:
            return cast(int, self.__proxy_target__.__sizeof__())
        return object.__sizeof__(self)


def resolve(proxy: Behaviour) -> Any:
    """Fetch the target of a proxy that has none yet, in one thread at a time, and return it."""

    def fly() -> None:
        _settle(proxy, _plain(proxy.__proxy_factory__()))

    single_flight(proxy, lambda: proxy.__proxy_resolved__, fly)
    return proxy.__proxy_target__


def special_attribute(target: Any, name: str) -> Any:
    """Return an attribute of a resolved proxy's target by its ``__name__``."""
    return ATTRIBUTES.get(name, getattr)(target, name)


def attribute_of_unresolved(proxy: Behaviour, name: str) -> Any:
    """Return an attribute of the target, from what is known of it if that will do.

    Raises
    ------
    ProxyflowError
        In place of an ``AttributeError`` of the factory, which ``hasattr`` would take for the
        answer.
    """
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
    fetched(proxy, name)
    return getattr(proxy, name)


def class_of_unresolved(proxy: Behaviour) -> type | None:
    """Return the target's class, or None if it is not known here."""
    facts = proxy.__proxy_facts__
    return None if facts is None else class_of(facts)


def text_of_unresolved(proxy: Behaviour) -> str:
    """Return what ``repr`` shows of a proxy without a target."""
    return f"<Proxy of {summary(proxy.__proxy_facts__)}, unresolved, {proxy.__proxy_factory__!r}>"


# Assigning to `proxy.__class__` would assign to the target's.
_set_type: Callable[[object, type], None] = object.__dict__["__class__"].__set__
# Most targets have a class, at best a length, or are arrays, which have no hash: where facts that
# are None may be left out of a pickle.
_NO_MORE = (None,) * (len(Facts._fields) - 4)
_NO_HASH = (None, None)


def _shortened(facts: Facts) -> tuple[Any, ...]:
    if facts[4:] == _NO_MORE:
        return facts[:4]
    return facts[:-2] if facts[-2:] == _NO_HASH else facts


def _settle(proxy: Behaviour, target: object) -> None:
    # First the type: a thread that finds the target also finds what it can do.
    _set_type(proxy, proxy.__proxy_types__[mask_of(target)])
    proxy.__proxy_settle__(target)


def _settle_copy(twin: Behaviour, target: object) -> None:
    # A target that is copied as its own proxy is copied as the twin, which its factory resolves.
    if target is not twin:
        _settle(twin, _plain(target))


def _plain(target: Any) -> Any:
    while issubclass(type(target), Forwarder):
        target = target.__proxy_target__
    return target


def _unresolved_twin(proxy: Behaviour) -> Behaviour:
    return type(proxy)(proxy.__proxy_factory__, proxy.__proxy_facts__)
