"""What the package exports, how its errors read, and what importing it costs."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys

import pytest

from proxyflow.storage import kvs
from proxyflow.storage.kvs import errors

FUNCTIONS = """
    KVSDir commit dropcache exists get get_dir get_key_direct isdir join namespace_create
    namespace_list namespace_remove put put_mkdir put_symlink put_unlink walk
"""
METHODS = """
    commit directories exists files fill key_at list_all mkdir
    clear get items keys pop popitem setdefault update values
"""


def test_all_of_flux_kvs_is_there() -> None:
    assert set(FUNCTIONS.split()) <= set(kvs.__all__)
    assert sorted(kvs.__all__) == sorted(set(kvs.__all__))
    assert all(hasattr(kvs, name) for name in kvs.__all__)
    for name in METHODS.split():
        assert callable(getattr(kvs.KVSDir, name))


def test_every_error_is_exported_and_drawn_in_the_tree() -> None:
    drawn = errors.__doc__ or ""
    for name in errors.__all__:
        assert name in drawn
        assert getattr(kvs, name) is getattr(errors, name)


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "KVSError"])
def test_errors_carry_their_errno_and_context_across_processes(name: str) -> None:
    kind = getattr(kvs, name)
    error = kind("went wrong", store="lmdb:///x", key="a.b", remedy="do this")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    for one in (error, copy):
        assert isinstance(one, kvs.KVSError)
        assert isinstance(one, OSError)
        assert one.errno == kind.code
        assert str(one) == (
            f"[Errno {kind.code}] {os.strerror(kind.code)}: went wrong; "
            "store lmdb:///x; key 'a.b'; do this"
        )
        assert (one.store, one.key, one.remedy) == ("lmdb:///x", "a.b", "do this")


def test_an_error_fits_on_a_screen() -> None:
    assert len(str(kvs.KeyNotFoundError("no", key="k" * 1_000_000))) < 400
    assert str(kvs.DamagedError()) == f"[Errno {errno.EIO}] {os.strerror(errno.EIO)}"


def test_missing_is_one_of_a_kind() -> None:
    assert pickle.loads(pickle.dumps(kvs.MISSING)) is kvs.MISSING
    assert not kvs.MISSING
    assert repr(kvs.MISSING) == "MISSING"


def test_importing_is_light() -> None:
    code = """
import sys
from proxyflow.storage import kvs
kvs.open("memory://").close()
heavy = {"lmdb", "redis", "flux", "numpy", "ssl", "ctypes", "asyncio", "hypothesis"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout == "[]\n", done.stderr
