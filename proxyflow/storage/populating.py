"""Making the pages of mappings ready in the background, ahead of who reads them."""

from __future__ import annotations

import mmap
import os
import time
import weakref
from collections.abc import Callable
from functools import partial

from proxyflow.storage.background import Background

__all__ = ["populate_ahead"]

# Less has been read before the thread has a processor of its own: it wakes up on the caller's.
_FROM = 64 << 20
# When to look whether somebody reads: after so many seconds, and once more.
_PAUSES = (0.0003, 0.003)

_populate_if_read: Callable[[mmap.mmap], bool] | None = None
if not os.environ.get("PROXYFLOW_PURE_PYTHON"):
    try:
        from proxyflow.storage._populate import populate_if_read as _populate_if_read
    except ImportError:
        _populate_if_read = None

_background = Background("proxyflow-populate")


def populate_ahead(mapping: memoryview) -> None:
    """Let the pages of a large mapping of a file in memory be made ready ahead of its reader.

    Reading 100 MiB takes half of the time that it takes with a fault for every few pages. Who
    touches just a little of it is left alone: that is seen in the page table. It happens where the
    part in C has been built and the kernel can (Linux 5.14, with ``/proc``).

    Parameters
    ----------
    mapping
        A view of a ``mmap.mmap``, which is not kept from being let go of.
    """
    if _populate_if_read is not None and mapping.nbytes >= _FROM:
        mapped = mapping.obj
        assert isinstance(mapped, mmap.mmap)
        _background.run(partial(_follow, weakref.ref(mapped), _populate_if_read))


def _follow(
    reference: weakref.ref[mmap.mmap], populate_if_read: Callable[[mmap.mmap], bool]
) -> None:
    for pause in _PAUSES:
        time.sleep(pause)
        mapping = reference()
        if mapping is None or populate_if_read(mapping):
            return
        del mapping
