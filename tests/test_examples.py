"""The examples run as a user runs them, and say what is wrong when something is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

QUICKSTART = Path(__file__).parent.parent / "examples" / "quickstart.py"
DASK = QUICKSTART.with_name("dask_quickstart.py")


def quickstart(
    tmp_path: Path, *arguments: object, program: Path = QUICKSTART
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(program), *map(str, arguments)],
        env={**os.environ, "PROXYFLOW_STORE": f"file://{tmp_path}/store"},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )


def photograph(path: Path, width: int, height: int) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_sweep_over_an_image(tmp_path: Path) -> None:
    """The three ways agree, the proxied ones send next to nothing and leave nothing behind."""
    image = photograph(tmp_path / "small.png", 120, 80)
    done = quickstart(tmp_path, image, "--tasks", 4, "--workers", 2)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    patches = 113 * 73
    assert f"120 x 80: {patches:,} patches" in lines[0]
    plain, wrapped, decorated = (line.split() for line in lines[2:5])
    assert plain[:2] == ["plain", "pool"]
    assert float(plain[-2]) == pytest.approx(4 * patches * 192 * 4 / 1e6, abs=0.1)
    assert (wrapped[0], wrapped[-2:]) == ("ProxyExecutor", ["0.0", "0"])
    assert (decorated[0], decorated[-2:]) == ("@proxied", ["0.0", "0"])
    assert "all answers agree" in lines[-1]
    assert "4/4" in done.stderr
    assert not (tmp_path / "store").exists()


def test_large_image_is_scaled_down(tmp_path: Path) -> None:
    """The patches of a photograph as cameras make them would not fit into memory."""
    image = photograph(tmp_path / "large.bmp", 6000, 60)
    done = quickstart(tmp_path, image, "--tasks", 1, "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert "5200 x 52:" in done.stdout.splitlines()[0]


def test_sweep_over_an_image_in_dask(tmp_path: Path) -> None:
    """The three ways agree, the scheduler holds nothing of the proxied one, and nothing is left."""
    image = photograph(tmp_path / "small.png", 120, 80)
    done = quickstart(tmp_path, image, "--tasks", 4, "--workers", 2, program=DASK)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"{113 * 73:,} patches, 6 MB"
    ways = [line.split() for line in lines[-3:]]
    assert [way[0] for way in ways] == ["plain", "scatter", "ProxyPlugin"]
    assert [way[-2] for way in ways] == ["yes"] * 3
    assert [way[-1] for way in ways] == ["-", "-", "0"]
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("program", [QUICKSTART, DASK], ids=lambda program: program.stem)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.png"], "missing.png"),
        ([QUICKSTART], "cannot identify image file"),
        (["tiny.png"], "smaller than a patch"),
        (["--tasks", "0"], "at least one task"),
        (["--workers", "-1"], "at least one task and one worker"),
    ],
)
def test_what_cannot_be_used_is_named(
    tmp_path: Path, program: Path, arguments: list[str], message: str
) -> None:
    photograph(tmp_path / "tiny.png", 5, 50)
    arguments = [str(tmp_path / a) if a.endswith(".png") else a for a in map(str, arguments)]
    done = quickstart(tmp_path, *arguments, program=program)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
