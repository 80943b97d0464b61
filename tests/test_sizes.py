"""Sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyflow.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        (0, 0),
        (65536, 65536),
        ("512", 512),
        ("512 B", 512),
        ("1kb", 1000),
        ("1 KiB", 1024),
        ("1.5 MiB", 3 << 19),
        (".5 MB", 500_000),
        (" 2 GiB ", 2 << 30),
        ("1 TB", 10**12),
        ("3 tib", 3 << 40),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str | int, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "MiB", "1 MiB 2", "-1", "1 XB", "1e6", "1,000", "0x10"])
def test_what_is_no_size_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        parse_size(text)


@pytest.mark.parametrize("value", [True, 1.5, None, b"1", [1]])
def test_only_text_and_numbers_of_bytes(value: object) -> None:
    """A float or a bool where a size is wanted is a mistake, not a size."""
    with pytest.raises(ValueError, match="not a size"):
        parse_size(value)  # type: ignore[arg-type]


def test_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        parse_size(-1)


@given(st.integers(0, 1 << 50))
def test_formatted_size_can_be_read_back(nbytes: int) -> None:
    """What a message says of a size can be pasted into a configuration, give or take a rounding."""
    assert abs(parse_size(format_size(nbytes)) - nbytes) <= max(nbytes * 0.06, 1)


def test_sizes_for_people() -> None:
    assert [format_size(n) for n in (0, 1023, 1024, 1536, 5 << 20, 7 << 50)] == [
        "0 B",
        "1023 B",
        "1 KiB",
        "1.5 KiB",
        "5 MiB",
        "7168 TiB",
    ]
