"""Benchmarks: us and our peers, interleaved in one run. Each module is run with ``python -m``."""
