"""The special methods through which a proxy forwards to its target.

Python looks special methods up on the type, so a proxy's type must have those of its target. They
are plain functions compiled from one-line templates, each the first time some type needs it. A
closure over an operator function would be shorter to write, but calls two functions where these
read a slot and apply the operator: 58 ns instead of 95 ns for ``proxy + 1``.

Every function uses the operator or builtin (``len(target)``), never the method behind it
(``target.__len__()``), so that all the fallbacks Python knows keep working.
"""

from __future__ import annotations

import abc
import math
import operator
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from proxyflow.errors import ProxyflowError
from proxyflow.traits import (
    BIT,
    MAPPING_FLAG,
    MAPPING_PATTERN,
    SEQUENCE_FLAG,
    SEQUENCE_PATTERN,
    TEXT,
)

__all__ = [
    "ALWAYS",
    "ATTRIBUTES",
    "Forwarder",
    "TypeAnnotations",
    "TypeText",
    "fetched",
    "match_like",
    "method",
    "special_methods",
]


class Forwarder:
    """Marks the types whose objects forward to the target in their ``__proxy_target__``."""

    __slots__ = ()


def fetched(proxy: Any, name: str) -> Any:
    """Return the target of a proxy, of which the attribute ``name`` is to be read.

    Raises
    ------
    ProxyflowError
        In place of an ``AttributeError`` of the factory, which ``hasattr`` would take for the
        answer.
    """
    try:
        return proxy.__proxy_target__
    except AttributeError as error:
        raise ProxyflowError(
            f"the target of {proxy!r} could not be fetched to read its attribute {name!r}: "
            f"its factory failed with AttributeError: {error}",
        ) from error


class TypeText(str):
    """A string that is an attribute of the type, where its objects have that of their target."""

    attribute: str

    def __new__(cls, attribute: str, text: str) -> TypeText:
        """Hold ``text`` as the attribute of that name."""
        self = super().__new__(cls, text)
        self.attribute = attribute
        return self

    def __get__(self, proxy: Any, owner: type | None = None) -> Any:
        return self if proxy is None else getattr(fetched(proxy, self.attribute), self.attribute)


class TypeAnnotations(dict[str, Any]):
    """The annotations of the type, of which there are none; its objects have their target's.

    A type without gets some, empty, as soon as somebody asks, and these hide the target's.
    """

    def __get__(self, proxy: Any, owner: type | None = None) -> Any:
        return self if proxy is None else fetched(proxy, "__annotations__").__annotations__


# `match` looks at flags of the type, and the only way for a class written in Python to get them is
# to be registered with an ABC that has them. Sequence and Mapping have, but then the proxy of an
# array, which matches `[a, b]` without being a Sequence, would be one.
class _MatchesSequence(abc.ABC):  # noqa: B024
    __abc_tpflags__ = SEQUENCE_FLAG


class _MatchesMapping(abc.ABC):  # noqa: B024
    __abc_tpflags__ = MAPPING_FLAG


def match_like(proxy_type: type, mask: int) -> None:
    """Give the type the flags for sequence or mapping patterns that the target's class has."""
    if mask & SEQUENCE_PATTERN:
        _MatchesSequence.register(proxy_type)
    if mask & MAPPING_PATTERN:
        _MatchesMapping.register(proxy_type)


# Reading the slot of an unresolved proxy falls through to its `__getattr__`, which resolves it.
_TARGET = "self.__proxy_target__"
# C types insist on exact arguments (`str in`, slices as indices, `%` with a tuple), and user
# classes compare types in `__eq__`; so an argument that is itself a proxy is replaced by its
# target. Asked of the type, because `isinstance` would go on to ask the argument's `__class__`.
_UNWRAP = "if issubclass(type(other), Forwarder): other = other.__proxy_target__"

