"""A DDFS master over the embedded engine, for hosts that share one store.

It speaks the HTTP interface of a Disco master and node at one port::

    python -m proxyflow.storage.tagblob.server --root file:///srv/ddfs --volumes 3

It listens on the loopback interface unless told otherwise: tags are protected by their tokens,
blobs by nothing but their names, as in Disco. What it does beyond that protocol is in
`proxyflow.storage.tagblob.extensions`.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .embedded import EmbeddedEngine
from .errors import DDFSError, MissingDependencyError
from .settings import DEFAULT_PORT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from aiohttp import web

__all__ = ["Limits", "main", "make_app"]

logger = logging.getLogger(__name__)

#: Seconds that requests under way get when the server is told to end.
_LAST_WORDS = 3.0


@dataclass(frozen=True)
class Limits:
    """How much the server takes.

    Attributes
    ----------
    tag_body : int
        Bytes of a request that changes a tag.
    blob : int
        Bytes of a blob.
    uploads : int
        Blobs that are received at the same time; further ones are answered 503 and come again.
    idle : float
        Seconds an upload may stand still.
    at_once : int
        Bytes of small blobs that come in one request with their tag; 0 for none, which leaves
        Disco's protocol alone.
    """

    tag_body: int = 64 * 2**20
    blob: int = 2**40
    uploads: int = 64
    idle: float = 60.0
    at_once: int = 4 * 2**20


def make_app(
    engine: EmbeddedEngine,
    *,
    limits: Limits | None = None,
    advertise: str | None = None,
    gc_interval: float = 0,
    gc_grace: float = 24 * 3600,
) -> web.Application:
    """Return the server as an aiohttp application.

    Parameters
    ----------
    engine
        The store.
    limits
        How much a client may send.
    advertise
        The host name in the URLs that clients get; by default the one they asked for.
    gc_interval
        Seconds between runs of the garbage collector; 0 for none.
    gc_grace
        See `DDFS.gc`.

    Raises
    ------
    MissingDependencyError
        aiohttp is not installed.
    """
    try:
        from aiohttp import web
    except ImportError as error:
        raise MissingDependencyError(
            "the server needs aiohttp", remedy="pip install 'proxyflow[ddfs]'"
        ) from error
    from .server_batches import BatchHandlers
    from .server_blobs import BlobHandlers
    from .server_calls import StoreCalls
    from .server_http import error_middleware
    from .server_tags import TagHandlers
    from .server_uploads import Uploads

    limits = limits or Limits()
    app = web.Application(client_max_size=limits.tag_body, middlewares=[error_middleware])
    calls = StoreCalls(engine)
    TagHandlers(calls, advertise).add_to(app)
    uploads = Uploads(limits)
    BatchHandlers(calls, limits, uploads, advertise).add_to(app)
    BlobHandlers(calls, limits, uploads, advertise).add_to(app)
    if gc_interval > 0:

        async def collecting(_: web.Application) -> AsyncIterator[None]:
            task = asyncio.create_task(_collect(engine, gc_interval, gc_grace))
            yield
            task.cancel()

        app.cleanup_ctx.append(collecting)
    return app


async def _collect(engine: EmbeddedEngine, interval: float, grace: float) -> None:
    while True:
        await asyncio.sleep(interval)
        try:
            report = await asyncio.to_thread(engine.gc, grace)
        except DDFSError as error:
            logger.error("gc failed: %s", error)
        else:
            logger.info("gc: %s", report)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m proxyflow.storage.tagblob.server",
        description="Serve a tag/blob store with the HTTP interface of a Disco master.",
    )
    limits = Limits()
    add = parser.add_argument
    add("--root", required=True, help="file:///path or any URL that fsspec knows")
    add("--volumes", type=int, help="how many volumes the store should have in its root")
    add("--volume", action="append", help="a directory or URL to use as a volume; repeatable")
    add("--replicas", type=int, default=1, help="replicas of a blob when a client does not say")
    add("--durable", action="store_true", help="write to disk before answering")
    add("--host", default="127.0.0.1", help="interface to listen on (default: %(default)s)")
    add("--port", type=int, default=DEFAULT_PORT, help="default: %(default)s")
    add("--advertise", help="host name in the URLs given out (default: as the client asked)")
    add("--max-blob", type=int, default=limits.blob, help="bytes (default: %(default)s)")
    add("--max-tag-body", type=int, default=limits.tag_body, help="bytes (default: %(default)s)")
    add(
        "--max-at-once",
        type=int,
        default=limits.at_once,
        help="bytes of small blobs that come with their tag; 0 for Disco's protocol alone"
        " (default: %(default)s)",
    )
    add("--uploads", type=int, default=limits.uploads, help="at a time (default: %(default)s)")
    add(
        "--gc-interval",
        type=float,
        default=6 * 3600,
        help="seconds; 0 for none (default: %(default)s)",
    )
    add("--gc-grace", type=float, default=24 * 3600, help="seconds (default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until it is told to end by SIGINT or SIGTERM."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        engine = EmbeddedEngine(
            args.root,
            volumes=args.volume or args.volumes,
            replicas=args.replicas,
            durable=args.durable,
        )
        app = make_app(
            engine,
            limits=Limits(args.max_tag_body, args.max_blob, args.uploads, at_once=args.max_at_once),
            advertise=args.advertise,
            gc_interval=args.gc_interval,
            gc_grace=args.gc_grace,
        )
    except DDFSError as error:
        logger.error("%s", error)
        return 1
    from aiohttp import web

    def serving(_: str) -> None:
        logger.info("serving %s on %s:%d", engine.master, args.host, args.port)

    try:
        # The access log would hold one line per blob; what goes wrong is logged anyway.
        web.run_app(
            app,
            host=args.host,
            port=args.port,
            print=serving,
            access_log=None,
            shutdown_timeout=_LAST_WORDS,
        )
    except (OSError, OverflowError) as error:
        # A port that is taken or is none, a host that is not this one.
        logger.error("cannot listen on %s:%d: %s", args.host, args.port, error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
