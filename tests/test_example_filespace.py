"""The filespace example runs as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "filespace_dask.py"


def test_linked_objects_are_read_where_they_are_needed() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--objects", "4"],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "answers agree; objects left in the store: 0" in done.stdout


@pytest.mark.parametrize("arguments", [["--objects", "0"], ["--workers", "0"]])
def test_what_cannot_be_used_is_named(arguments: list[str]) -> None:
    """In a line, before anything is started that would wait for workers that are not there."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
