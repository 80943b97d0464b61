"""Whose line a warning is about: the user's, not one of ours."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

__all__ = ["warn_caller"]

# Between a user's line and ours there may be some of Dask's.
_OURS = frozenset({"proxyflow", "proxyflow_futures", "proxyflow_dask", "dask", "distributed"})


def warn_caller(message: str) -> None:
    """Issue a `RuntimeWarning` that names the line from which proxyflow was called."""
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and _is_ours(frame):
        frame = frame.f_back
        level += 1
    warnings.warn(message, RuntimeWarning, stacklevel=level)


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in _OURS
