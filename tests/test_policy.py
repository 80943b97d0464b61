"""Which values are worth a proxy."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyflow import Policy, Proxy
from proxyflow.errors import ConfigError


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_threshold_is_the_smallest_size_that_is_replaced(threshold: int, size: int) -> None:
    assert Policy(threshold).wants(bytes(size)) == (size >= threshold)


def test_size_alone_will_do_as_a_policy() -> None:
    assert Policy.of("1 KiB") == Policy(1024) == Policy.of(1024)
    assert Policy.of(None) == Policy()
    policy = Policy("1 kB", types=bytes)
    assert Policy.of(policy) is policy


def test_default_is_a_mebibyte() -> None:
    assert Policy().nbytes == 1 << 20
    assert str(Policy()) == "values of at least 1 MiB"


@pytest.mark.parametrize("threshold", ["many", -1, 1.5, None, True])
def test_what_is_no_size_is_refused(threshold: Any) -> None:
    with pytest.raises(ConfigError, match="size"):
        Policy(threshold)


@pytest.mark.parametrize("types", ["int", "", ("int",), 5, [int]])
def test_what_is_no_class_is_refused(types: Any) -> None:
    """At once, and not when the first value is looked at."""
    with pytest.raises(ConfigError, match="types of a policy are classes"):
        Policy(types=types)


@pytest.mark.parametrize("depth", [-1, 1.5, "8", None, True])
def test_what_is_no_depth_is_refused(depth: Any) -> None:
    with pytest.raises(ConfigError, match="depth of a policy"):
        Policy(depth=depth)


@pytest.mark.parametrize("value", [None, True, False, int, np.ndarray])
def test_never_worth_a_proxy(value: Any) -> None:
    """Code compares these by identity, whatever the threshold."""
    assert not Policy(0).wants(value)


def test_proxy_is_not_replaced_again() -> None:
    proxy: Any = Proxy(lambda: pytest.fail("resolved"))
    assert not Policy(0).wants(proxy)


def test_types_restrict() -> None:
    policy = Policy(100, types=(np.ndarray, str))
    assert policy.wants(np.zeros(100))
    assert policy.wants("x" * 100)
    assert not policy.wants(bytes(100))


def test_policy_is_a_value() -> None:
    """It can be compared, hashed and sent to another process, and not be changed."""
    policy = Policy("1 MiB", types=bytes, nested=False, depth=2)
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert len({policy, Policy(1 << 20, types=bytes, nested=False, depth=2)}) == 1
    with pytest.raises(AttributeError):
        policy.depth = 3  # type: ignore[misc]


def test_default_threshold_comes_from_the_environment(tmp_path: Path) -> None:
    """PROXYFLOW_THRESHOLD, else the file that PROXYFLOW_CONFIG names."""
    config = tmp_path / "proxyflow.toml"
    config.write_text('[proxyflow]\nthreshold = "2 kB"\n')
    code = "from proxyflow import Policy; print(Policy().nbytes)"

    def threshold(**environment: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **environment},
            check=True,
            capture_output=True,
        )
        return int(done.stdout)

    assert threshold(PROXYFLOW_THRESHOLD="3 kB") == 3000
    assert threshold(PROXYFLOW_CONFIG=str(config)) == 2000
