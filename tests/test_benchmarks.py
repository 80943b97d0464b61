"""The benchmarks: that a report can be written, not what it says."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from benchmarks import markdown
from benchmarks.goals import Goal
from benchmarks.measure import Median, figure, interleave
from benchmarks.plots import draw
from benchmarks.result import Panel, Plot, Result, Table
from benchmarks.sections import SECTIONS, Failure

ROOT = Path(__file__).parents[1]
SVG = "{http://www.w3.org/2000/svg}svg"
MOST_BYTES = 150_000


def run_report(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.report", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def assert_svg(path: Path) -> None:
    """Check that a file is a picture that may be checked in."""
    assert ElementTree.parse(path).getroot().tag == SVG
    assert path.stat().st_size < MOST_BYTES


def test_smallest_section_end_to_end(tmp_path: Path) -> None:
    """The report has tables with numbers and plots, and does not name the machine."""
    done = run_report("--quick", "--only", "limits", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "report.md").read_text()
    rows = re.findall(r"^\| 1 MiB \| .*\d.* \|$", report, re.MULTILINE)
    assert rows
    assert SECTIONS["limits"] in report
    assert str(ROOT) not in report
    assert os.uname().nodename not in report.split()
    for name in re.findall(r"\((plots/\w+\.svg)\)", report):
        assert_svg(tmp_path / name)
    assert (tmp_path / "plots" / "limits.svg").exists()


def test_failed_section_is_reported(tmp_path: Path) -> None:
    """What fails is in the report with its error, the exit status says so, and no path shows."""
    missing = tmp_path / "missing"
    done = run_report(
        "--quick", "--only", "limits", "--output", str(tmp_path), "--directory", str(missing)
    )
    assert done.returncode != 0
    report = (tmp_path / "report.md").read_text()
    assert "**Failed.**" in report
    assert "FileNotFoundError" in report
    assert str(tmp_path) not in report


@pytest.mark.parametrize("bars", [False, True])
def test_plots_are_small_and_always_the_same(tmp_path: Path, bars: bool) -> None:
    """A report that is made anew from the same figures changes no file."""
    curves = {"a": {"x": 1.0, "y": 2.0}} if bars else {"a": {1.0: Median([1.0, 2.0]), 2.0: 3.0}}
    plot = Plot("plot", "A plot", (Panel("panel", "ms", curves),), bars=bars)
    first = draw(plot, tmp_path).read_bytes()
    assert draw(plot, tmp_path).read_bytes() == first
    assert_svg(tmp_path / "plot.svg")


def test_median_knows_its_spread() -> None:
    """Also after it has gone from the section's process to the report's."""
    median = pickle.loads(pickle.dumps(Median([5.0, 1.0, 2.0, 4.0, 3.0])))
    assert (median, median.lowest, median.quartiles) == (3.0, 1.0, (2.0, 4.0))
    assert median.map(lambda value: 60 / value).samples == (12, 15, 20, 30, 60)


def test_contestants_take_turns() -> None:
    """Each is called once in a round, whatever the order within it."""
    calls: list[str] = []
    medians = interleave(
        {name: lambda name=name: calls.append(name) for name in "ab"},  # type: ignore[misc]
        rounds=5,
        warmup=1,
    )
    assert all(sorted(calls[i : i + 2]) == ["a", "b"] for i in range(0, 12, 2))
    assert [len(median.samples) for median in medians.values()] == [5, 5]


def test_cells_show_median_spread_and_ratio() -> None:
    """Who is in a row is shown beside ours, who is not by a dash; goals by their verdict."""
    rows = {"row": {"ours": Median([0.001, 0.002, 0.003]), "other": 0.004}, "more": {"ours": 0.001}}
    result = Result(
        tables=[Table("Title", rows, "ours")],
        goals=[Goal("fast", 2.0, 1.0, False)],
        left_out=["nobody is not installed"],
    )
    text = markdown.section("Heading", result, "plots")
    assert "| row | 2 [1.5, 2.5] (1x) | 4 (2x) |" in text
    assert "| more | 1 (1x) | - |" in text
    assert "| fast | 2 times | at most 1 | **missed** |" in text
    assert "- nobody is not installed" in text
    assert "2 ( 1.00x)" in result.text()


def test_paths_in_errors_are_hidden() -> None:
    """A report is read by others."""
    text = markdown.failure("Heading", Failure('File "/home/somebody/x.py", at 1/2 of 3 GB/s'))
    assert 'File "PATH", at 1/2 of 3 GB/s' in text


@pytest.mark.parametrize(
    ("value", "shown"), [(0.01234, "0.0123"), (99.94, "99.9"), (123456.7, "123,457"), (0.0, "0")]
)
def test_figures_have_three_digits(value: float, shown: str) -> None:
    """No table shows digits that are noise."""
    assert figure(value) == shown
