"""Which values are worth a proxy: by size, type and nesting."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from proxyflow.config import default_threshold
from proxyflow.errors import ConfigError
from proxyflow.estimate import estimate_size
from proxyflow.proxy import Proxy
from proxyflow.sizes import format_size, parse_size

__all__ = ["Policy"]

# Never worth a proxy, whatever the threshold: code compares them by identity, or they travel by
# name.
_NEVER = (type(None), bool, type, Proxy)


@dataclass(frozen=True)
class Policy:
    """Which values are replaced by proxies.

    Wherever a policy is expected, a size alone will do: ``policy="1 MiB"``.

    Parameters
    ----------
    threshold
        A value of at least this size, in bytes or like ``"1 MiB"``, is replaced. Default: 1 MiB,
        or ``PROXYFLOW_THRESHOLD``. Below it, storing costs more than it saves.
    types
        Replace only instances of these classes. Default: of any.
    nested
        Whether to look for large values inside lists, tuples, named tuples, dicts and
        dataclasses.
    depth
        How many containers deep to look.

    Raises
    ------
    ConfigError
        If `threshold` is not a size, `types` not made of classes, or `depth` not a number from 0.

    Examples
    --------
    >>> policy = Policy("1 kB")
    >>> policy.wants(bytes(1000)), policy.wants(bytes(999))
    (True, False)
    >>> Policy("1 kB", types=(str,)).wants(bytes(1000))
    False
    """

    threshold: int | str = field(default_factory=default_threshold)
    types: type | tuple[type, ...] | None = None
    nested: bool = True
    depth: int = 8

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "threshold", parse_size(self.threshold))
        except ValueError as error:
            raise ConfigError(str(error)) from None
        try:
            isinstance(None, () if self.types is None else self.types)
        except TypeError:
            raise ConfigError(
                f"the types of a policy are classes, not {self.types!r}",
                remedy="write types=bytes, or types=(numpy.ndarray, bytes)",
            ) from None
        if isinstance(self.depth, bool) or not isinstance(self.depth, int) or self.depth < 0:
            raise ConfigError(
                f"the depth of a policy is a number of containers from 0, not {self.depth!r}"
            )

    @classmethod
    def of(cls, value: Policy | int | str | None) -> Policy:
        """Return a policy for what a user gave as one: a policy, a threshold, or nothing."""
        if isinstance(value, Policy):
            return value
        return cls() if value is None else cls(value)

    @property
    def nbytes(self) -> int:
        """The threshold in bytes."""
        assert isinstance(self.threshold, int)
        return self.threshold

    def allows(self, obj: Any) -> bool:
        """Return whether the type of a value permits a proxy, whatever its size."""
        if isinstance(obj, _NEVER):
            return False
        return self.types is None or isinstance(obj, self.types)

    def wants(self, obj: Any) -> bool:
        """Return whether a value is worth a proxy."""
        # The size first: nearly everything is small, and types may take longer to look at.
        return estimate_size(obj) >= self.nbytes and self.allows(obj)

    def __str__(self) -> str:
        return f"values of at least {format_size(self.nbytes)}"
