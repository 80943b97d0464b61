"""Measurements behind the claims in the documentation; each module runs with ``python -m``."""
