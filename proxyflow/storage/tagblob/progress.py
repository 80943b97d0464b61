"""A progress bar for large transfers, where there is a terminal to show it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Protocol

from .area import Buffer
from .sources import Source

__all__ = ["Progress", "Tracked", "open_progress"]

#: Smaller transfers are over before a bar is of any use.
LARGE = 64 * 2**20


class Progress(Protocol):
    """Counts bytes."""

    def update(self, n: int) -> object:
        """Count more bytes."""
        ...

    def close(self) -> object:
        """Give up what is held open."""
        ...


class _Silent:
    def update(self, n: int) -> None:
        return None

    def close(self) -> None:
        return None


def open_progress(what: str, total: int | None) -> Progress:
    """Return a bar on standard error, or something silent.

    Silent when standard error is no terminal, the transfer is known to be small, or tqdm is not
    installed.
    """
    if not sys.stderr.isatty() or (total is not None and total < LARGE):
        return _Silent()
    try:
        from tqdm import tqdm  # type: ignore[import-untyped]
    except ImportError:
        return _Silent()
    bar: Progress = tqdm(total=total, desc=what, unit="B", unit_scale=True, unit_divisor=1024)
    return bar


class Tracked:
    """A source that reports what is read from it."""

    def __init__(self, source: Source, progress: Progress) -> None:
        self._source = source
        self._progress = progress
        self.name = source.name

    @property
    def rewindable(self) -> bool:
        """Whether `chunks` may be called again."""
        return self._source.rewindable

    def known_size(self) -> int | None:
        """Return the number of bytes if that costs nothing."""
        return self._source.known_size()

    def chunks(self) -> Iterator[Buffer]:
        """Yield the bytes."""
        for chunk in self._source.chunks():
            yield chunk
            self._progress.update(len(chunk))
