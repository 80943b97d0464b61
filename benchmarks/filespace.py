"""Filespaces beside plain files, fsspec's local file system and s3fs.

Run ``python benchmarks/filespace.py [directory]``. Every figure is the median of several rounds,
the contestants taking turns within a round.

* write + sync + read: a filespace in a directory, plain files, fsspec's local file system, and
  files that are replaced with what a sync promises: written under another name, synced, renamed,
  the directory synced.
* ``pandas.read_parquet`` of an object linked from S3, beside s3fs reading it directly, from a
  server (moto) that is started as a process.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import fsspec  # type: ignore[import-untyped]

from proxyflow.storage.filespace import S3DataStoreConfig, Workspace
from proxyflow.storage.filespace.fsspec_filesystem import FilespaceFileSystem

SIZES = {"1 KiB": (1024, 200), "1 MiB": (1 << 20, 40), "100 MiB": (100 << 20, 5)}
PAUSE = 0.005
KEYS = {"key": "benchmark", "secret": "benchmark"}


def main() -> None:
    """Run all of it."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if sys.argv[1:] else None) as where:
        print(f"write + sync + read, median milliseconds, in {os.path.dirname(where)}")
        for label, (size, rounds) in SIZES.items():
            data = os.urandom(size)
            report(label, write_and_read(where, data, rounds))
            report("in a row", in_a_row(where, data, max(rounds // 5, 5)))
        print("a change among many, sync only, median milliseconds")
        for entries in (100, 100_000):
            report(f"{entries} entries", sync_among(where, entries))
    print("pandas.read_parquet of an S3 object, median milliseconds")
    with s3_server() as endpoint:
        report("8 columns", read_parquet(endpoint, None))
        report("1 column", read_parquet(endpoint, ["c"]))


def write_and_read(where: str, data: bytes, rounds: int) -> dict[str, float]:
    """Time writing, publishing and reading `data`."""
    hub = os.path.join(where, "hub")
    plain = os.path.join(where, "plain")
    local = fsspec.filesystem("file")
    with Workspace(hub).link_filespace(name="data") as filespace:

        def through_filespace() -> None:
            filespace.fs.write_file("/f", data)
            filespace.sync_all()
            assert len(filespace.fs.read_file("/f")) == len(data)

        def mapped() -> None:
            filespace.fs.write_file("/f", data)
            filespace.sync_all()
            assert len(filespace.fs.view("/f")) == len(data)

        def plain_file() -> None:
            with open(plain, "wb") as file:
                file.write(data)
            with open(plain, "rb") as file:
                assert len(file.read()) == len(data)

        def through_fsspec() -> None:
            local.pipe_file(plain, data)
            assert len(local.cat_file(plain)) == len(data)

        result = in_turns(
            rounds,
            {
                "filespace": through_filespace,
                "filespace, mapped": mapped,
                "durable file": lambda: durable_file(plain, data),
                "plain": plain_file,
                "fsspec local": through_fsspec,
            },
        )
    shutil.rmtree(hub)
    return result | {"filespace / durable file": result["filespace"] / result["durable file"]}


def durable_file(path: str, data: bytes) -> None:
    """Replace a file with what a sync promises, and read it."""
    with open(path + ".new", "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + ".new", path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(folder)
    os.close(folder)
    with open(path, "rb") as file:
        assert len(file.read()) == len(data)


def in_a_row(where: str, data: bytes, rounds: int) -> dict[str, float]:
    """Time writing, publishing and reading without a pause, all that it leaves to do included."""
    hub, plain = os.path.join(where, "hub"), os.path.join(where, "plain")

    def through_filespace() -> None:
        with Workspace(hub).link_filespace(name="data") as filespace:
            for _ in range(rounds):
                filespace.fs.write_file("/f", data)
                filespace.sync_all()
                assert len(filespace.fs.read_file("/f")) == len(data)

    def durable_files() -> None:
        for _ in range(rounds):
            durable_file(plain, data)

    result = in_turns(5, {"filespace": through_filespace, "durable file": durable_files})
    shutil.rmtree(hub)
    each = {name: time / rounds for name, time in result.items()}
    return each | {"filespace / durable file": each["filespace"] / each["durable file"]}


def sync_among(where: str, entries: int) -> dict[str, float]:
    """Time publishing one file in a filespace of `entries` others."""
    hub = os.path.join(where, "hub")
    with Workspace(hub).link_filespace(name="data") as filespace:
        filespace.fs.create_dir("/d")
        for number in range(entries):
            filespace.fs.create_symlink("/x", f"/d/{number}")
        filespace.sync_all()
        numbers = iter(range(10_000))

        def change() -> None:
            filespace.fs.write_file(f"/d/new{next(numbers)}", b"x")
            filespace.sync_all()

        result = in_turns(100, {"sync": change})
    shutil.rmtree(hub)
    return result


def read_parquet(endpoint: str, columns: list[str] | None) -> dict[str, float]:
    """Time reading columns of a Parquet object, linked and through s3fs."""
    import numpy as np
    import pandas as pd

    options = {**KEYS, "endpoint_url": endpoint}
    s3 = fsspec.filesystem("s3", **options, skip_instance_cache=True)
    s3.mkdirs("bench", exist_ok=True)
    random = np.random.default_rng(0)
    buffer = io.BytesIO()
    pd.DataFrame({name: random.random(500_000) for name in "abcdefgh"}).to_parquet(buffer)
    s3.pipe_file("bench/t.parquet", buffer.getvalue())
    print(f"  ({len(buffer.getvalue()) / 1e6:.0f} MB)")
    with tempfile.TemporaryDirectory() as hub:
        fs = FilespaceFileSystem(hub=hub, skip_instance_cache=True)
        root = f"{os.path.basename(hub)}/data"
        fs.mkdir(root)
        connect = fs.filespace(root).connect
        config = S3DataStoreConfig("benchmark", "benchmark", "bench", "us-east-1", endpoint)
        connect.add_data_store("s3", config)
        connect.link_file("/t.parquet", "s3", "t.parquet")

        def read(filesystem: Any, path: str) -> None:
            with filesystem.open(path, "rb") as file:
                assert len(pd.read_parquet(file, columns=columns)) == 500_000

        def directly() -> None:
            s3.invalidate_cache()
            read(s3, "bench/t.parquet")

        result = in_turns(15, {"linked": lambda: read(fs, f"{root}/t.parquet"), "s3fs": directly})
        fs.close()
    return result | {"linked / s3fs": result["linked"] / result["s3fs"]}


def in_turns(rounds: int, contestants: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Return the median milliseconds of each contestant."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    random = Random(0)
    for number in range(rounds + 1):
        # In no order: what one leaves for the disk to do, another one's sync has to wait for.
        for name, run in random.sample(list(contestants.items()), len(contestants)):
            started = time.perf_counter()
            run()
            if number:  # the first round warms up
                times[name].append((time.perf_counter() - started) * 1000)
            # What one leaves to do in the background, the next one is not to wait for.
            time.sleep(PAUSE)
    return {name: statistics.median(found) for name, found in times.items()}


def report(label: str, result: dict[str, float]) -> None:
    """Print one line."""
    print(f"  {label:>16}: " + ", ".join(f"{name} {value:.2f}" for name, value in result.items()))


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Run a server that speaks S3; yield its endpoint."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(endpoint + "/moto-api/", timeout=5):
                    break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield endpoint
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


if __name__ == "__main__":
    main()
