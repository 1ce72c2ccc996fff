"""Azurite, Microsoft's emulator of Azure Blob Storage, on this machine, for tests.

An npm package: `npm install --global --prefix .venv azurite@3`.
"""

import base64
import email.utils
import hashlib
import hmac
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

from tests.s3_server import BUCKET, free_port

# Made up: the server takes them from its environment.
_ACCOUNT, _KEY = "picpoint", base64.b64encode(b"picpoint-test-secret").decode()
_START_S = 60.0


@dataclass(frozen=True, slots=True)
class AzureServer:
    """A running server.

    Attributes:
        port: on the loopback address.
        scheme: of its URLs.
    """

    port: int
    scheme: str = "az"

    def environment(self, port: int | None = None) -> dict[str, str]:
        """What a client needs; through another port where a proxy stands before the server."""
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": _ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": _KEY,
            "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{port or self.port}/{_ACCOUNT}",
        }


def azurite() -> str | None:
    """Find the program, on PATH or beside this Python."""
    return shutil.which("azurite-blob", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@contextmanager
def azure_server(folder: Path) -> Generator[AzureServer]:
    """Run a server with one container, which keeps its objects in a folder."""
    program = azurite()
    assert program, "azurite is not installed: npm install --global --prefix .venv azurite@3"
    folder.mkdir(parents=True, exist_ok=True)
    server = AzureServer(free_port())
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(program, "--silent", "--disableTelemetry", "--location", str(folder)),
                *("--blobHost", "127.0.0.1", "--blobPort", str(server.port)),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"AZURITE_ACCOUNTS": f"{_ACCOUNT}:{_KEY}"},
        )
    try:
        _make_container(server, process, folder / "server.log")
        yield server
    finally:
        process.kill()
        process.wait()


def _make_container(server: AzureServer, process: subprocess.Popen[bytes], log: Path) -> None:
    """Ask until the server answers; obstore makes no containers."""
    deadline = time.monotonic() + _START_S
    while True:
        try:
            with urllib.request.urlopen(_request_for_container(server.port), timeout=10):
                return
        except (URLError, ConnectionError, TimeoutError):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)


def _request_for_container(port: int) -> urllib.request.Request:
    """Sign a request by Azure's Shared Key."""
    told = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    lines = [f"{name}:{value}" for name, value in told.items()]
    place = f"/{_ACCOUNT}/{_ACCOUNT}/{BUCKET}"
    text = "\n".join(["PUT", *[""] * 11, *lines, place, "restype:container"])
    digest = hmac.digest(base64.b64decode(_KEY), text.encode(), hashlib.sha256)
    signature = base64.b64encode(digest).decode()
    return urllib.request.Request(
        f"http://127.0.0.1:{port}/{_ACCOUNT}/{BUCKET}?restype=container",
        method="PUT",
        headers={
            **told,
            "Authorization": f"SharedKey {_ACCOUNT}:{signature}",
            "Content-Length": "0",
        },
    )
