"""A session in an LMDB database: what is begun and cannot be completed leaves nothing behind."""

from __future__ import annotations

import multiprocessing
import os
import resource
from pathlib import Path

from proxyflow.connectors.lmdb import LMDBConnector
from proxyflow.errors import StoreError

FORK = multiprocessing.get_context("fork")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_too_few_descriptors_to_begin_a_session(tmp_path: Path) -> None:
    """Whichever of them is missing, none is kept, and the next to come sweeps what was made."""

    def child() -> None:
        LMDBConnector(str(tmp_path)).close()
        before = descriptors()
        most = before + 100
        failures = 0
        for more in range(1, 16):
            resource.setrlimit(resource.RLIMIT_NOFILE, (before + more, most))
            try:
                connector = LMDBConnector(str(tmp_path))
            except StoreError:
                failures += 1
            else:
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
                connector.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        assert 0 < failures < 15
        assert descriptors() == before
        with LMDBConnector(str(tmp_path)) as connector:
            sessions = [name for name in os.listdir(tmp_path / "sessions") if name[0] != "."]
            assert sessions == [connector.session]

    process = FORK.Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == 0
