"""Pickling by value: what another process cannot import.

Plain pickle refers to functions and classes by name, which misleads it where the name is one of
``__main__``: another process has another main module. Cloudpickle sends them by value, which is
wrong where the main module *is* the same, in a child of `multiprocessing`: the child's functions
would meet a copy of the class (or enum) they know, and ``isinstance`` would say no. So both are
sent, the name and the value, and the reader decides; see `restore_main`.
"""

from __future__ import annotations

import operator
import pickle
import sys
import types
import uuid
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
from cloudpickle.cloudpickle import (  # type: ignore[import-untyped]
    _DYNAMIC_CLASS_TRACKER_BY_ID,
    _get_or_create_tracker_id,
)

from proxyflow.errors import SerializationError
from proxyflow.reducers import Reducer, dispatch_table

__all__ = ["ByValuePickler", "restore_main"]

_lineage = uuid.uuid4().hex
"""Names the main module of an interactive session, which has no file; forked children keep it."""


def _program() -> str:
    return getattr(sys.modules["__main__"], "__file__", None) or _lineage


def _in_main(qualname: str) -> Any:
    """Return what the main module knows under that name, ``None`` if nothing."""
    try:
        return operator.attrgetter(qualname)(sys.modules["__main__"])
    except AttributeError:
        return None


class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Cloudpickle's pickler with our reducers, and with names beside values for ``__main__``."""

    @property
    def dispatch_table(self) -> dict[type, Reducer]:
        """Return all reducers; read once, when a pickler is made."""
        return {**cloudpickle.Pickler.dispatch_table, **dispatch_table()}

    def reducer_override(self, obj: Any) -> Any:
        """Reduce functions and classes of the main module to both their name and their value."""
        # type(), as isinstance() asks the object for its __class__, which would resolve a proxy.
        by_name = issubclass(type(obj), type | types.FunctionType)
        if by_name and obj.__module__ == "__main__" and _in_main(obj.__qualname__) is obj:
            tracker = _get_or_create_tracker_id(obj) if isinstance(obj, type) else None
            return restore_main, (_program(), obj.__qualname__, tracker, _value(obj))
        return super().reducer_override(obj)


def _value(obj: Any) -> bytes | str:
    """Return the pickled value or, as the name alone may do, the reason why there is none."""
    try:
        return cloudpickle.dumps(obj, protocol=5)  # type: ignore[no-any-return]
    except (pickle.PicklingError, TypeError, AttributeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def restore_main(program: str, qualname: str, tracker: str | None, value: bytes | str) -> Any:
    """Return a function or class of the writer's main module.

    In order: the class this process has already met by value (within a function sent by
    cloudpickle, as Dask and loky do; its id says so, which only cloudpickle's own table knows);
    the one of that name, if the main module is the same; a new one made from the value.

    Raises
    ------
    SerializationError
        The main module is another, and the function or class could not be pickled by value.
    """
    met = _DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker) if tracker is not None else None
    if met is not None:
        return met
    if program == _program():
        known = _in_main(qualname)
        if known is not None:
            return known
    if isinstance(value, str):
        raise SerializationError(
            f"{qualname} of the main module {program} is unknown here and could not be sent by "
            f"value ({value})",
            remedy="define it in a module that can be imported",
        )
    return pickle.loads(value)
