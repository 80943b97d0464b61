"""A class that the scheduler must not import."""

from __future__ import annotations


class Base:
    """Something to be an instance of."""


class Target(Base):
    """The class of a proxied object."""
