"""What the tests of the proxy share: factories, and targets to import."""

from __future__ import annotations

from typing import Any


class Give:
    """A picklable factory that counts its calls in this process."""

    def __init__(self, target: Any) -> None:
        self.target = target
        self.calls = 0

    def __call__(self) -> Any:
        self.calls += 1
        return self.target


class Refuse:
    """A picklable factory for proxies that must not be resolved."""

    def __call__(self) -> Any:
        raise AssertionError("resolved, though nothing needed the target")

    def __repr__(self) -> str:
        return "Refuse()"


class Flaky:
    """A factory that raises each of the errors in turn and then gives the target."""

    def __init__(self, target: Any, *errors: BaseException) -> None:
        self.target = target
        self.errors = list(errors)

    def __call__(self) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        return self.target


class Point:
    """A class with attributes, a method, ``__match_args__`` and annotations."""

    __match_args__ = ("x", "y")
    x: int

    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y

    def __repr__(self) -> str:
        return f"Point({self.x!r}, {self.y!r})"

    def swapped(self) -> Point:
        """Exchange the coordinates."""
        return Point(self.y, self.x)

    def __eq__(self, other: object) -> bool:
        # Compares exact types on purpose, as much code does.
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((self.x, self.y))


def scale(value: float, factor: float = 2) -> float:
    """Multiply ``value`` by ``factor``."""
    return value * factor
