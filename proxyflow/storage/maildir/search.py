"""Opening a message wherever it stands, though it may be moved at the same time."""

from __future__ import annotations

import os
import time

from proxyflow.storage.maildir.files import open_regular
from proxyflow.storage.maildir.sections import Sections
from proxyflow.storage.maildir.stamp import SEPARATOR

__all__ = ["open_anywhere"]

# A message is overlooked if it is moved behind our back, from where we have yet to look to where
# we have looked. For that to happen so often in a row it would have to do nothing but move.
MOST_PASSES = 16

# Time stamps are that coarse: a change may be so much younger than it looks.
TICK_NS = 20_000_000


def open_anywhere(sections: Sections, name: str) -> int | None:
    """Return a descriptor of the message's file, or ``None`` if there is none."""
    for _ in range(MOST_PASSES):
        began = time.time_ns()
        fd = _look(sections, name)
        if fd is not None:
            return fd
        if _last_move(sections) < began - TICK_NS:
            # Nothing was moved meanwhile, so nothing was overlooked.
            return None
    return None


def _look(sections: Sections, name: str) -> int | None:
    for section in ("new", "cur"):
        fd = _open(sections, section, name)
        if fd is not None:
            return fd
    for claim in sections.files("cur"):
        if claim.startswith(name + SEPARATOR):
            return _open(sections, "cur", claim)
    return None


def _open(sections: Sections, section: str, filename: str) -> int | None:
    try:
        return open_regular(filename, sections.fd(section))
    except FileNotFoundError:
        return None


def _last_move(sections: Sections) -> int:
    return max(os.fstat(fd).st_mtime_ns for fd in (sections.new, sections.cur))
