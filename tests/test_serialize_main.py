"""What other processes cannot import reaches them all the same, and as the right thing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxyflow.errors import SerializationError
from proxyflow.serialize import deserialize, serialize


def run(script: str, path: Path, *args: object) -> str:
    """Run a script as the main module of a process of its own and return what it printed."""
    path.write_text(script)
    done = subprocess.run(
        [sys.executable, str(path), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def in_main(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """Make a function or class one of this process's main module."""

    def define(obj: Any) -> Any:
        obj.__module__, obj.__qualname__ = "__main__", obj.__name__
        monkeypatch.setattr(sys.modules["__main__"], obj.__name__, obj, raising=False)
        return obj

    return define


def test_the_writing_process_gets_its_own_back(in_main: Callable[[Any], Any]) -> None:
    """Functions and classes of the main module are the same objects after a round trip."""

    class Probe:
        pass

    def probe() -> int:
        return 42

    values = [in_main(Probe), in_main(probe), Probe()]
    result = deserialize(b"".join(serialize(values).frames))
    assert result[0] is Probe
    assert result[1] is probe
    assert type(result[2]) is Probe


def test_a_function_that_is_gone_from_the_main_module_is_rebuilt(
    in_main: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The value does where the name does not: the name is gone, or the program is another."""

    def probe() -> int:
        return 42

    data = b"".join(serialize(in_main(probe)).frames)
    with monkeypatch.context() as patch:
        patch.delattr(sys.modules["__main__"], "probe")
        assert deserialize(data)() == 42
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/another/program", raising=False)
    result = deserialize(data)
    assert result is not probe
    assert result() == 42


def test_a_function_without_value_is_refused_elsewhere(
    in_main: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why there is no value is said where it is missed."""
    lock = threading.Lock()

    def probe() -> bool:
        return lock.locked()

    data = b"".join(serialize(in_main(probe)).frames)
    assert deserialize(data) is probe
    monkeypatch.delattr(sys.modules["__main__"], "probe")
    with pytest.raises(SerializationError, match=r"probe of the main module .*cannot pickle"):
        deserialize(data)


def test_functions_and_classes_made_at_run_time_survive() -> None:
    """Lambdas with their closures, and classes local to a function."""
    base = 40

    class Local:
        def __init__(self, value: int) -> None:
            self.value = value

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Local) and other.value == self.value

    result = deserialize(
        b"".join(serialize({"add": lambda x: x + base, "local": Local(3), "cls": Local}).frames)
    )
    assert result["add"](2) == 42
    assert result["local"].value == 3
    assert result["cls"](3) == Local(3)


DEFINITIONS = """
import enum, os, sys
import numpy as np
from proxyflow.serialize import serialize, deserialize

FACTOR = 3

class Color(enum.Enum):
    RED = 1

class Outer:
    class Inner:
        def __init__(self, n):
            self.array = np.arange(n)

def triple(x):
    return FACTOR * x

def make():
    return {"color": Color.RED, "inner": Outer.Inner(5000), "f": triple, "cls": Outer}
"""

WRITER = (
    DEFINITIONS
    + """
if __name__ == "__main__":
    payload = serialize(make())
    assert any(len(frame) == 40_000 for frame in payload.frames), "array in band"
    with open(sys.argv[1], "wb") as file:
        file.writelines(payload.frames)
"""
)

READER = """
import sys
from proxyflow.serialize import deserialize
value = deserialize(open(sys.argv[1], "rb").read())
print(value["f"](14), value["color"].name, len(value["inner"].array), value["cls"].__name__)
again = deserialize(open(sys.argv[1], "rb").read())
assert again["color"] is value["color"]
assert type(again["inner"]) is type(value["inner"])
"""


def test_another_main_module_gets_the_value(tmp_path: Path) -> None:
    """A worker with a main module of its own has no such names, and needs none."""
    run(WRITER, tmp_path / "writer.py", tmp_path / "payload")
    assert run(READER, tmp_path / "reader.py", tmp_path / "payload") == "42 RED 5000 Outer\n"


