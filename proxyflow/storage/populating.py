"""Making the pages of mappings ready in the background, before they are touched."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from proxyflow.storage.background import Background

__all__ = ["populate"]

# Less has been read before the thread has a processor of its own: it wakes up on the caller's.
_FROM = 32 << 20

_populate: Callable[[memoryview], bool] | None = None
if not os.environ.get("PROXYFLOW_PURE_PYTHON"):
    try:
        from proxyflow.storage._populate import populate as _populate
    except ImportError:
        _populate = None

_background = Background("proxyflow-populate")


def populate(mapping: memoryview) -> None:
    """Let the pages of a large mapping of a file in memory be made ready while the caller goes on.

    Reading 100 MiB right after takes half of the time that it takes with a fault for every few
    pages. It happens where the part in C has been built and the kernel can (Linux 5.14).

    Parameters
    ----------
    mapping
        It stays mapped until that is done.
    """
    if _populate is not None and mapping.nbytes >= _FROM:
        _background.run(partial(_populate, mapping))
