"""Whether a store compresses what it moves: where the link is slower than the codec."""

from __future__ import annotations

from proxyflow.rate import Rate
from proxyflow.serialize import codec

__all__ = ["Compression"]


class Compression:
    """Decides, for one store, whether the next object is to be compressed.

    Parameters
    ----------
    asked
        What the user said; None for what the store finds best.
    moves
        Whether the store moves bytes, rather than mapping them.

    Attributes
    ----------
    link : Rate
        How fast the store takes bytes.

    Notes
    -----
    A link of which nothing is known yet may be slow, and then an object that was not compressed
    costs more than one that was compressed in vain.

    Examples
    --------
    >>> compression = Compression(None, moves=True)
    >>> compression.wanted
    True
    >>> Compression(False, moves=True).wanted, Compression(None, moves=False).wanted
    (False, False)
    """

    __slots__ = ("asked", "link", "moves")

    def __init__(self, asked: bool | None, moves: bool) -> None:
        self.asked = asked
        self.moves = moves
        self.link = Rate()

    @property
    def wanted(self) -> bool:
        """Whether to compress, as far as a sample shows that it saves anything."""
        if self.asked is not None or not self.moves:
            return bool(self.asked)
        link, packing = self.link.value, codec.RATE.value
        return link is None or packing is None or link < packing
