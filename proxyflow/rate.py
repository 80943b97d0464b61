"""How fast bytes go somewhere, learnt from how fast they went."""

from __future__ import annotations

__all__ = ["Rate"]

# What takes less says more of the way there than of its width.
_LEAST = 256 << 10
# The weight of the latest figure.
_NEWS = 0.3


class Rate:
    """Bytes per second, as far as they have been measured; the latest count most.

    Attributes
    ----------
    value : float or None
        None until something large enough has been measured.

    Examples
    --------
    >>> rate = Rate()
    >>> rate.add(10, 1.0)
    >>> rate.value is None
    True
    >>> rate.add(1 << 20, 0.5)
    >>> rate.value
    2097152.0
    """

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float | None = None

    def add(self, nbytes: int, seconds: float) -> None:
        """Learn that so many bytes took so many seconds."""
        if nbytes < _LEAST or seconds <= 0:
            return
        news = nbytes / seconds
        self.value = news if self.value is None else self.value + _NEWS * (news - self.value)
