"""A Ray cluster of several raylets on this machine, of which any can be killed and others added.

`ray.cluster_utils.Cluster`, in a process of its own: it wants the main thread, a process reads
Ray's token but once, and a cluster's address is written where others on this machine look for it.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Started = TypeVar("Started")


@dataclass(frozen=True, slots=True)
class Raylets:
    """A running cluster: a head without CPUs, and nodes by number, from 0.

    Attributes:
        address: what a client gives as `address`.
        access: what a client needs in its environment.
        process: that keeps the cluster; all others descend from it.
    """

    address: str
    access: dict[str, str]
    process: "subprocess.Popen[str]"

    def add(self, num_cpus: int) -> int:
        """Start a node; give its number."""
        return int(self._ask(["add", num_cpus]))

    def kill(self, node: int) -> None:
        """Kill a node's raylet, without notice; its workers end with it."""
        self._ask(["kill", node])

    def give_notice(self, node: int, seconds: int) -> None:
        """Tell Ray that a node will be taken in so many seconds, as a cloud tells of a spot one."""
        self._ask(["give notice", node, seconds])

    def pids(self, name: bytes) -> list[int]:
        """Find living processes of the cluster by what their command line holds.

        Those that descend from it, and those whose environment names it: an orphan has another
        parent, and a worker of Ray writes its title over its environment.
        """
        parents, names, told_of_it = {}, {}, set[int]()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                told = folder.joinpath("stat").read_text().rpartition(")")[2].split()
                names[int(folder.name)] = folder.joinpath("cmdline").read_bytes()
                if self.access["RAY_TMPDIR"].encode() in folder.joinpath("environ").read_bytes():
                    told_of_it.add(int(folder.name))
            except OSError:  # it has just ended
                continue
            if told[0] != "Z":
                parents[int(folder.name)] = int(told[1])

        def is_below(pid: int) -> bool:
            return pid == self.process.pid or (pid in parents and is_below(parents[pid]))

        return [
            pid for pid in parents if name in names[pid] and (pid in told_of_it or is_below(pid))
        ]

    def _ask(self, words: list[object]) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the cluster's process has ended"
        return answer.strip()


@contextmanager
def raylets(*num_cpus: int, environment: Mapping[str, str] = {}) -> Generator[Raylets]:
    """Start a cluster with nodes of so many CPUs, and end it with all that it started."""
    # Short: the names of Ray's sockets have to fit into 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    (folder / "ray").mkdir()  # where Ray writes down the newest cluster's address
    (folder / "token").write_text(secrets.token_hex(32))
    access = {
        "HOME": str(folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_TMPDIR": str(folder),
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, __file__, str(folder)],
        env=clean | access | dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "the cluster did not start"
        cluster = Raylets(address, access, process)
        for number in num_cpus:
            cluster.add(number)
        yield cluster
    finally:
        _end(process, folder)


def _end(process: "subprocess.Popen[str]", folder: Path) -> None:
    """Ask the cluster to end, and see to what is left of it."""
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        with suppress(OSError):
            stream.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(60)
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            is_of_it = str(folder).encode() in path.joinpath("environ").read_bytes()
            if is_of_it and int(path.name) != os.getpid():
                os.kill(int(path.name), signal.SIGKILL)
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def _serve(folder: str) -> None:
    """Be the cluster's process: do what the lines of stdin say, answer each with a line."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": f"{folder}/t"}
    cluster = _patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
    nodes = []
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Ray prints, too
    answers.write(f"{cluster.address}\n")
    for line in sys.stdin:
        match json.loads(line):
            case ["add", int(num_cpus)]:
                nodes.append(_patiently(lambda n=num_cpus: cluster.add_node(num_cpus=n)))
                answers.write(f"{len(nodes) - 1}\n")
            case ["kill", int(number)]:
                cluster.remove_node(nodes[number], allow_graceful=False)
                answers.write("killed\n")
            case ["give notice", int(number), int(seconds)]:
                _drain(cluster.address, nodes[number].node_id, seconds)
                answers.write("given\n")
            case other:
                raise ValueError(other)
    cluster.shutdown()


def _drain(address: str, node: str, seconds: int) -> None:
    script = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "drain-node"]
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    deadline = ["--deadline-remaining-seconds", str(seconds)]
    told = [*script, "--address", address, "--node-id", node, *reason, *deadline]
    subprocess.run(told, check=True, stdout=sys.stderr)


def _patiently(start: Callable[[], Started]) -> Started:
    """Start a node again that was not up within Ray's 30 s, as on a machine that others use."""
    for _ in range(9):
        try:
            return start()
        except Exception as error:
            if "timed out" not in str(error):
                raise
    return start()


if __name__ == "__main__":
    _serve(sys.argv[1])
