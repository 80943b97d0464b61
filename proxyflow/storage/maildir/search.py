"""Reaching a message wherever it stands, though it may be moved at the same time."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from typing import TypeVar

from proxyflow.storage.maildir.files import open_regular
from proxyflow.storage.maildir.sections import Sections
from proxyflow.storage.maildir.stamp import SEPARATOR

__all__ = ["is_anywhere", "open_anywhere", "remove_anywhere"]

T = TypeVar("T")

# A message is overlooked if it is given back behind our back, between the look at the waiting and
# the look at the claimed ones. For that to happen so often in a row it would have to do nothing
# but move.
MOST_PASSES = 16

# Time stamps are that coarse: a change may be so much younger than it looks.
TICK_NS = 20_000_000


def open_anywhere(sections: Sections, name: str) -> int | None:
    """Return a descriptor of the message's file, or ``None`` if there is none."""
    return _anywhere(sections, name, open_regular)


def is_anywhere(sections: Sections, name: str) -> bool:
    """Return whether there is such a message."""
    return bool(_anywhere(sections, name, _is_regular))


def remove_anywhere(sections: Sections, name: str) -> bool:
    """Remove the message; return whether there was one.

    One that was put again while somebody had claimed it stands in two places.
    """
    removed = 0
    while removed < MOST_PASSES and _anywhere(sections, name, _remove):
        removed += 1
    return bool(removed)


def _is_regular(filename: str, directory: int) -> bool:
    return stat.S_ISREG(os.stat(filename, dir_fd=directory, follow_symlinks=False).st_mode)


def _remove(filename: str, directory: int) -> bool:
    os.unlink(filename, dir_fd=directory)
    return True


def _anywhere(sections: Sections, name: str, action: Callable[[str, int], T]) -> T | None:
    """Do something with a message's file; ``None`` if there is none."""
    for _ in range(MOST_PASSES):
        began = time.time_ns()
        result = _look(sections, name, action)
        if result is not None:
            return result
        # Only a message that leaves the claimed ones can be overlooked: the waiting ones are
        # looked at first. What comes to those does not matter.
        if os.fstat(sections.cur).st_mtime_ns < began - TICK_NS:
            return None
    return None


def _look(sections: Sections, name: str, action: Callable[[str, int], T]) -> T | None:
    for section in (sections.new, sections.cur):
        result = _attempt(action, name, section)
        if result is not None:
            return result
    for claim in sections.files("cur"):
        if claim.startswith(name + SEPARATOR):
            return _attempt(action, claim, sections.cur)
    return None


def _attempt(action: Callable[[str, int], T], filename: str, directory: int) -> T | None:
    try:
        return action(filename, directory)
    except FileNotFoundError:
        return None
