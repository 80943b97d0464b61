"""Removing what contestants leave behind, so that a long run does not fill the memory."""

from __future__ import annotations

import contextlib
import os

__all__ = ["empty"]


def empty(directory: str) -> None:
    """Remove the files in a directory, if there is one."""
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as found:
        for entry in found:
            if entry.is_file():
                os.unlink(entry.path)
