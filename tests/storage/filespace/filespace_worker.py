"""A client in a process of its own, driven over a pipe: what the model-based test runs two of."""

from __future__ import annotations

import multiprocessing
from typing import Any

from proxyflow.storage.filespace import Filespace, Workspace


def serve(hub: str, pipe: Any) -> None:
    """Do what comes down the pipe, send back the result or the exception."""
    filespace: Filespace | None = None
    workspace = Workspace(hub, "lab")
    while (request := pipe.recv()) is not None:
        call, *arguments = request
        try:
            if call == "link":
                if filespace is not None:
                    filespace.unlink(discard=True)
                filespace = workspace.link_filespace(name=arguments[0])
                pipe.send(None)
            else:
                assert filespace is not None
                pipe.send(_do(filespace, call, *arguments))
        except Exception as error:  # noqa: BLE001  the other side decides what it means
            pipe.send(error)
    if filespace is not None:
        filespace.unlink(discard=True)


def _do(filespace: Filespace, call: str, *arguments: Any) -> Any:
    if call == "tree":
        names = filespace.fs.list_dir("/")
        return {name: filespace.fs.read_file(f"/{name}") for name in names}
    if call == "stream":
        path, data = arguments
        with filespace.fs.open(path, "wb", buffering=1000) as file:
            for start in range(0, len(data), 777):
                file.write(data[start : start + 777])
        return None
    if call == "sync_all":
        return filespace.sync_all()
    return getattr(filespace.fs, call)(*arguments)


class Remote:
    """The near end of a client in another process."""

    def __init__(self, hub: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(hub, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def __call__(self, call: str, *arguments: Any) -> Any:
        self._pipe.send((call, *arguments))
        if not self._pipe.poll(60):
            raise TimeoutError(call)
        result = self._pipe.recv()
        if isinstance(result, Exception):
            raise result
        return result

    def stop(self) -> None:
        self._pipe.send(None)
        self.process.join(timeout=60)
        self._pipe.close()
