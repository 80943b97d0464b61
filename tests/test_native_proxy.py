"""The proxy in C: it is built and used, leaks nothing, and holds in places Python cannot reach."""

from __future__ import annotations

import copy
import gc
import io
import operator
import os
import pickle
import re
import subprocess
import sys
import sysconfig
import textwrap
import weakref
import zlib
from collections.abc import Callable
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest

from proxyflow.facts import describe
from proxyflow.proxy import IMPLEMENTATION, Proxy, is_resolved, resolve
from tests.proxy_cases import Give, Point

ROOT = Path(__file__).parents[1]

native = pytest.mark.skipif(IMPLEMENTATION != "C", reason="about the proxy in C")


def run(code: str, **environment: str) -> str:
    """Run code in an interpreter of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT}/integrations", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def proxy_of(target: Any) -> Any:
    p = Proxy(Give(target), describe(target))
    resolve(p)
    return p


def test_built_where_there_is_a_compiler() -> None:
    """Who installs with a compiler gets the proxy in C, and the variable forces the other one."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    ask = "from proxyflow.proxy import IMPLEMENTATION; print(IMPLEMENTATION)"
    if which(compiler):
        assert run(ask, PROXYFLOW_PURE_PYTHON="") == "C"
    assert run(ask, PROXYFLOW_PURE_PYTHON="1") == "Python"


def test_either_reads_the_others_pickles() -> None:
    """A worker without a compiler takes part."""
    write = """
        import pickle
        from proxyflow.facts import describe
        from proxyflow.proxy import Proxy
        print(pickle.dumps(Proxy(dict, describe({}))).hex())
    """
    for here in "", "1":
        data = run(write, PROXYFLOW_PURE_PYTHON=here)
        read = f"import pickle; p = pickle.loads(bytes.fromhex('{data}')); print(p | dict(a=1))"
        assert run(read, PROXYFLOW_PURE_PYTHON="" if here else "1") == "{'a': 1}"


def refused(call: Callable[[], Any]) -> None:
    """Make a call that is to fail."""
    with pytest.raises((TypeError, ValueError, LookupError, ZeroDivisionError, AttributeError)):
        call()


class Everything:
    """A target with the special methods that no builtin class has."""

    value = 1

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    def __get__(self, instance: Any, owner: Any) -> Any:
        return 7

    def __set__(self, instance: Any, value: Any) -> None:
        pass

    def __delete__(self, instance: Any) -> None:
        pass

    def __matmul__(self, other: Any) -> Any:
        return other

    def __await__(self) -> Any:
        return iter(())

    def __aiter__(self) -> Any:
        return self

    def __anext__(self) -> Any:
        return iter(())


class Holder:
    """A class with an attribute that is a proxy."""

    part: Any


def as_descriptor(p: Any) -> None:
    Holder.part, holder = p, Holder()
    assert holder.part == 7
    holder.part = 1
    del holder.part


def in_place(p: Any) -> None:
    p += [4]
    del p[-1]


NUMBERS: tuple[Callable[[Any, Any], Any], ...] = (
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.floordiv,
    operator.mod,
    divmod,
    pow,
    operator.lshift,
    operator.rshift,
    operator.and_,
    operator.or_,
    operator.xor,
    operator.iadd,
    operator.ipow,
    operator.eq,
    operator.lt,
)
USES: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "numbers": (7, lambda p: [(f(p, 2), f(2, p), f(p, p)) for f in NUMBERS]),
    "unary": (
        -300,
        lambda p: (-p, +p, abs(p), ~p, bool(p), int(p), float(p), hex(p), pow(p, 2, 7)),
    ),
    "numbers that fail": (0, lambda p: (refused(lambda: 1 / p), refused(lambda: p @ 1))),
    "items": (
        [1, 2, 3],
        lambda p: (p[1], p[p[0]], len(p), 2 in p, list(p), refused(lambda: p["x"])),
    ),
    "setting items": ([1, 2, 3], lambda p: (p.__setitem__(0, 1), p.append(4), p.pop())),
    "missing key": ({"a": 1}, lambda p: (p["a"], refused(lambda: p["b"]))),
    "in place": ([1], in_place),
    "into a list": ([1], lambda p: operator.iadd([0], p)),
    "iterator": (iter("abc" * 10_000), next),
    "calls": (Everything(), lambda p: (p(1, 2), p(a=1), p(*[1], **{"b": 2}), p @ 3)),
    "asynchronous": (Everything(), lambda p: (p.__await__(), p.__aiter__(), p.__anext__())),
    "descriptor": (Everything(), as_descriptor),
    "attributes": (
        Point(1000, 2000),
        lambda p: (p.x, p.swapped(), p.__class__, p.__dict__, refused(lambda: p.nothing)),
    ),
    "setting attributes": (Point(1000, 2000), lambda p: setattr(p, "x", p.x)),
    "text": (Point(1, 2), lambda p: (str(p), repr(p), format(p), hash(p), dir(p), p == p)),
    "isinstance": ([1], lambda p: (isinstance(p, list), isinstance(p, dict), callable(p))),
    "buffer": (bytearray(b"abc"), lambda p: (memoryview(p).tobytes(), bytes(p), zlib.crc32(p))),
    "no buffer": (np.zeros(1, "M8[s]"), lambda p: refused(lambda: memoryview(p))),
    "pickle": ([1], lambda p: (pickle.dumps(p), pickle.loads(pickle.dumps(p, 5)))),
    "copy": ([1], lambda p: (copy.copy(p), copy.deepcopy(p))),
    "weak reference": ([1], lambda p: weakref.ref(p)().append),  # type: ignore[misc]
    "array": (np.ones(3), lambda p: (p + 1, np.add(p, p), np.asarray(p), p.sum(), p[1:])),
    "creation": (
        [1],
        lambda p: (
            Proxy(list),
            Proxy(factory=list, facts=None),
            Proxy(p),
            Proxy[list](list),
            is_resolved(p),
            refused(lambda: Proxy()),  # type: ignore[call-arg]
            refused(lambda: Proxy(1)),  # type: ignore[arg-type]
            refused(lambda: Proxy(list, facts=1)),  # type: ignore[arg-type]
        ),
    ),
    "resolution": ([1], lambda p: resolve(Proxy(Give([2]))) + p),
    "failed resolution": ([1], lambda p: refused(lambda: Proxy(lambda: 1 / 0) + 1)),
}


