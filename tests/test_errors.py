"""Every error says where, which and what to do, also after a journey between processes."""

from __future__ import annotations

import copy
import errno
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NoReturn

import pytest

from proxyflow import errors
from proxyflow.errors import ProxyflowError, StoreError, StoreFullError

TREE = {
    "AuthenticationError": ("CorruptObjectError", None),
    "ClaimLostError": ("StoreError", LookupError),
    "ConfigError": ("ProxyflowError", ValueError),
    "CorruptObjectError": ("StoreError", None),
    "InvalidKeyError": ("StoreError", ValueError),
    "MissingDependencyError": ("ProxyflowError", ImportError),
    "ObjectExistsError": ("StoreError", ValueError),
    "ObjectNotFoundError": ("StoreError", LookupError),
    "ProxyTargetError": ("ProxyflowError", TypeError),
    "ProxyflowError": (None, Exception),
    "SerializationError": ("ProxyflowError", TypeError),
    "StoreClosedError": ("StoreError", None),
    "StoreError": ("ProxyflowError", None),
    "StoreFullError": ("StoreError", OSError),
    "StoreUnreachableError": ("StoreError", ConnectionError),
    "UnsupportedError": ("StoreError", None),
    "WaitTimeoutError": ("StoreError", TimeoutError),
}


def test_the_tree_is_what_handlers_rely_on() -> None:
    assert set(errors.__all__) == set(TREE)
    for name, (parent, builtin) in TREE.items():
        bases = getattr(errors, name).__bases__
        assert [base.__name__ for base in bases if issubclass(base, ProxyflowError)] == (
            [parent] if parent else []
        )
        assert builtin is None or builtin in bases
        assert name in (errors.__doc__ or "")


def test_whatever_the_sentence_the_remedy_is_there() -> None:
    """What helps against nearly all errors of a class need not be said with each of them."""
    error = errors.InvalidKeyError("not a key of this store", store="file:///run")
    assert str(error).startswith("not a key of this store; store file:///run; pass a key of this")
    for kind in ("CorruptObjectError", "ObjectExistsError", "StoreClosedError"):
        assert getattr(errors, kind)("what went wrong").remedy
    assert errors.StoreClosedError("", remedy="do this").remedy == "do this"


def example(name: str) -> Any:
    kind = getattr(errors, name)
    context: dict[str, Any] = {"remedy": "do this"}
    if issubclass(kind, StoreError):
        context |= {"store": "file:///run", "key": ("k1",)}
    return kind("what went wrong", **context)


@pytest.mark.parametrize("name", sorted(TREE))
@pytest.mark.parametrize("travel", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_travels_with_everything_it_says(name: str, travel: Any) -> None:
    error = example(name)
    error.add_note("noted on the way")
    arrived = travel(error)
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert arrived.args == error.args == ("what went wrong",)
    assert vars(arrived) == vars(error)
    where = "store file:///run; key ('k1',); " if isinstance(error, StoreError) else ""
    assert str(error) == f"what went wrong; {where}do this"


def test_full_is_enospc_wherever_it_is_caught() -> None:
    for error in (StoreFullError("x"), pickle.loads(pickle.dumps(StoreFullError("x")))):
        assert error.errno == errno.ENOSPC


def _fail() -> NoReturn:
    raise example("StoreFullError")


def test_an_error_of_a_worker_is_caught_by_its_kind() -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        error = pool.submit(_fail).exception()
    assert isinstance(error, StoreFullError)
    assert (error.store, error.key, error.remedy) == ("file:///run", ("k1",), "do this")


def test_nothing_but_the_message_is_needed() -> None:
    assert str(StoreError()) == ""
    assert str(StoreError("just this")) == "just this"
    assert StoreError("x", store=5).store == "5"
