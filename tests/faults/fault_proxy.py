"""An HTTP proxy that fails: refuses, breaks off, or loses the answer of what it carried out."""

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(slots=True)
class Faults:
    """How often what goes wrong, as shares of all requests, and how often it did.

    Attributes:
        refused: answered with 503, never forwarded.
        reset: the connection is reset before the request is forwarded.
        answer_lost: the request is carried out, and its answer is lost.
        answer_cut: the answer's body breaks off half way.
        delay_s: before anything is done, as a store far away would take.
        seed: of the dice.
        cut_at: number of the request, counted from 0, of whose body only a share is forwarded.
        cut_share: that share.
        on_cut: called then; the client gets no answer.
    """

    refused: float = 0.0
    reset: float = 0.0
    answer_lost: float = 0.0
    answer_cut: float = 0.0
    delay_s: float = 0.0
    seed: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    cut_at: int = -1
    cut_share: float = 0.5
    on_cut: Callable[[], None] | None = None


@contextmanager
def fault_proxy(server_port: int, faults: Faults) -> Generator[int]:
    """Stand before a server on this machine; give the port to use instead of the server's."""
    proxy = _Proxy(server_port, faults)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield proxy.server_address[1]
    finally:
        proxy.shutdown()
        proxy.server_close()


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, server_port: int, faults: Faults) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream_port, self.faults = server_port, faults
        self._dice, self._lock = random.Random(faults.seed), threading.Lock()

    def draw_fault(self) -> str:
        names = ("refused", "reset", "answer_lost", "answer_cut")
        with self._lock:
            if sum(self.faults.counts.values()) == self.faults.cut_at:
                self.faults.counts["cut"] += 1
                return "cut"
            weights = [getattr(self.faults, name) for name in names]
            (fault,) = self._dice.choices([*names, "none"], [*weights, 1 - sum(weights)])
            self.faults.counts[fault] += 1
            return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Proxy

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # the client was killed
            self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def forward(self) -> None:
        fault = self.server.draw_fault()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        time.sleep(self.server.faults.delay_s)
        if fault == "refused":
            self._answer(503, [("Content-Length", "0")], b"")
            return
        if fault == "reset":
            self._reset()
            return
        if fault == "cut":
            self._cut(body)
            return
        status, headers, content = self._carry_out(body)
        if fault == "answer_lost":
            self._reset()
        elif fault == "answer_cut" and len(content) > 1:
            self._answer(status, headers, content[: len(content) // 2])
            self._reset()
        else:
            self._answer(status, headers, content)

    def _cut(self, body: bytes) -> None:
        """Forward the beginning of a request, and have the client ended."""
        faults = self.server.faults
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream_port, timeout=60)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            upstream.putheader(name, value)
        upstream.endheaders(body[: int(len(body) * faults.cut_share)] or None)
        if faults.on_cut is not None:
            faults.on_cut()
        upstream.close()
        self.close_connection = True

    def _carry_out(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream_port, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                upstream.putheader(name, value)
            upstream.endheaders(body or None)
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        headers = [
            (name, value)
            for name, value in answer.getheaders()
            if name.lower() not in ("transfer-encoding", "connection", "content-length")
        ]
        length = answer.getheader("Content-Length") or str(len(content))
        return answer.status, [*headers, ("Content-Length", length)], content

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def _reset(self) -> None:
        """Close at once, without the goodbye of TCP."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward  # noqa: N815