_BINARY = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "matmul": "@",
    "truediv": "/",
    "floordiv": "//",
    "mod": "%",
    "lshift": "<<",
    "rshift": ">>",
    "and": "&",
    "xor": "^",
    "or": "|",
    "pow": "**",
}
_COMPARISONS = {"lt": "<", "le": "<=", "eq": "==", "ne": "!=", "gt": ">", "ge": ">="}
# parameters after self, then the lines of the body
_OTHER: dict[str, tuple[str, ...]] = {
    "divmod": ("other", _UNWRAP, f"return divmod({_TARGET}, other)"),
    "fspath": ("", f"return os.fspath({_TARGET})"),
    "rdivmod": ("other", f"return divmod(other, {_TARGET})"),
    "pow": (
        "other, modulo=None",
        _UNWRAP,
        "if issubclass(type(modulo), Forwarder): modulo = modulo.__proxy_target__",
        f"return pow({_TARGET}, other, modulo)",
    ),
    "rpow": ("other, modulo=None", f"return pow(other, {_TARGET}, modulo)"),
    "neg": ("", f"return -{_TARGET}"),
    "pos": ("", f"return +{_TARGET}"),
    "abs": ("", f"return abs({_TARGET})"),
    "invert": ("", f"return ~{_TARGET}"),
    "int": ("", f"return int({_TARGET})"),
    "float": ("", f"return float({_TARGET})"),
    "complex": ("", f"return complex({_TARGET})"),
    "index": ("", f"return operator.index({_TARGET})"),
    "round": ("*digits", f"return round({_TARGET}, *digits)"),
    "trunc": ("", f"return math.trunc({_TARGET})"),
    "floor": ("", f"return math.floor({_TARGET})"),
    "ceil": ("", f"return math.ceil({_TARGET})"),
    "bool": ("", f"return bool({_TARGET})"),
    "str": ("", f"return str({_TARGET})"),
    "format": ("spec", f"return format({_TARGET}, spec)"),
    "dir": ("", f"return dir({_TARGET})"),
    "bytes": ("", f"return bytes({_TARGET})"),
    "getitem": ("other", _UNWRAP, f"return {_TARGET}[other]"),
    "setitem": ("other, value", _UNWRAP, f"{_TARGET}[other] = value"),
    "delitem": ("other", _UNWRAP, f"del {_TARGET}[other]"),
    "contains": ("other", _UNWRAP, f"return other in {_TARGET}"),
    "iter": ("", f"return iter({_TARGET})"),
    "next": ("", f"return next({_TARGET})"),
    "reversed": ("", f"return reversed({_TARGET})"),
    "length_hint": ("", f"return operator.length_hint({_TARGET})"),
    "call": ("*args, **kwargs", f"return {_TARGET}(*args, **kwargs)"),
    "instancecheck": ("instance", f"return isinstance(instance, {_TARGET})"),
    "subclasscheck": ("cls", f"return issubclass(cls, {_TARGET})"),
    # A class statement with a proxy of a class among its bases.
    "mro_entries": (
        "bases",
        f"target = {_TARGET}",
        "return (target,) if isinstance(target, type) else target.__mro_entries__(bases)",
    ),
    # A view of the target's own buffer: whoever asked for more than it allows gets its
    # BufferError, and releasing the view releases the target.
    "buffer": ("flags", f"return memoryview({_TARGET})"),
    "array": (
        "*args, **kwargs",
        f"target = {_TARGET}",
        "if not hasattr(target, '__array__'):",
        "    import numpy",
        "    target = numpy.asarray(target)",
        "return target.__array__(*args, **kwargs)",
    ),
    # pyarrow insists on real arrays, but asks every object for this first.
    "arrow_array": (
        "type=None",
        "import pyarrow",
        f"return pyarrow.array({_TARGET}, type=type)",
    ),
    "array_ufunc": (
        "ufunc, method, *inputs, **kwargs",
        "return getattr(ufunc, method)(*unwrapped(inputs), **unwrapped(kwargs))",
    ),
    "array_function": (
        "function, types, args, kwargs",
        "return function(*unwrapped(args), **unwrapped(kwargs))",
    ),
}
# These have no builtin to go through.
_METHODS = (
    *("enter", "exit", "aenter", "aexit", "await", "aiter", "anext"),
    *("get", "set", "delete", "set_name"),
)

# What every object has, whatever its class.
ALWAYS = tuple(f"__{name}__" for name in (*_COMPARISONS, "str", "format", "dir"))


def special_methods(mask: int) -> dict[str, Callable[..., Any]]:
    """Return what the type of a proxy needs for a target with the special methods in ``mask``."""
    return {name: method(name) for name in _names(mask)}


def _names(mask: int) -> Iterator[str]:
    for name, bit in BIT.items():
        if mask & bit and name not in _ELSEWHERE:
            yield name
    # Beyond what the target's class has, where Python would otherwise do something else with the
    # proxy than with its target:
    for name in _BINARY.keys() | {"divmod"}:
        # Builtin sequences concatenate and repeat in C without any `__radd__`.
        if mask & BIT[f"__{name}__"] and not mask & BIT[f"__r{name}__"]:
            yield f"__r{name}__"
    if mask & BIT["__buffer__"] and not mask & BIT["__bytes__"]:
        # Where a proxy cannot export a buffer, bytes() would go through the items: of an array of
        # int64, that gives other bytes.
        yield "__bytes__"
    if mask & BIT["__array_ufunc__"] and mask & BIT["__buffer__"]:
        yield "__arrow_array__"
    if mask & TEXT:
        # Strings are paths, for which Python asks them by exact type.
        yield "__fspath__"
    if mask & (BIT["__float__"] | BIT["__complex__"] | TEXT | MAPPING_PATTERN):
        # NumPy knows Python's own numbers and strings by exact type, and would make arrays of
        # objects, or of the letters; and of what has a length and items those of the keys.
        yield from ("__array__", "__array_ufunc__")
    if mask & BIT["__subclasscheck__"]:
        yield "__mro_entries__"


