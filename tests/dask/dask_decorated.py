"""Decorated task functions that workers import."""

from __future__ import annotations

from typing import Any

import numpy as np

from proxyflow import proxied


@proxied(policy="100 kB")
def total(array: Any, factor: float = 1.0) -> float:
    return float(np.sum(array)) * factor


@proxied(policy="100 kB")
def grow(array: Any) -> Any:
    return array + 1
