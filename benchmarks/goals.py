"""Figures that are promised, printed beside what was measured."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Goal", "report"]


class Goal(NamedTuple):
    """A figure and the bound it should keep."""

    name: str
    measured: float
    bound: float
    at_least: bool
    unit: str = "times"

    @property
    def reached(self) -> bool:
        """Whether the bound is kept."""
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound


def report(goals: list[Goal]) -> str:
    """Return the goals as lines of text."""
    lines = [""]
    for goal in goals:
        word = "at least" if goal.at_least else "at most"
        verdict = "ok" if goal.reached else "MISSED"
        lines.append(
            f"{verdict:>7}  {goal.name}: {goal.measured:.3g} {goal.unit} ({word} {goal.bound:.3g})"
        )
    return "\n".join(lines)