# Proxy answers these itself, from recorded facts; and Python 3.11 knows no `__buffer__`.
_ELSEWHERE = {"__hash__", "__len__"} | ({"__buffer__"} if sys.version_info < (3, 12) else set())
_compiled: dict[str, Callable[..., Any]] = {}


def method(name: str) -> Callable[..., Any]:
    """Return the function that forwards the special method ``name``."""
    function = _compiled.get(name)
    if function is None:
        function = _compiled.setdefault(name, _compile(name, *_template(name[2:-2])))
    return function


def _template(name: str) -> tuple[str, ...]:
    if name in _OTHER:
        return _OTHER[name]
    if name in _METHODS:
        return "*args, **kwargs", f"return {_TARGET}.__{name}__(*args, **kwargs)"
    symbol = _BINARY.get(name) or _COMPARISONS.get(name)
    if symbol:
        return "other", _UNWRAP, f"return {_TARGET} {symbol} other"
    if name[0] == "r":
        return _reflected(name[1:])
    # In place: the name keeps the proxy if the target has changed itself, and else becomes the
    # plain result, as it does for `x = 1; x += 1`.
    return (
        "other",
        _UNWRAP,
        f"result = target = {_TARGET}",
        f"result {_BINARY[name[1:]]}= other",
        "return self if result is target else result",
    )


def _reflected(name: str) -> tuple[str, ...]:
    result = f"return other {_BINARY[name]} {_TARGET}"
    return (
        "other",
        f"if hasattr(other, '__i{name}__') and called_in_place(2):",
        f"    other {_BINARY[name]}= {_TARGET}",
        "    return other",
        result,
    )


def called_in_place(depth: int = 1) -> bool:
    """Tell whether the reflected method that asks was called for ``x += proxy``.

    A list, a set or a bytearray does not know the proxy's type and leaves the operation to the
    proxy's reflected method, the same one for ``+`` and ``+=``. Giving a new list for the latter
    would be silently wrong: whoever else holds the list would not see it grow. Only the
    instruction of the caller tells the two apart.

    Parameters
    ----------
    depth
        How many frames up the operator stands: methods in C have none of their own.
    """
    import opcode

    try:
        caller = sys._getframe(depth)
    except ValueError:
        return False  # a thread that runs nothing but C
    instruction = caller.f_code.co_code[caller.f_lasti : caller.f_lasti + 2]
    # The arguments of BINARY_OP from 13 on are the in-place operators.
    return instruction[0] == opcode.opmap["BINARY_OP"] and instruction[1] >= 13


def _compile(name: str, parameters: str, *body: str) -> Callable[..., Any]:
    source = f"def {name}(self, {parameters}):\n " + "\n ".join(body)
    # Named after the method, so that a traceback shows where it passed through the proxy.
    code = compile(source, f"<proxy {name}>", "exec")
    namespace: dict[str, Any] = {}
    exec(code, _GLOBALS, namespace)  # constant templates from this file only
    function = namespace[name]
    assert isinstance(function, types.FunctionType)
    return function


def unwrapped(value: Any) -> Any:
    """Replace the proxies among the arguments of an array function, which nest in lists."""
    kind = type(value)
    if issubclass(kind, Forwarder):
        return value.__proxy_target__
    if kind is list or kind is tuple:
        return kind(map(unwrapped, value))
    if kind is dict:
        return {key: unwrapped(item) for key, item in value.items()}
    return value


def _signature(target: Any, name: str) -> Any:
    """Answer ``inspect.signature``, which would otherwise find that of the proxy's ``__call__``."""
    import inspect

    return inspect.signature(target) if callable(target) else getattr(target, name)


def _array_interface(target: Any, name: str) -> Any:
    """Give NumPy the memory of an array only where that is all there is to it.

    NumPy asks for ``__array_struct__`` and ``__array_interface__`` before ``__array__``, which
    gives the array itself. But the former loses the unit of dates, and both lose what a dtype has
    beyond its string: dates without their unit are wrong, and nobody is told.
    """
    dtype = getattr(target, "dtype", None)
    if name == "__array_struct__" or getattr(dtype, "kind", "") not in tuple("biufcmMSU"):
        raise AttributeError(f"a proxy of {type(target).__name__!r} has no attribute {name!r}")
    return getattr(target, name)


# Attributes that are looked up on objects, but where the target's own would mislead who asks.
ATTRIBUTES: dict[str, Callable[[Any, str], Any]] = {
    "__signature__": _signature,
    "__array_struct__": _array_interface,
    "__array_interface__": _array_interface,
}

_GLOBALS: dict[str, Any] = {
    "Forwarder": Forwarder,
    "math": math,
    "called_in_place": called_in_place,
    "operator": operator,
    "os": os,
    "unwrapped": unwrapped,
}