@native
@pytest.mark.parametrize("case", USES)
def test_no_slot_leaks(case: str) -> None:
    """A reference too many keeps gigabytes alive, one too few ends the process."""
    target, use = USES[case]
    p = proxy_of(target)

    def references() -> list[int]:
        gc.collect()
        objects = (target, p, type(p), type(target), None, True, use, Proxy)
        return [sys.getrefcount(obj) for obj in objects]

    def grown() -> bool:
        before, blocks = references(), sys.getallocatedblocks()
        for _ in range(200):
            use(p)
        after = references()
        differences = [abs(a - b) for a, b in zip(after, before, strict=True)]
        return max(differences) > 100 or sys.getallocatedblocks() - blocks > 150

    # Caches grow now and then, and what leaks grows every time.
    assert not all(grown() for _ in range(4))


@native
def test_under_the_debug_allocator() -> None:
    """It marks freed memory and checks the ends of every block."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        + ["-W", "ignore", "tests/test_proxy_operators.py", "tests/test_proxy.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONMALLOC": "debug"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@native
def test_buffer_protocol_everywhere() -> None:
    """C code that takes buffers takes proxies, on every version of Python."""
    p = proxy_of(b"abc")
    file = io.BytesIO()
    assert file.write(p) == 3
    assert b"".join([p, b"d"]) == b"abcd"
    assert zlib.crc32(p) == zlib.crc32(b"abc")
    assert bytes(memoryview(p)) == bytes(bytearray(p)) == b"abc"
    out = np.zeros(3)
    assert np.add([1, 2, 3], 1, out=proxy_of(out)) is not None
    assert out.tolist() == [2, 3, 4]
    into = bytearray(3)
    assert io.BytesIO(b"xyz").readinto(proxy_of(into)) == 3
    assert into == b"xyz"
    unresolved: Any = Proxy(Give(b"abc"), describe(b"abc"))
    assert bytes(memoryview(unresolved)) == b"abc"


@native
def test_what_is_no_sequence_does_not_iterate() -> None:
    """Python iterates over what has items by number, which not everything with items has."""
    for target in np.float64(1.5), re.match("(a)(b)", "ab"):
        p = proxy_of(target)
        for use in (list, tuple, sum, lambda p: 1.5 in p, lambda p: [*p]):
            with pytest.raises(TypeError, match="not iterable"):
                use(p)


@native
def test_cycles_through_a_proxy_are_collected() -> None:
    """A target, or a factory, that holds its own proxy does not live for ever."""

    class Node:
        proxy: Any = None

    for resolving in True, False:
        node = Node()
        node.proxy = Proxy(lambda node=node: node, describe(node))  # type: ignore[misc]
        if resolving:
            resolve(node.proxy)
        gone = weakref.ref(node)
        del node
        gc.collect()
        assert gone() is None


@native
def test_a_long_chain_is_freed() -> None:
    """Freeing one proxy after the other needs no stack for each."""
    chain: Any = Proxy(Give(None))
    for _ in range(200_000):
        chain = Proxy(Give([chain]))
        resolve(chain)
    del chain


@native
def test_in_another_interpreter() -> None:
    """Each interpreter has types and state of its own, and may come and go."""
    run(
        """
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        from proxyflow.proxy import Proxy
        code = '''if True:
            import sys
            sys.path[:0] = {path!r}
            from proxyflow._proxy import Proxy, derive, rebuild
            import proxyflow.nativeproxy
            p = rebuild(lambda: [1, 2], ())
            assert p + [3] == [1, 2, 3] and len(p) == 2 and type(p).__mro__[1] is Proxy
        '''
        import sys
        mine = Proxy(lambda: [1])
        for _ in range(3):
            try:
                other = interpreters.create("legacy")
            except TypeError:
                other = interpreters.create()
            failure = interpreters.run_string(other, code.format(path=sys.path))
            assert failure is None, failure
            interpreters.destroy(other)
        assert mine == [1]
        """
    )
