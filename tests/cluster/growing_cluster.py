"""A Ray cluster on this machine that grows and shrinks: a head without work, and fake nodes.

`ray.cluster_utils.AutoscalingCluster` does the same, but reads a file that Ray's wheels lack, and
stops every other Ray cluster of the machine when it starts and ends.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

_NOTHING = ("initialization", "setup", "head_setup", "worker_setup")


# Where the fake nodes look for their head.
_PORT = 6379


@contextmanager
def growing_cluster(max_nodes: int, idle_minutes: float) -> Generator[tuple[str, dict[str, str]]]:
    """Start a cluster whose nodes have one CPU each.

    Its clients must be processes of their own: Ray reads its token once.

    Returns:
        The cluster's address, and the environment that its clients need.
    """
    # Short: the names of Ray's sockets have to fit into 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    (folder / "config.json").write_text(json.dumps(_config(max_nodes, idle_minutes)))
    (folder / "token").write_text(secrets.token_hex(32))
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    faking = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    ray = Path(sys.executable).parent / "ray"
    try:
        subprocess.run(
            [
                *(
                    ray,
                    "start",
                    "--head",
                    f"--port={_PORT}",
                    "--num-cpus=0",
                    "--disable-usage-stats",
                ),
                *("--include-dashboard=false", f"--temp-dir={folder}/t"),
                f"--autoscaling-config={folder}/config.json",
            ],
            env=os.environ | access | faking,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        yield f"127.0.0.1:{_PORT}", access
    finally:
        for pid in processes_of(folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def _config(max_nodes: int, idle_minutes: float) -> dict[str, object]:
    return {
        "cluster_name": "growing",
        "max_workers": max_nodes,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": idle_minutes,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,  # all nodes share this machine's
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        **{f"{name}_commands": [] for name in _NOTHING},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {
                "resources": {"CPU": 1},
                "node_config": {},
                "min_workers": 0,
                "max_workers": max_nodes,
            },
        },
    }


def processes_of(folder: Path) -> list[int]:
    """Processes of the cluster: Ray tells each of them its folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(folder).encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return [pid for pid in found if pid != os.getpid()]
