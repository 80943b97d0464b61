"""Proxies that travel: what a process that receives one imports, trusts and resolves."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import numpy as np
import pytest

from proxyflow import proxy as px
from proxyflow.facts import describe
from tests.proxy_cases import Give, Point, Refuse

ROOT = Path(__file__).parent.parent


def run(program: str, data: bytes = b"", path: Path | None = None, **environment: str) -> str:
    """Run a program in a fresh interpreter with ``data`` on its standard input."""
    places = [str(ROOT), *([str(path)] if path else [])]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        input=data,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places), **environment},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return a package of a user, with classes in more than one module."""
    home = tmp_path / "userpkg"
    home.mkdir()
    (home / "__init__.py").write_text("")
    (home / "base.py").write_text("class Base:\n    pass\n")
    (home / "deep.py").write_text(
        "import collections.abc\n"
        "from userpkg.base import Base\n"
        "class Plain:\n    pass\n"
        "class Derived(Base):\n    pass\n"
        "class Records(list):\n    pass\n"
        "class Registered:\n    pass\n"
        "collections.abc.Sequence.register(Registered)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    deep = importlib.import_module("userpkg.deep")
    yield deep  # type: ignore[misc]
    for name in [name for name in sys.modules if name.partition(".")[0] == "userpkg"]:
        del sys.modules[name]


class TestImports:
    """The target's class is imported where code can tell the difference, and nowhere else."""

    LOADED = "\nprint('userpkg.deep' in sys.modules)"

    def test_handing_a_proxy_on_imports_nothing(self, package: ModuleType, tmp_path: Path) -> None:
        """A scheduler sees proxies of classes it has no module for."""
        for target in package.Plain(), package.Derived():
            data = pickle.dumps(px.Proxy(Refuse(), describe(target)))
            program = """
                import sys, pickle, cloudpickle
                p = pickle.load(sys.stdin.buffer)
                assert not isinstance(p, (int, dict, type(len)))
                assert pickle.loads(cloudpickle.dumps(p)).__class__ is type(p)
                repr(p)
            """
            assert run(textwrap.dedent(program) + self.LOADED, data, tmp_path) == "False"

    def test_a_builtin_base_is_found(self, package: ModuleType, tmp_path: Path) -> None:
        data = pickle.dumps(px.Proxy(Refuse(), describe(package.Records())))
        program = (
            "import sys, pickle\np = pickle.load(sys.stdin.buffer)\nassert isinstance(p, list)"
        )
        assert run(program + self.LOADED, data, tmp_path) == "True"

    def test_a_registered_base_is_found(self, package: ModuleType, tmp_path: Path) -> None:
        data = pickle.dumps(px.Proxy(Refuse(), describe(package.Registered())))
        program = """
            import sys, pickle, collections.abc
            assert isinstance(pickle.load(sys.stdin.buffer), collections.abc.Sequence)
        """
        assert run(textwrap.dedent(program) + self.LOADED, data, tmp_path) == "True"

    def test_a_base_in_a_loaded_module_of_the_package_is_found(
        self, package: ModuleType, tmp_path: Path
    ) -> None:
        data = pickle.dumps(px.Proxy(Refuse(), describe(package.Derived())))
        program = """
            import sys, pickle
            from userpkg.base import Base
            assert isinstance(pickle.load(sys.stdin.buffer), Base)
        """
        assert run(textwrap.dedent(program) + self.LOADED, data, tmp_path) == "True"

    def test_a_class_that_cannot_be_imported_matches_nothing(self, package: ModuleType) -> None:
        data = pickle.dumps(px.Proxy(Refuse(), describe(package.Records())))
        program = """
            import sys, pickle
            p = pickle.load(sys.stdin.buffer)
            for _ in "again":
                assert not isinstance(p, list)
                assert p.__class__ is type(p)
            assert isinstance(p, type(p).__mro__[1])
        """
        assert run(program, data) == ""

    def test_importing_later(self, package: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        """The same in this process: what is not loaded is imported once it is needed."""
        plain = px.Proxy(Refuse(), describe(package.Plain()))
        derived = px.Proxy(Refuse(), describe(package.Derived()))
        records = px.Proxy(Refuse(), describe(package.Records()))
        monkeypatch.delitem(sys.modules, "userpkg.deep")
        assert plain.__class__ is type(plain)
        assert "userpkg.deep" not in sys.modules
        assert derived.__class__.__name__ == "Derived"  # userpkg.base is still loaded
        monkeypatch.delitem(sys.modules, "userpkg.deep")
        assert isinstance(records, list)
        assert plain.__class__.__name__ == "Plain"

    def test_a_module_that_fails_to_import_is_tried_once(
        self, package: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken = tmp_path / "userpkg" / "broken.py"
        broken.write_text("class Broken(list):\n    pass\n")
        module = importlib.import_module("userpkg.broken")
        p = px.Proxy(Refuse(), describe(module.Broken()))
        monkeypatch.delitem(sys.modules, "userpkg.broken")
        count = tmp_path / "count"
        broken.write_text(
            f"with open({str(count)!r}, 'a') as file:\n"
            "    file.write('x')\n"
            "raise RuntimeError('not today')\n"
        )
        importlib.invalidate_caches()
        assert not isinstance(p, list)
        assert not isinstance(p, list)
        assert count.read_text() == "x"

    def test_a_local_class_is_known_once_resolved(self) -> None:
        class Local:
            pass

        p = px.Proxy(Give(Local()), describe(Local()))
        assert not isinstance(p, Local)  # nothing can be found under its name
        px.resolve(p)
        assert isinstance(p, Local)

    def test_importing_proxyflow_is_light(self) -> None:
        """Whoever imports it pays for none of the packages he may not even have."""
        program = """
            import sys, proxyflow
            heavy = {"asyncio", "numpy", "pandas", "dask", "distributed", "multiprocessing"}
            heavy |= {"ctypes", "cloudpickle", "lz4", "redis", "lmdb", "importlib.metadata"}
            print(sorted(heavy & set(sys.modules)))
        """
        assert run(program) == "[]"


class TestHashes:
    """A hash from another process is trusted only if it would come out the same here."""

    def test_another_seed(self) -> None:
        data = pickle.dumps(px.Proxy(Give("text"), describe("text")))
        program = """
            import sys, pickle
            from proxyflow.proxy import is_resolved
            p = pickle.load(sys.stdin.buffer)
            assert hash(p) == hash("text")
            assert {"text": 1}[p] == 1
            print(is_resolved(p))
        """
        for seed in "11", "12":
            assert run(program, data, PYTHONHASHSEED=seed) == "True"

    def test_the_same_seed(self) -> None:
        data = pickle.dumps(px.Proxy(Refuse(), describe("text")))
        pid = os.fork()
        if pid == 0:
            os._exit(0 if hash(pickle.loads(data)) == hash("text") else 1)
        assert os.waitpid(pid, 0)[1] == 0


def use(p: Any) -> tuple[str, str, Any]:
    """Run in a worker process: say what came, use it, and send a proxy back."""
    before = repr(p)
    return before, p.__class__.__name__, p


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_through_a_process_pool(method: str) -> None:
    target = np.arange(3)
    proxies = [px.Proxy(Give(target), describe(target)), px.Proxy(Give(Point(1, 2)))]
    with multiprocessing.get_context(method).Pool(1) as pool:
        results = pool.map(use, proxies)
    assert "numpy.ndarray (3,) int64, 24 B, unresolved" in results[0][0]
    assert results[0][1] == "ndarray"
    for (_, _, returned), sent in zip(results, proxies, strict=True):
        assert isinstance(returned, px.Proxy)
        assert px.is_resolved(returned) is False
        assert type(px.resolve(returned)) is type(px.resolve(sent))


def test_cloudpickle_by_value() -> None:
    """A proxy captured by a lambda travels as a proxy."""
    p = Point(1, 2)
    proxied = importlib.import_module("proxyflow.proxy").Proxy(Give(p), describe(p))
    assert pickle.loads(cloudpickle.dumps(lambda: proxied.x))() == 1


def test_the_interpreter_exits_with_a_resolution_in_flight() -> None:
    """Neither a prefetch that hangs nor a proxy in a module global holds up the exit."""
    program = """
        import threading
        from proxyflow.proxy import Proxy, resolve_async
        started = threading.Event()
        def factory():
            started.set()
            threading.Event().wait()
        p = Proxy(factory)
        future = resolve_async(p)
        started.wait()
        class Last:
            def __del__(self):
                str(q)
        q = Proxy(lambda: "text")
        last = Last()
        print("done")
    """
    assert run(program) == "done"
