"""The filespace example runs as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
