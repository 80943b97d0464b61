"""The Flux engine against the signatures of the real bindings.

No broker is needed: see `flux_double` for what stands in its place, and what that notices. The
recorded signatures are compared with the installed bindings among the longer runs.
"""

from __future__ import annotations

import ast
import errno
import os
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

from proxyflow.storage import kvs
from proxyflow.storage.kvs.engines import flux as flux_engine
from proxyflow.storage.kvs.engines import flux_calls
from tests.storage.kvs import (
    test_kvs_directories,
    test_kvs_transactions,
    test_kvs_values,
)
from tests.storage.kvs.flux_double import RECORD, FluxDouble


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[FluxDouble]:
    """Stand in for the library; at the end all was given back, and nothing misused."""
    double = FluxDouble()
    for name, module in double.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    yield double
    assert double.left_over() == []
    assert double.misuse == []
    double.store.close()


@pytest.fixture
def handle(double: FluxDouble) -> Iterator[kvs.Handle]:
    with kvs.open("flux://") as opened:
        yield opened


@pytest.mark.parametrize(
    "promise",
    [
        test_kvs_values.test_raw_values_are_bytes_or_strings,
        test_kvs_values.test_ranges_of_small_values,
        test_kvs_values.test_many_values_of_one_moment,
        test_kvs_values.test_the_root_is_a_directory,
        test_kvs_values.test_dots_collapse,
        test_kvs_values.test_what_is_missing_is_not_found,
        test_kvs_values.test_directories_and_values_are_told_apart,
        test_kvs_transactions.test_nothing_is_visible_before_the_commit,
        test_kvs_transactions.test_operations_apply_in_order,
        test_kvs_transactions.test_a_failed_commit_applies_nothing_and_clears_the_transaction,
        test_kvs_transactions.test_values_and_directories_replace_each_other,
        test_kvs_transactions.test_flags,
        test_kvs_transactions.test_a_transaction_object_stages_under_its_path,
        test_kvs_transactions.test_links_are_followed_through_directories,
        test_kvs_transactions.test_a_link_may_lead_nowhere,
        test_kvs_transactions.test_namespaces_are_trees_of_their_own,
        test_kvs_directories.test_a_directory_is_a_mapping,
        test_kvs_directories.test_subdirectories_share_the_transaction,
        test_kvs_directories.test_clear_ends_and_takes_what_was_staged,
        test_kvs_directories.test_walk,
    ],
)
def test_promises_of_the_kvs(handle: kvs.Handle, promise: Callable[[kvs.Handle], None]) -> None:
    promise(handle)


@pytest.mark.parametrize("value", [b"", b"nul\0nul", bytes(range(256))])
def test_bytes_are_read_whole(handle: kvs.Handle, value: bytes) -> None:
    """The bindings' own functions stop at the first NUL."""
    kvs.put(handle, "a", value)
    kvs.commit(handle)
    assert kvs.get(handle, "a", raw=True) == value


def test_failing_lookups_leave_nothing_behind(handle: kvs.Handle, double: FluxDouble) -> None:
    """With the bindings' own functions, some five hundred end the process."""
    kvs.put(handle, "v", 1)
    kvs.commit(handle)
    for _ in range(600):
        assert not kvs.exists(handle, "no")
        with pytest.raises(kvs.NotDirectoryError):
            handle.backend.children("primary", (b"v",))
    assert double.left_over() == []


def test_each_thread_and_process_has_a_handle_of_its_own(
    handle: kvs.Handle, double: FluxDouble
) -> None:
    def work() -> None:
        kvs.put(handle, f"t{threading.get_ident()}", 1)
        kvs.commit(handle)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(len(double.misuse))
    assert os.waitpid(pid, 0)[1] == 0


def test_watch(handle: kvs.Handle) -> None:
    values = kvs.watch(handle, "a", timeout=60)
    assert next(values) is kvs.MISSING
    for value in (1, 2, kvs.MISSING, 3):
        if value is kvs.MISSING:
            kvs.put_unlink(handle, "a")
        else:
            kvs.put(handle, "a", value)
        kvs.commit(handle)
        assert next(values) == value or value is kvs.MISSING
    kvs.put_mkdir(handle, "a")
    kvs.commit(handle)
    while not isinstance(next(values), kvs.KVSDir):
        pass
    kvs.put(handle, "a", 4)
    kvs.commit(handle)
    assert next(values) == 4
    values.close()  # type: ignore[attr-defined]
    soon = kvs.watch(handle, "a", timeout=0.05)
    next(soon)
    with pytest.raises(kvs.WatchTimeoutError):
        next(soon)


def test_a_watch_goes_on_where_flux_ends_it(handle: kvs.Handle) -> None:
    """When the key is removed, or turns from a value into a directory and back."""
    with handle.backend.watch("primary", (b"a",)) as watcher:
        for stage in (
            lambda: kvs.put(handle, "a", 1),
            lambda: kvs.put_unlink(handle, "a"),
            lambda: kvs.put_mkdir(handle, "a"),
            lambda: kvs.put(handle, "a.b", 1),
            lambda: kvs.put(handle, "a", 2),
            lambda: kvs.put_unlink(handle, "a"),
        ):
            stage()
            kvs.commit(handle)
            assert watcher.wait(60)
            # What there is already may be told once more, but not for ever.
            while watcher.wait(0.05):
                pass


