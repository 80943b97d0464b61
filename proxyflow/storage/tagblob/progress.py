"""A progress bar for large transfers, where there is a terminal to show it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

from .area import Buffer
from .sources import Source

__all__ = ["Progress", "Tracked"]

#: Smaller transfers are over before a bar is of any use.
LARGE = 64 * 2**20


class Progress:
    """Counts bytes, and shows a bar on standard error once there are many.

    It stays silent when standard error is no terminal, the transfer is small, or tqdm is not
    installed.

    Parameters
    ----------
    what
        The words before the bar.
    total
        The bytes of the whole transfer, if somebody knows.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self._what = what
        self._total = total
        self._counted = 0
        self._bar: Any = None
        self._silent = not sys.stderr.isatty() or (total is not None and total < LARGE)
        self._lock = threading.Lock()

    def update(self, count: int) -> None:
        """Count more bytes; any thread may."""
        if self._silent:
            return
        with self._lock:
            self._counted += count
            if self._bar is None and (self._total is not None or self._counted >= LARGE):
                self._open()
            elif self._bar is not None:
                self._bar.update(count)

    def _open(self) -> None:
        try:
            from tqdm import tqdm  # type: ignore[import-untyped]
        except ImportError:
            self._silent = True
            return
        self._bar = tqdm(
            total=self._total,
            initial=self._counted,
            desc=self._what,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
        )

    def close(self) -> None:
        """Leave the bar as it is; further bytes are not counted."""
        with self._lock:
            self._silent = True
            if self._bar is not None:
                self._bar.close()


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

    @property
    def lasting(self) -> bool:
        """Whether a chunk stays valid when the next one is asked for."""
        return self._source.lasting

    def known_size(self) -> int | None:
        """Return the number of bytes if that costs nothing."""
        return self._source.known_size()

    def chunks(self) -> Iterator[Buffer]:
        """Yield the bytes."""
        for chunk in self._source.chunks():
            yield chunk
            self._progress.update(len(chunk))
