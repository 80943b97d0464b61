"""Sizes in bytes: reading them as people write them, writing them as people read them."""

from __future__ import annotations

import re

__all__ = ["format_size", "parse_size"]

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_size(text: str | int) -> int:
    """Return a number of bytes written as people write it.

    Parameters
    ----------
    text
        ``"1 MiB"`` (powers of 1024), ``"10 kB"`` (powers of 1000), ``"512"``, or a number of bytes.

    Raises
    ------
    ValueError
        If `text` is not a size, or negative.

    Examples
    --------
    >>> parse_size("1 MiB"), parse_size("1.5 kB"), parse_size(64)
    (1048576, 1500, 64)
    """
    if isinstance(text, int) and not isinstance(text, bool):
        if text < 0:
            raise ValueError(f"a size cannot be negative: {text}")
        return text
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f"not a size: {text!r}; write it like 65536, '64 KiB' or '1 MiB'")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def format_size(nbytes: float) -> str:
    """Return a number of bytes as people read it.

    Examples
    --------
    >>> format_size(1023), format_size(2**20), format_size(7.63 * 2**20)
    ('1023 B', '1 MiB', '7.6 MiB')
    """
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while abs(nbytes) >= 1024 and len(units) > 1:
        nbytes /= 1024
        del units[0]
    return f"{nbytes:.1f}".removesuffix(".0") + f" {units[0]}"
