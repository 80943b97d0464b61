"""Tokens: who may read and who may change a tag.

A tag keeps salted hashes, so that neither its stored object nor anything made from it gives a
token away; comparison takes the same time wherever two tokens differ. The hash is a fast one:
tokens are meant to be random strings, not pass phrases somebody could guess.
"""

from __future__ import annotations

import hashlib
import hmac
import os

from .errors import InvalidToken

__all__ = ["MAX_TOKEN_BYTES", "check_token", "hash_token", "verify_token"]

MAX_TOKEN_BYTES = 4096
_SALT_BYTES = 16


def check_token(token: object) -> bytes | None:
    """Return a token as bytes; ``None`` stays ``None``.

    Raises
    ------
    InvalidToken
        Not a string, not encodable as UTF-8, or above 4096 bytes. The message does not show it.
    """
    if token is None:
        return None
    if not isinstance(token, str):
        raise InvalidToken(f"a token is a string, not {type(token).__name__}")
    try:
        encoded = token.encode()
    except UnicodeEncodeError:
        # "from None": the original message would quote the token.
        raise InvalidToken("a token must be encodable as UTF-8") from None
    if len(encoded) > MAX_TOKEN_BYTES:
        raise InvalidToken(f"a token has at most {MAX_TOKEN_BYTES} bytes")
    return encoded


def hash_token(token: str | None) -> str | None:
    """Return the form a token is stored in; ``None``, an open tag, stays ``None``.

    Examples
    --------
    >>> stored = hash_token("secret")
    >>> "secret" in stored, verify_token("secret", stored), verify_token("guess", stored)
    (False, True, False)
    """
    encoded = check_token(token)
    if encoded is None:
        return None
    salt = os.urandom(_SALT_BYTES)
    return f"sha256:{salt.hex()}:{hashlib.sha256(salt + encoded).hexdigest()}"


def verify_token(token: str | None, stored: str) -> bool:
    """Tell whether `token` is the one `stored` was made of."""
    encoded = check_token(token)
    if encoded is None:
        return False
    _algorithm, salt, digest = stored.split(":")
    computed = hashlib.sha256(bytes.fromhex(salt) + encoded).hexdigest()
    return hmac.compare_digest(computed, digest)
