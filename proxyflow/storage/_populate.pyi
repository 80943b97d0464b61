"""Populating mappings in C."""

import mmap

def populate_if_read(mapping: mmap.mmap, /) -> bool: ...
