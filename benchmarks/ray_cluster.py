"""Ray on this host, for the benchmarks that compare with it."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import Any

from benchmarks.sizes import MIB

__all__ = ["start"]

# What Ray sets aside for objects.
_BYTES = 3072 * MIB


def start(stack: ExitStack, workers: int) -> Any:
    """Start Ray with so many workers until the stack is closed; return the module."""
    import ray

    ray.init(
        num_cpus=workers,
        object_store_memory=_BYTES,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    stack.callback(ray.shutdown)
    return ray
