"""A Dask job over objects in S3 that are linked into a filespace, none of them copied first.

python examples/filespace_dask.py [--objects N] [--workers N]

An S3 server (moto) on this host holds arrays. They are linked into a filespace, one file for each;
the tasks receive proxies of those files, read what they need, and write their results back into the
filespace. Beside it, the same job that downloads everything to the client first: with a server on
this host that is the quicker one, as there is no network whose time linking could save.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import IO, Any

import fsspec
import numpy as np
from distributed import Client, LocalCluster, as_completed
from tqdm import tqdm

from proxyflow import Store
from proxyflow.storage.filespace import S3DataStoreConfig, Workspace
from proxyflow_dask import ProxyPlugin

BUCKET = "measurements"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "example", "AWS_SECRET_ACCESS_KEY": "example"}


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Run an S3 server on a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            if server.poll() is not None or time.monotonic() > deadline:
                sys.exit("the S3 server did not start; install it with: pip install 'moto[server]'")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def load_array(file: IO[bytes]) -> np.ndarray:
    """Load an array from an open file."""
    return np.load(file)


def summarise(measurement: np.ndarray) -> np.ndarray:
    """Return what is wanted of one array."""
    return np.array([measurement.mean(), measurement.std(), measurement.max()])


def summarise_to(hub: str, measurement: np.ndarray, path: str) -> str:
    """Summarise, write the result into the filespace, and return where it is."""
    with Workspace(hub, name="lab") as workspace:
        data = workspace.link_filespace(name="data")
        with data.fs.open(path, "wb") as file:
            np.save(file, summarise(measurement))
        data.sync_all()
    return path


def fill(endpoint: str, count: int) -> None:
    """Put arrays into the bucket."""
    options = {"endpoint_url": endpoint, "key": "example", "secret": "example"}
    s3 = fsspec.filesystem("s3", **options)
    s3.mkdir(BUCKET)
    for number in range(count):
        buffer = io.BytesIO()
        np.save(buffer, np.random.default_rng(number).random(250_000))
        s3.pipe(f"{BUCKET}/run7/{number:03}.npy", buffer.getvalue())


def link(hub: str, endpoint: str) -> list[str]:
    """Link every object of the bucket into the filespace; return the files."""
    with Workspace(hub, name="lab") as workspace:
        data = workspace.link_filespace(name="data")
        config = S3DataStoreConfig(
            access_key="env:AWS_ACCESS_KEY_ID",
            secret_key="env:AWS_SECRET_ACCESS_KEY",
            bucket_name=BUCKET,
            region="us-east-1",
            endpoint=endpoint,
        )
        data.connect.add_data_store("instrument", config)
        files = data.connect.link_files("/in", "instrument", "run7/")
        data.fs.create_dir("/out")
        data.sync_all()
    return files


def with_proxies(client: Client, store: Store, hub: str, files: list[str]) -> list[Any]:
    """Run the job on proxies of the linked files."""
    futures = []
    for path in files:
        measurement = store.proxy_file(path, load_array, kind=np.ndarray)
        out = path.replace("/in/", "/out/")
        futures.append(client.submit(summarise_to, hub, measurement, out))
    for _ in tqdm(as_completed(futures), total=len(futures), desc="proxies", unit="task"):
        pass
    outputs = client.gather(futures)
    return [np.load(store.open_file(path)) for path in outputs]


def downloading(client: Client, store: Store, hub: str, endpoint: str) -> list[Any]:
    """Run the job on arrays that the client downloads."""
    options = {"endpoint_url": endpoint, "key": "example", "secret": "example"}
    s3 = fsspec.filesystem("s3", **options)
    futures = []
    for path in tqdm(sorted(s3.ls(f"{BUCKET}/run7")), desc="download", unit="task"):
        with s3.open(path, "rb") as file:
            array = np.load(io.BytesIO(file.read()))
        out = f"/out/plain-{path.rpartition('/')[2]}"
        futures.append(client.submit(summarise_to, hub, array, out))
    return [np.load(store.open_file(path)) for path in client.gather(futures)]


def main() -> None:
    """Run both and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--objects", type=int, default=16, help="how many (16)")
    parser.add_argument("--workers", type=int, default=2, help="how many processes (2)")
    options = parser.parse_args()
    if options.objects < 1 or options.workers < 1:
        parser.error("at least one object and one worker")
    os.environ.update(CREDENTIALS)
    with (
        s3_server() as endpoint,
        tempfile.TemporaryDirectory() as hub,
        LocalCluster(
            n_workers=options.workers, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
        Client(cluster, set_as_default=False) as plain,
    ):
        fill(endpoint, options.objects)
        files = link(hub, endpoint)
        rows = []
        with Store(f"filespace://lab/data/objects?hub={hub}") as store:
            client.register_plugin(ProxyPlugin(store))
            started = time.perf_counter()
            ours = with_proxies(client, store, hub, files)
            rows.append(("proxies of linked files", time.perf_counter() - started))
            left = sum(1 for _ in store.scan())
            started = time.perf_counter()
            theirs = downloading(plain, store, hub, endpoint)
            rows.append(("downloaded by the client", time.perf_counter() - started))
    print(f"{options.objects} objects of 2 MB, {options.workers} workers")
    for name, seconds in rows:
        print(f"{name:28}{seconds:8.2f} s")
    # Not equal to the last bit: how NumPy adds up depends on where in memory an array lies.
    agree = all(np.allclose(a, b) for a, b in zip(ours, theirs, strict=True))
    print("the server is on this host: there is no download for linking to save")
    print(f"answers {'agree' if agree else 'DIFFER'}; objects left in the store: {left}")
    sys.exit(0 if agree and not left else 1)


if __name__ == "__main__":
    main()
