"""Filespaces beside plain files, fsspec's local file system and s3fs.

Run ``python -m benchmarks.filespace [--quick] [--directory D]``. Every figure is the median of
several rounds, the contestants taking turns within a round.

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
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import fsspec  # type: ignore[import-untyped]

from benchmarks.goals import Goal
from benchmarks.measure import interleave, missing
from benchmarks.options import Options, parser, read
from benchmarks.result import Result, Rows, Table
from proxyflow.storage.filespace import S3DataStoreConfig, Workspace
from proxyflow.storage.filespace.fsspec_filesystem import FilespaceFileSystem

SIZES = {"1 KiB": (1024, 200), "1 MiB": (1 << 20, 40), "100 MiB": (100 << 20, 5)}
CHANGES, READS = 100, 15
"""Usual rounds of publishing one change, and of reading from S3."""
PAUSE = 0.005
"""Seconds in which what one contestant leaves to the background gets done."""
IN_A_ROW = 5
"""Usual rounds of writing files without a pause."""
OURS, DURABLE = "filespace", "durable file"
KEYS = {"key": "benchmark", "secret": "benchmark"}


def collect(options: Options) -> Result:
    """Measure all of it."""
    files: Rows = {}
    changes: Rows = {}
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.directory) as where:
        for label, (size, rounds) in SIZES.items():
            if not options.quick or size <= 1 << 20:
                data = os.urandom(size)
                files[label] = write_and_read(where, data, options.rounds(rounds))
                count = max(rounds // 5, 5)
                files[f"{label}, in a row"] = in_a_row(where, data, count, options.rounds(IN_A_ROW))
        for entries in (100, 1000 if options.quick else 100_000):
            changes[f"among {entries:,} entries"] = sync_among(
                where, entries, options.rounds(CHANGES)
            )
    tables = [
        Table("Write, publish and read a file", files, OURS),
        Table("Write a small file and publish it", changes),
    ]
    goals = [
        Goal(f"{label}, over a durable file", row[OURS] / row[DURABLE], 1.2, at_least=False)
        for label, row in files.items()
        if "in a row" not in label
    ]
    absent = missing("s3fs", "moto", "pandas", "pyarrow")
    if not absent:
        rows = from_s3(options)
        tables.append(Table("pandas.read_parquet of an S3 object", rows, "linked"))
        goals += [
            Goal(f"read_parquet, {label}, over s3fs", row["linked"] / row["s3fs"], 1.2, False)
            for label, row in rows.items()
        ]
    left_out = [f"reading from S3: {name} is not installed" for name in absent]
    return Result(tables=tables, goals=goals, left_out=left_out)


def from_s3(options: Options) -> Rows:
    """Return the rows about objects in S3."""
    with s3_server() as endpoint:
        return {
            label: read_parquet(endpoint, columns, options.rounds(READS))
            for label, columns in (("8 columns", None), ("1 column", ["c"]))
        }


def write_and_read(where: str, data: bytes, rounds: int) -> Mapping[str, float]:
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

        calls = {
            OURS: through_filespace,
            "filespace, mapped": mapped,
            DURABLE: lambda: durable_file(plain, data),
            "plain": plain_file,
            "fsspec local": through_fsspec,
        }
        result = interleave(calls, rounds=rounds, pause=PAUSE)
    shutil.rmtree(hub)
    return result


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


def in_a_row(where: str, data: bytes, count: int, rounds: int) -> Mapping[str, float]:
    """Time writing, publishing and reading without a pause, all that it leaves to do included."""
    hub, plain = os.path.join(where, "hub"), os.path.join(where, "plain")

    def through_filespace() -> None:
        with Workspace(hub).link_filespace(name="data") as filespace:
            for _ in range(count):
                filespace.fs.write_file("/f", data)
                filespace.sync_all()
                assert len(filespace.fs.read_file("/f")) == len(data)

    def durable_files() -> None:
        for _ in range(count):
            durable_file(plain, data)

    result = interleave({OURS: through_filespace, DURABLE: durable_files}, rounds=rounds)
    shutil.rmtree(hub)
    return {name: median.map(lambda seconds: seconds / count) for name, median in result.items()}


def sync_among(where: str, entries: int, rounds: int) -> Mapping[str, float]:
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

        result = interleave({OURS: change}, rounds=rounds)
    shutil.rmtree(hub)
    return result


def read_parquet(endpoint: str, columns: list[str] | None, rounds: int) -> Mapping[str, float]:
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

        calls = {"linked": lambda: read(fs, f"{root}/t.parquet"), "s3fs": directly}
        result = interleave(calls, rounds=rounds)
        fs.close()
    return result


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


def main() -> None:
    """Measure and print."""
    print(collect(read(parser(__doc__).parse_args())).text())


if __name__ == "__main__":
    main()
