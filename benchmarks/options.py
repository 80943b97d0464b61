"""How thorough a benchmark is to be, and where; the same for all of them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

__all__ = ["SHARED_MEMORY", "Options", "parser", "read"]

SHARED_MEMORY = "/dev/shm"

# How many rounds of a thorough run a quick one takes, and how few are still a median.
_QUICK, _FEWEST = 0.15, 3


@dataclass(frozen=True)
class Options:
    """How thorough, and where.

    Parameters
    ----------
    quick
        Few rounds and smaller objects: to see that all works and how things are roughly.
    effort
        How many times the usual number of rounds.
    directory
        Where objects are kept; by default where the benchmark sees fit.
    """

    quick: bool = False
    effort: float = 1.0
    directory: str | None = None

    def rounds(self, usual: int) -> int:
        """Return how many rounds to take where a thorough run takes so many.

        Examples
        --------
        >>> Options().rounds(20), Options(effort=2).rounds(20), Options(quick=True).rounds(100)
        (20, 40, 15)
        """
        return max(min(_FEWEST, usual), round(usual * self.share))

    @property
    def share(self) -> float:
        """How much of what a thorough run does is to be done."""
        return self.effort * (_QUICK if self.quick else 1)


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options, described by the first line of a module's docstring."""
    made = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    made.add_argument("--quick", action="store_true", help="few rounds and smaller objects")
    made.add_argument("--effort", type=float, default=1.0, help="times the usual rounds (1)")
    made.add_argument("--directory", help="where objects are kept")
    return made


def read(arguments: argparse.Namespace) -> Options:
    """Return the options among parsed arguments."""
    return Options(arguments.quick, arguments.effort, arguments.directory)
