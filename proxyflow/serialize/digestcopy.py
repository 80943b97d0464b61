"""Digesting large memory, and copying it in one go: the part in C, if there is one."""

from __future__ import annotations

import os
from typing import Protocol

from proxyflow.storage.copying import usable_cpus

__all__ = ["LEAST", "DigestLeaves", "digest_leaves", "threads_for"]

LEAST = 241
"""Shorter memory has digests of another kind, which the part in C does not make."""

# Starting a thread takes as long as digesting one or two megabytes.
_SHARE = 2 << 20
_MOST_THREADS = 4


class DigestLeaves(Protocol):
    """Cuts flat memory into leaves, digests them in threads, and copies them if told where to.

    100 MiB in less time than one thread takes to copy them; in a cache, in the same time.
    """

    def __call__(
        self,
        source: bytes | bytearray | memoryview,
        target: memoryview | None,
        leaf: int,
        threads: int,
        narrow: bool = False,
        /,
    ) -> bytes:
        """Return the digests of the leaves, one after the other."""
        ...


digest_leaves: DigestLeaves | None = None
"""None without a compiler, or off x86-64."""

if not os.environ.get("PROXYFLOW_PURE_PYTHON"):
    try:
        from proxyflow.serialize._digestcopy import digest_leaves
    except ImportError:
        digest_leaves = None


def threads_for(nbytes: int) -> int:
    """Return how many threads to digest so many bytes with.

    Examples
    --------
    >>> threads_for(1 << 20)
    1
    """
    return 1 if nbytes < 2 * _SHARE else min(_MOST_THREADS, usable_cpus(), nbytes // _SHARE)
