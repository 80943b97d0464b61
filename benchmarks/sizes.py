"""Sizes of objects, their names, and whether there is room for them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

__all__ = ["GIB", "KIB", "MIB", "has_room", "label"]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# How many times an object may be there at once: its maker's, its copies while it is moved, and what
# each contestant keeps of it.
_COPIES = 10


def label(nbytes: int) -> str:
    """Return a size as people write it.

    Examples
    --------
    >>> label(1024), label(100 << 20), label(1 << 30)
    ('1 KiB', '100 MiB', '1 GiB')
    """
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if nbytes >= unit:
            return f"{nbytes / unit:g} {name}"
    return f"{nbytes} B"


def has_room(nbytes: int, directory: str, copies: int = _COPIES) -> bool:
    """Return whether objects of a size can be measured without crowding out anybody."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * KIB
            break
    else:
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(available, shutil.disk_usage(directory).free) > nbytes * copies
