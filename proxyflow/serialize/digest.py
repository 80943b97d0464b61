"""Two ways to vouch for a payload: a checksum against damage, a MAC against forgery.

Both answer the same three questions (`Digester`): the digest of one frame, of the header, and the
identity of the content. Frames longer than one chunk are digested as a tree of two levels, so that
several threads share the work; `proxyflow.serialize.chunks.CHUNK` is therefore part of the format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import xxhash

from proxyflow.errors import ConfigError
from proxyflow.serialize.chunks import CHUNK, Piece, map_chunks, split
from proxyflow.serialize.digestcopy import LEAST, digest_leaves, threads_for
from proxyflow.storage.copying import copy_pieces

__all__ = ["IDENTITY_SIZE", "Checksum", "Digester", "Mac"]

IDENTITY_SIZE = 16

# Below this size all of it is in a cache when it is read the second time.
_IN_C_FROM = 128 << 10
# How many chunks of XXH3 take no longer than starting a thread for them in Python.
_ALONE = 8


class Digester(Protocol):
    """What the frame format asks of a scheme of digests."""

    size: int
    """Length of a frame's and of the header's digest."""

    def frame(self, pieces: Sequence[Piece], nbytes: int, into: memoryview | None = None) -> bytes:
        """Return the digest of one frame, given as pieces of `nbytes` together.

        Where there is memory for it, of the same length, the frame is copied there as well.
        """
        ...

    def header(self, header: bytes) -> bytes:
        """Return the digest of the header, which holds those of the frames."""
        ...

    def identity(self, summary: bytes) -> bytes:
        """Return the content's identity from a summary that holds the frames' digests."""
        ...


class Checksum:
    """XXH3-128: notices damage at the speed of memory, resists no attacker.

    Examples
    --------
    >>> Checksum().frame([b"some ", b"bytes"], 10) == Checksum().frame([b"some bytes"], 10)
    True
    """

    size = 16

    def frame(self, pieces: Sequence[Piece], nbytes: int, into: memoryview | None = None) -> bytes:
        """Return the digest of one frame; a tree of two levels if it exceeds one chunk."""
        if _in_c(pieces, nbytes, into):
            leaves = _leaves(pieces[0], nbytes, into)
        else:
            if into is not None:
                copy_pieces(into, pieces)
            if nbytes <= CHUNK:
                return _xxh3(pieces)
            leaves = b"".join(map_chunks(_xxh3, split(pieces), alone=_ALONE))
        return leaves if nbytes <= CHUNK else xxhash.xxh3_128_digest(leaves)

    def header(self, header: bytes) -> bytes:
        """Return the digest of the header."""
        return xxhash.xxh3_128_digest(header)

    def identity(self, summary: bytes) -> bytes:
        """Return the identity of the content."""
        return xxhash.xxh3_128_digest(summary)


def _in_c(pieces: Sequence[Piece], nbytes: int, into: memoryview | None) -> bool:
    if digest_leaves is None or len(pieces) != 1:
        return False
    # A single chunk that is not copied is digested in half the time by xxhash, which takes the
    # widest vectors there are.
    return nbytes > CHUNK or (into is not None and nbytes >= _IN_C_FROM)


def _leaves(frame: Piece, nbytes: int, into: memoryview | None) -> bytes:
    """Return the digests of the chunks of a frame, copied on the way if there is memory for it."""
    assert digest_leaves is not None
    rest = nbytes % CHUNK
    if 0 < rest < LEAST:
        # A last chunk of a few bytes.
        whole = nbytes - rest
        last = memoryview(frame)[whole:]
        if into is not None:
            into[whole:] = last
            into = into[:whole]
        leaves = digest_leaves(memoryview(frame)[:whole], into, CHUNK, threads_for(whole))
        return leaves + xxhash.xxh3_128_digest(last)
    return digest_leaves(frame, into, CHUNK, threads_for(nbytes))


def _xxh3(pieces: Sequence[Piece]) -> bytes:
    if len(pieces) == 1:
        return xxhash.xxh3_128_digest(pieces[0])
    state = xxhash.xxh3_128()
    for piece in pieces:
        state.update(piece)
    return state.digest()


class Mac:
    """BLAKE2b keyed with a secret: only its holders can make or change a payload.

    Long frames use BLAKE2's own tree mode (unlimited fanout, depth 2; "Tree mode" in the
    documentation of :mod:`hashlib`), in which every leaf is bound to its position and its length.
    BLAKE2's personalisation keeps the three purposes apart: a digest made for one never passes
    for another.

    Parameters
    ----------
    secret
        At least one byte; one longer than BLAKE2b's 64-byte key is hashed first.

    Raises
    ------
    ConfigError
        The secret is empty, which would be no key at all.

    Examples
    --------
    >>> Mac(b"secret").header(b"...") == Mac(b"other").header(b"...")
    False
    """

    size = 32

    def __init__(self, secret: bytes) -> None:
        if not secret:
            raise ConfigError(
                "the secret is empty", remedy="give a random one, such as secrets.token_bytes(32)"
            )
        longest = hashlib.blake2b.MAX_KEY_SIZE
        self._key = hashlib.blake2b(secret).digest() if len(secret) > longest else bytes(secret)

    def frame(self, pieces: Sequence[Piece], nbytes: int, into: memoryview | None = None) -> bytes:
        """Return the MAC of one frame; a BLAKE2 tree if it exceeds one chunk."""
        if into is not None:
            copy_pieces(into, pieces)
        if nbytes <= CHUNK:
            state = hashlib.blake2b(key=self._key, digest_size=self.size, person=b"frame")
            for piece in pieces:
                state.update(piece)
            return state.digest()
        chunks = split(pieces)
        last = len(chunks) - 1
        leaves = map_chunks(
            lambda leaf: self._node(leaf[1], offset=leaf[0], depth=0, last=leaf[0] == last),
            list(enumerate(chunks)),
        )
        return self._node(leaves, offset=0, depth=1, last=True)

    def _node(self, pieces: Sequence[Piece], *, offset: int, depth: int, last: bool) -> bytes:
        state = hashlib.blake2b(
            key=self._key,
            digest_size=self.size,
            person=b"frame",
            fanout=0,
            depth=2,
            leaf_size=CHUNK,
            inner_size=self.size,
            node_offset=offset,
            node_depth=depth,
            last_node=last,
        )
        for piece in pieces:
            state.update(piece)
        return state.digest()

    def header(self, header: bytes) -> bytes:
        """Return the MAC of the header, and through the frames' MACs in it of everything."""
        return hashlib.blake2b(
            header, key=self._key, digest_size=self.size, person=b"header"
        ).digest()

    def identity(self, summary: bytes) -> bytes:
        """Return the identity of the content; without the secret no collision can be made."""
        return hashlib.blake2b(
            summary, key=self._key, digest_size=IDENTITY_SIZE, person=b"identity"
        ).digest()
