"""Results as Markdown."""

from __future__ import annotations

import re

from benchmarks.goals import Goal
from benchmarks.measure import Median, figure
from benchmarks.result import Plot, Result, Table
from benchmarks.sections import Failure

__all__ = ["bullets", "failure", "section"]

# A report is read by others: where something lay on this machine is nobody's business.
_PATH = re.compile(r"(?<![\w.])(?:/[\w.+@~-]+){2,}/?")
# Figures that are the same to three digits have no spread to speak of.
_NO_SPREAD = 0.005


def section(heading: str, result: Result, plots: str) -> str:
    """Return a section of the report; `plots` is the folder of the plots, relative to it."""
    parts = [f"## {heading}"]
    parts += [_image(plot, plots) for plot in result.plots]
    parts += [_table(table) for table in result.tables]
    if result.goals:
        parts.append(_goals(result.goals))
    if result.left_out:
        parts.append("Left out:\n\n" + "\n".join(f"- {reason}" for reason in result.left_out))
    return "\n\n".join(parts)


def failure(heading: str, failed: Failure) -> str:
    """Return a section that failed."""
    return f"## {heading}\n\n**Failed.**\n\n```text\n{_PATH.sub('PATH', failed.error)}\n```"


def bullets(facts: dict[str, str]) -> str:
    """Return facts as a list."""
    return "\n".join(f"- {name}: {fact}" for name, fact in facts.items())


def _image(plot: Plot, plots: str) -> str:
    return f"![{plot.caption}]({plots}/{plot.name}.svg)\n\n*{plot.caption}.*"


def _table(table: Table) -> str:
    names = table.contestants
    times = f" (times {table.ours})" if table.ours else ""
    lines = [
        f"### {table.title}",
        "",
        f"{table.unit}, median [quartiles]{times}",
        "",
        _line(["", *names]),
        _line(["---", *("---:" for _ in names)]),
    ]
    for row, medians in table.rows.items():
        base = medians.get(table.ours) if table.ours else None
        lines.append(_line([row, *(_cell(table, medians.get(name), base) for name in names)]))
    if table.note:
        lines += ["", table.note]
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _cell(table: Table, value: float | None, base: float | None) -> str:
    if value is None:
        return "-"
    shown = figure(value * table.factor)
    if isinstance(value, Median) and len(value.samples) > 1:
        low, high = value.quartiles
        if high - low > _NO_SPREAD * abs(value):
            shown += f" [{figure(low * table.factor)}, {figure(high * table.factor)}]"
    if base:
        shown += f" ({figure(value / base)}x)"
    return shown


def _goals(goals: list[Goal]) -> str:
    lines = [_line(["goal", "measured", "bound", ""]), _line(["---", "---:", "---:", "---"])]
    for goal in goals:
        word = "at least" if goal.at_least else "at most"
        lines.append(
            _line(
                [
                    goal.name,
                    f"{figure(goal.measured)} {goal.unit}",
                    f"{word} {figure(goal.bound)}",
                    "kept" if goal.reached else "**missed**",
                ]
            )
        )
    return "\n".join(lines)
