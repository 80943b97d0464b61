"""A proxy in front of a server that speaks S3, which can lose answers and delay requests."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Hook = Callable[[str, str, Callable[[], None]], bool]
"""Gets method, path and what forwards the request; returns whether to answer the client."""

HOP_HEADERS = {"connection", "transfer-encoding", "content-length", "server", "date"}


class Proxy:
    """The proxy: `hook`, if set, sees every request before it is forwarded."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.hook: Hook | None = None
        self.status = 0  # answer everything with this status instead
        self.refused = 0
        self.on_refusal: Callable[[], None] = lambda: None
        self.endpoint = ""


@contextlib.contextmanager
def proxied(upstream: str) -> Iterator[Proxy]:
    proxy = Proxy(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answers: list[tuple[http.client.HTTPResponse, bytes]] = []

            def forward() -> None:
                host, port = proxy.upstream.hostname or "", proxy.upstream.port
                with contextlib.closing(http.client.HTTPConnection(host, port)) as server:
                    # The signature covers the Host header, so all headers go on as they are.
                    server.putrequest(self.command, self.path, True, True)
                    for name, value in self.headers.items():
                        server.putheader(name, value)
                    server.endheaders(body)
                    answer = server.getresponse()
                    answers.append((answer, answer.read()))

            hook = proxy.hook
            if proxy.status:
                proxy.refused += 1
                proxy.on_refusal()
                self.send_response(proxy.status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if hook is not None and not hook(self.command, self.path, forward):
                self.close_connection = True
                return
            if not answers:
                forward()
            self._answer(*answers[0])

        def _answer(self, answer: http.client.HTTPResponse, data: bytes) -> None:
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in HOP_HEADERS:
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else len(data)
            self.send_header("Content-Length", str(length or 0))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=30)
