"""A Ray cluster on this machine as `ray start --head` makes it, with its dashboard and a token."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from growing_cluster import processes_of


@dataclass(frozen=True, slots=True)
class HeadNode:
    """Where the cluster is, and what its clients need in their environment."""

    url: str
    access: dict[str, str]
    without_token: dict[str, str]
    gcs_address: str


@contextmanager
def head_node(num_cpus: int, metrics_port: int | None = None) -> Generator[HeadNode]:
    """Start a cluster of one node, and end it; other clusters of this machine are left alone."""
    # Short: the names of Ray's sockets have to fit into 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    (folder / "home").mkdir()
    (folder / "token").write_text(secrets.token_hex(32))
    # A HOME of its own, or a token of other clusters might be found there.
    without_token = {"HOME": str(folder / "home")}
    access = without_token | {"RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    port, dashboard_port = free_port(), free_port()
    ray = Path(sys.executable).parent / "ray"
    # The cluster's `python` is this one, as in an image that has picpoint.
    path = f"{ray.parent}{os.pathsep}{os.environ['PATH']}"
    # Nor may it find the code of this folder by itself: jobs bring it.
    ours = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("RAY_")}
    try:
        subprocess.run(
            [
                *(ray, "start", "--head", f"--port={port}", f"--num-cpus={num_cpus}"),
                *("--disable-usage-stats", "--include-dashboard=true", f"--temp-dir={folder}/t"),
                f"--dashboard-port={dashboard_port}",
                *("--dashboard-host=0.0.0.0", f"--dashboard-agent-listen-port={free_port()}"),
                f"--metrics-export-port={metrics_port or free_port()}",
            ],
            env=ours | access | {"RAY_AUTH_MODE": "token", "PATH": path},
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
        )
        yield HeadNode(
            f"http://127.0.0.1:{dashboard_port}", access, without_token, f"127.0.0.1:{port}"
        )
    finally:
        for pid in processes_of(folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]
