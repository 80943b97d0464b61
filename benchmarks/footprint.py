"""How much memory processes take: alone, and as their share of what is mapped by several."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = ["Footprint", "Watch", "peak_resident", "reset_peak"]

_KIB = 1024
_PERIOD_SECONDS = 0.001


class Footprint(NamedTuple):
    """Bytes of memory of one process.

    `resident` is everything it has mapped that is in memory, `proportional` the same with shared
    pages divided among those who share them, `private` what nobody else has, `anonymous` what
    belongs to no file: heap, not shared memory.
    """

    resident: int
    proportional: int
    private: int
    anonymous: int

    @classmethod
    def of(cls, pid: int) -> Footprint:
        """Look at a process."""
        found = _fields(Path(f"/proc/{pid}/smaps_rollup"))
        private = found["Private_Clean"] + found["Private_Dirty"]
        return cls(found["Rss"], found["Pss"], private, found["Anonymous"])

    def since(self, before: Footprint) -> Footprint:
        """Return by how much each figure has grown."""
        return Footprint(*(now - then for now, then in zip(self, before, strict=True)))


def _fields(path: Path) -> dict[str, int]:
    """Return the lines ``Name:  123 kB`` of a file of the kernel, in bytes."""
    found = {}
    for line in path.read_text().splitlines():
        words = line.split()
        if len(words) == 3 and words[2] == "kB":
            found[words[0].rstrip(":")] = int(words[1]) * _KIB
    return found


def reset_peak(pid: int) -> None:
    """Forget the peak of a process's resident memory."""
    # 5: what the kernel calls resetting the high water mark, see proc(5).
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_resident(pid: int) -> int:
    """Return the most a process has had resident since its peak was forgotten."""
    return _fields(Path(f"/proc/{pid}/status"))["VmHWM"]


class Watch:
    """The peak of the anonymous memory of processes, which the kernel does not keep.

    Looks a thousand times a second, for the length of a ``with`` body.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self.anonymous = dict.fromkeys(pids, 0)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._done.wait(_PERIOD_SECONDS):
            self._note()

    def _note(self) -> None:
        for pid, most in self.anonymous.items():
            # Cheap, unlike smaps, which walks the page tables.
            now = _fields(Path(f"/proc/{pid}/status"))["RssAnon"]
            self.anonymous[pid] = max(most, now)

    def __enter__(self) -> Watch:
        self._note()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()
        self._note()
