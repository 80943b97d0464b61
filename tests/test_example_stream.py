"""The streaming example runs as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLE = Path(__file__).parent.parent / "examples" / "stream.py"


def test_every_frame_is_measured_though_a_worker_is_killed(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "small.png")
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tmp_path / "small.png"), "--frames", "60"],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "60 frames" in done.stdout
    assert "120 of 120 answers, 0 objects left" in done.stdout


@pytest.mark.parametrize(
    "arguments", [["--frames", "0"], ["--workers", "1"], [str(EXAMPLE)], ["missing.png"]]
)
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