SAME_PROGRAM = (
    DEFINITIONS
    + """
from concurrent.futures import ProcessPoolExecutor
import multiprocessing

def check(data):
    value = deserialize(data)
    return b"".join(serialize({
        "enum": value["color"] is Color.RED,
        "class": type(value["inner"]) is Outer.Inner,
        "function": value["f"] is triple,
        "back": value["color"],
    }).frames)

if __name__ == "__main__":
    here = deserialize(b"".join(serialize(make()).frames))
    assert here["color"] is Color.RED and here["f"] is triple
    context = multiprocessing.get_context(sys.argv[1])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        result = deserialize(pool.submit(check, b"".join(serialize(make()).frames)).result(60))
    back = result.pop("back")
    print(all(result.values()), back is Color.RED)
"""
)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_of_the_same_program_get_their_own_class(method: str, tmp_path: Path) -> None:
    """Enum identity and isinstance hold in a multiprocessing child, and for what it returns."""
    assert run(SAME_PROGRAM, tmp_path / "program.py", method) == "True True\n"


LOKY = (
    DEFINITIONS
    + """
def check(data):
    value = deserialize(data)
    return value["color"] is Color.RED and type(value["inner"]) is Outer.Inner

if __name__ == "__main__":
    from loky import get_reusable_executor
    pool = get_reusable_executor(1)
    print(pool.submit(check, b"".join(serialize(make()).frames)).result(60))
    pool.shutdown(kill_workers=True)
"""
)


def test_functions_sent_by_value_meet_the_classes_they_know(tmp_path: Path) -> None:
    """As loky sends functions with cloudpickle, their classes are copies: ours must be those."""
    assert run(LOKY, tmp_path / "program.py") == "True\n"


INTERACTIVE = """
import os, sys
from proxyflow.serialize import serialize, deserialize
class C: pass
if os.fork() == 0:
    with open(sys.argv[1], "wb") as file:
        file.writelines(serialize(C()).frames)
    os._exit(0)
os.wait()
print(type(deserialize(open(sys.argv[1], "rb").read())) is C)
"""


def test_an_interactive_session_knows_its_forked_children(tmp_path: Path) -> None:
    """A main module without a file is told from others all the same."""
    script = f"import sys; del __file__; exec({INTERACTIVE!r}, globals())"
    assert run(script, tmp_path / "session.py", tmp_path / "payload") == "True\n"


NAMED_ONLY = """
import sys, threading
from proxyflow.serialize import serialize, deserialize
LOCK = threading.Lock()
def locked():
    with LOCK:
        return "done"
data = b"".join(serialize([locked]).frames)
print(deserialize(data)[0]())
open(sys.argv[1], "wb").write(data)
"""

NAMED_ONLY_READER = """
import sys
from proxyflow.serialize import deserialize
from proxyflow.errors import SerializationError
try:
    deserialize(open(sys.argv[1], "rb").read())
except SerializationError as error:
    print(error)
"""


def test_what_has_no_value_still_has_a_name(tmp_path: Path) -> None:
    """A function bound to a lock works within its program, and elsewhere the reason is given."""
    assert run(NAMED_ONLY, tmp_path / "program.py", tmp_path / "payload") == "done\n"
    message = run(NAMED_ONLY_READER, tmp_path / "reader.py", tmp_path / "payload")
    assert "locked of the main module" in message
    assert "cannot pickle '_thread.lock' object" in message
    assert "define it in a module" in message


BY_VALUE = """
import sys, cloudpickle
sys.path.insert(0, sys.argv[2])
import private_module
from proxyflow.serialize import serialize
cloudpickle.register_pickle_by_value(private_module)
open(sys.argv[1], "wb").write(b"".join(serialize({"f": private_module.f}).frames))
"""


def test_modules_registered_by_value_are_sent_by_value(tmp_path: Path) -> None:
    """Cloudpickle's own way to send a module that is not installed elsewhere is respected."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "private_module.py").write_text("def f():\n    return 'private'\n")
    run(BY_VALUE, tmp_path / "writer.py", tmp_path / "payload", tmp_path / "private")
    data: Any = (tmp_path / "payload").read_bytes()
    assert deserialize(data)["f"]() == "private"


def test_a_large_integer_does_not_hide_the_main_module(tmp_path: Path) -> None:
    """However large the pickler's frames get, they are searched."""
    script = DEFINITIONS + (
        "data = b''.join(serialize([10**700_000, triple]).frames)\n"
        "open(sys.argv[1], 'wb').write(data)\n"
    )
    run(script, tmp_path / "writer.py", tmp_path / "payload")
    assert deserialize((tmp_path / "payload").read_bytes())[1](14) == 42


def test_importing_serialize_is_light() -> None:
    """Neither NumPy nor cloudpickle nor lz4 is imported before it is needed."""
    script = (
        "import sys; from proxyflow.serialize import deserialize, serialize\n"
        "deserialize(b''.join(serialize([1]).frames))\n"
        "print(sorted({'numpy', 'cloudpickle', 'lz4', 'pandas', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.stdout == "[]\n"
