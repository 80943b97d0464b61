"""Pickling by value, with cloudpickle, what another process may be unable to import."""

from __future__ import annotations

import pickle
import types
from typing import Any

import cloudpickle
from cloudpickle.cloudpickle import _get_or_create_tracker_id

from proxyflow.serialize.mainmodule import find_in_main, program, restore_main
from proxyflow.serialize.reducers import Reducer, dispatch_table

__all__ = ["ByValuePickler"]


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
        if by_name and obj.__module__ == "__main__" and find_in_main(obj.__qualname__) is obj:
            tracker = _get_or_create_tracker_id(obj) if issubclass(type(obj), type) else None
            return restore_main, (program(), obj.__qualname__, tracker, _value(obj))
        return super().reducer_override(obj)


def _value(obj: Any) -> bytes | str:
    """Return the pickled value or, as the name alone may do, the reason why there is none."""
    try:
        return cloudpickle.dumps(obj, protocol=5)  # type: ignore[no-any-return]
    except (pickle.PicklingError, TypeError, AttributeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
