"""Looking through all messages of a store, while they are being moved."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from proxyflow.storage.maildir.sections import Sections
from proxyflow.storage.maildir.stamp import unstamped

__all__ = ["Stored", "scan"]


class Stored(NamedTuple):
    """What a scan tells of one message."""

    name: str
    nbytes: int
    modified: float
    """When it was written, in seconds since the epoch."""


def scan(sections: Sections) -> Iterator[Stored]:
    """Yield each message that is there all the time once, unless it is moved twice meanwhile."""
    seen: set[str] = set()
    # From the claimed to the waiting ones and back: a message moved once is met in one of them.
    for section in ("cur", "new", "cur"):
        for filename in sections.files(section):
            split = unstamped(filename) if section == "cur" else None
            name = filename if split is None else split[0]
            if name in seen:
                continue
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(filename, dir_fd=sections.fd(section), follow_symlinks=False)
                seen.add(name)
                yield Stored(name, status.st_size, status.st_mtime)