def test_a_watch_whose_broker_goes_away(handle: kvs.Handle, double: FluxDouble) -> None:
    watcher = handle.backend.watch("primary", (b"a",))
    with watcher:
        assert not watcher.wait(0.01)
        double.next_errno = errno.ECONNRESET
        with pytest.raises(kvs.UnreachableError):
            watcher.wait(None)
        double.next_errno = 0


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ECONNRESET, kvs.UnreachableError),
        (errno.ENOSYS, kvs.UnreachableError),
        (errno.EPERM, kvs.AccessDeniedError),
        (errno.EFBIG, kvs.StorageFullError),
        (errno.ENOTSUP, kvs.NamespaceError),
        (errno.EPROTO, kvs.KVSError),
    ],
)
def test_errors_of_the_library(
    handle: kvs.Handle, double: FluxDouble, number: int, error: type[kvs.KVSError]
) -> None:
    kvs.put(handle, "a", 1)
    double.next_errno = number
    for call in (kvs.commit, kvs.namespace_list, lambda of: kvs.get(of, "a")):
        if call is kvs.commit:
            kvs.put(handle, "a", 1)
        with pytest.raises(error):
            call(handle)
    double.next_errno = 0


def test_what_flux_cannot_do(handle: kvs.Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(kvs.UnsupportedError, match="compare and swap"):
        kvs.compare_and_swap(handle, "a", 1, 2)
    with pytest.raises(kvs.InvalidKeyError, match="NUL"):
        kvs.get(handle, "nul\0nul")
    kvs.put(handle, ".", 1)
    with pytest.raises(kvs.InvalidKeyError, match="root cannot"):
        kvs.commit(handle)
    monkeypatch.setattr(flux_engine, "MAX_VALUE_BYTES", 10)
    kvs.put(handle, "a", bytes(11))
    with pytest.raises(kvs.StorageFullError, match="1 GiB"):
        kvs.commit(handle)
    kvs.dropcache(handle)
    with pytest.raises(FileExistsError):
        kvs.namespace_create(handle, "primary")


def test_opening_and_closing(double: FluxDouble) -> None:
    handle = kvs.open("flux://local:///run/flux/local")
    assert handle.url == "flux://local:///run/flux/local"
    handle.close()
    with pytest.raises(kvs.ClosedError):
        kvs.exists(handle, "a")
    double.broker_is_there = False
    with pytest.raises(kvs.UnreachableError, match="flux start"):
        kvs.open("flux://")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flux", None)
    with pytest.raises(kvs.MissingLibraryError, match="libflux-core") as caught:
        kvs.open("flux://")
    assert caught.value.errno == errno.ENOPKG


# -- the record -----------------------------------------------------------------------------


def calls_in(source: Path) -> Iterator[tuple[str, int | None]]:
    """Yield each name of the library in a source, with the number of arguments of a call."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr.startswith("flux_"):
                yield node.func.attr, len(node.args)
        elif isinstance(node, ast.Attribute) and node.attr.startswith("FLUX_"):
            yield node.attr, None


def test_every_call_fits_the_recorded_bindings() -> None:
    used = set()
    for module in (flux_engine, flux_calls):
        for name, count in calls_in(Path(str(module.__file__))):
            used.add(name)
            if count is None:
                assert name in RECORD["constants"]
            else:
                parameters = RECORD["functions"][name].partition("(")[2].rstrip(")")
                assert count == len(parameters.split(",")) * bool(parameters), name
    assert set(RECORD["functions"]) <= used
    for name in ("FLUX_KVS_NO_MERGE", "FLUX_KVS_TXN_COMPACT", "FLUX_KVS_SYNC"):
        assert getattr(kvs, name) == RECORD["constants"][name]


ASK = """
import inspect, json, sys
import flux, flux.kvs
from _flux._core import ffi, lib
record = json.load(open(sys.argv[1]))
for name, signature in record["functions"].items():
    found = ffi.getctype(ffi.typeof(getattr(lib, name))).replace("(*)", "")
    assert found == signature, (name, found)
for name, value in record["constants"].items():
    assert getattr(lib, name) == value, name
assert list(inspect.signature(flux.kvs.namespace_list).parameters) == ["flux_handle"]
parameters = inspect.signature(flux.core.handle.Flux.__init__).parameters
assert list(parameters)[:2] == ["self", "url"]
print("as recorded")
"""


@pytest.mark.soak
def test_the_record_is_that_of_the_installed_bindings(tmp_path: Path) -> None:
    """Signatures are read from the bindings; a library of empty functions lets them be loaded."""
    try:
        version = metadata.version("flux-python")
    except metadata.PackageNotFoundError:
        pytest.fail("this test reads the bindings of Flux: pip install flux-python")
    core = next(Path(sysconfig.get_path("platlib")).glob("_flux/_core*.so"))
    symbols = subprocess.run(
        ["nm", "-D", "--undefined-only", str(core)], capture_output=True, text=True, check=True
    ).stdout.split()
    library = [name for name in symbols if name.startswith(("flux_", "idset_", "hostlist_"))]
    source = tmp_path / "empty.c"
    source.write_text("".join(f"void {name}(void) {{}}\n" for name in library))
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-w", "-Wl,-soname,libflux-core.so.2", str(source)]
        + ["-o", str(tmp_path / "libflux-core.so.2")],
        check=True,
    )
    record = Path(__file__).parent / "flux_bindings.json"
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(record)],
        capture_output=True,
        text=True,
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "LD_BIND_NOW": ""},
    )
    assert done.stdout == "as recorded\n", (version, done.stderr)
