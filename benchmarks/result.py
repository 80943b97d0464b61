"""What a benchmark hands over: tables, goals and plots as data, to be printed or collected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.goals import Goal
from benchmarks.goals import report as goals_as_text
from benchmarks.measure import table

__all__ = ["Panel", "Plot", "Result", "Rows", "Table"]

Rows = dict[str, Mapping[str, float]]
"""What was measured, by row and contestant."""


@dataclass(frozen=True)
class Table:
    """Medians by row and contestant.

    Parameters
    ----------
    title
        What was measured.
    rows
        The medians; a contestant that took no part in a row is not in it.
    ours
        The contestant the others are given as multiples of, if any.
    unit, factor
        The unit to show, and what the figures are multiplied with to be in it.
    note
        What a reader has to know besides.
    """

    title: str
    rows: Mapping[str, Mapping[str, float]]
    ours: str | None = None
    unit: str = "ms"
    factor: float = 1e3
    note: str = ""

    @property
    def contestants(self) -> list[str]:
        """Everybody who is in some row."""
        return list(dict.fromkeys(name for row in self.rows.values() for name in row))

    def text(self) -> str:
        """Return the table as lines of text."""
        times = f", and how many times {self.ours}" if self.ours else ""
        shown = table(f"{self.title} ({self.unit}{times})", self.rows, self.ours, self.factor)
        return f"{shown}\n{self.note}" if self.note else shown


@dataclass(frozen=True)
class Panel:
    """One pair of axes: figures by contestant, over a size in bytes or over a name.

    `limits` are the contestants that are no competitors but bounds of the machine.
    """

    title: str
    unit: str
    curves: Mapping[str, Mapping[Any, float]]
    limits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plot:
    """A figure of one or more panels: curves over sizes, or bars over names."""

    name: str
    caption: str
    panels: tuple[Panel, ...]
    bars: bool = False


@dataclass
class Result:
    """Everything a benchmark has to say."""

    tables: list[Table] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return it as text for a terminal."""
        parts = [shown.text() for shown in self.tables]
        if self.goals:
            parts.append(goals_as_text(self.goals).lstrip("\n"))
        parts += [f"(left out: {reason})" for reason in self.left_out]
        return "\n\n".join(parts)
