"""Digesting and copying in C."""

def digest_leaves(
    source: bytes | bytearray | memoryview,
    target: memoryview | None,
    leaf: int,
    threads: int,
    narrow: bool = False,
    /,
) -> bytes: ...
