"""Render, pre-train and tune on a cluster of three raylets, with kills and failing requests.

`make soak`. Six kills, two in each phase: of a worker and of a whole node; 5 % of the requests to
the object store fail. What comes out is what an undisturbed machine makes; no process is left, and
those that live long hold no more memory or open files at the end than early on.
"""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fault_proxy import Faults, fault_proxy
from raylets import Raylets, raylets
from run_folders import digest_of_weights, steps_logged
from test_render_faults import MAY_DIFFER, num_finished, objects_of
from tiny_run import TINY_RUN

from cluster.app import main
from cluster.trial import load_result
from picpoint.assets import DEMO_SHAPES
from picpoint.render.sources import CATALOGUE, list_shapes
from shards.store import LocalStore
from tests.s3_server import BUCKET, S3Server, s3_server

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.ray, pytest.mark.timeout(7200)]

DEADLINE_S = 1500
URL = f"s3://{BUCKET}"
RENDER = [
    *("render", "shapes_per_shard=2", "capture.rig.size_px=64", "capture.num_points=256"),
]
TRAIN = [
    *(*TINY_RUN[1:], f"data.shards={URL}/shards", "global_batch=8", "ghost_batch=4", "epochs=30"),
    *("checkpoint_every=4", "log_every=1", "trackers=[]", "runtime.use_gpu=false"),
    *("runtime.num_workers=2", "runtime.threads_per_worker=1", "runtime.max_failures=10"),
]
TRIAL = [
    *(*TINY_RUN[1:], "global_batch=8", "ghost_batch=4", "epochs=20", "trackers=[]", "log_every=1"),
    *("probe.per_class=2", "runtime.use_gpu=false", "checkpoint_every=4"),
]
SEEDS = (0, 1)
# Of the second quarter of a process's life to its last: memory may wobble, a leak grows on.
MAY_GROW_MEMORY, MAY_GROW_FILES = 1.25, 8


@dataclass(slots=True)
class Watch:
    """Looks at processes once a second while a phase goes on.

    Attributes:
        pids: which ones, asked anew each time.
        seen: MB of memory and open files of each process, at every look.
    """

    pids: Callable[[], list[int]]
    seen: dict[int, list[tuple[float, int]]] = field(default_factory=dict)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> "Watch":
        self._thread = threading.Thread(target=self._look_on)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        assert self._thread is not None
        self._thread.join()

    def _look_on(self) -> None:
        while not self._ended.wait(1.0):
            for pid in self.pids():
                process = Path(f"/proc/{pid}")
                try:
                    pages = int((process / "statm").read_text().split()[1])
                    files = len(list((process / "fd").iterdir()))
                except OSError:  # it has just ended
                    continue
                self.seen.setdefault(pid, []).append((pages * 4096 / 1e6, files))

    def growth(self) -> list[tuple[float, int, int]]:
        """Growth of memory (ratio) and of open files, and looks, of all that lived for a while."""
        grown = []
        for looks in self.seen.values():
            quarter = len(looks) // 4
            if quarter >= 5:
                early, late = looks[quarter : 2 * quarter], looks[-quarter:]
                (mb, files), (mb_late, files_late) = (
                    [statistics.median(column) for column in zip(*each, strict=True)]
                    for each in (early, late)
                )
                grown.append((mb_late / mb, int(files_late - files), len(looks)))
        return grown


@dataclass(slots=True)
class Kills:
    """Kills workers and nodes of a cluster, and brings new nodes."""

    cluster: Raylets
    nodes: list[int]
    dice: random.Random
    count: int = 0

    def worker(self, name: bytes) -> bool:
        """Kill a process by its name, if there is one."""
        pids = self.cluster.pids(name)
        if pids:
            os.kill(self.dice.choice(pids), signal.SIGKILL)
            self.count += 1
        return bool(pids)

    def node(self) -> bool:
        """Kill a node, and start another."""
        self.cluster.kill(self.nodes.pop(self.dice.randrange(len(self.nodes))))
        self.nodes.append(self.cluster.add(1))
        self.count += 1
        return True


def real_meshes(folder: Path) -> Path:
    """Ten shapes of each of four classes of the demo, with their labels."""
    shapes = list_shapes(DEMO_SHAPES)
    rows, counts = ["source_id,label,file"], Counter(each.label for each in shapes if each.label)
    kept = Counter[str]()
    with zipfile.ZipFile(DEMO_SHAPES) as pack:
        for shape in shapes:
            label = shape.label or ""
            if label in dict(counts.most_common(4)) and kept[label] < 10:
                kept[label] += 1
                pack.extract(shape.file, folder)
                rows.append(f"{shape.source_id},{label},{shape.file}")
    (folder / CATALOGUE).write_text("\n".join(rows) + "\n")
    assert len(rows) == 41
    return folder


def picpoint(environment: dict[str, str], *words: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.app", *words], env=environment, start_new_session=True
    )


def run_with_kills(
    driver: "subprocess.Popen[bytes]",
    progress: Callable[[], int],
    due: list[tuple[int, Callable[[], bool]]],
) -> int:
    """Wait for a command; kill when it has come so far. Gives its exit code."""
    deadline = time.monotonic() + DEADLINE_S
    while driver.poll() is None:
        assert time.monotonic() < deadline, f"still {len(due)} kills to come at {progress()}"
        time.sleep(0.1)
        if due and progress() >= due[0][0] and due[0][1]():
            due.pop(0)
    assert due == [], "it was done before all kills"
    return driver.returncode


def wait_until_gone(pids: Callable[[], list[int]]) -> None:
    deadline = time.monotonic() + 60
    while found := pids():
        assert time.monotonic() < deadline, f"{found} outlive their job"
        time.sleep(0.5)


def left_over(driver: "subprocess.Popen[bytes]") -> list[str]:
    """Living processes of a command's session, as /proc names them, a while after its end."""
    deadline = time.monotonic() + 30
    while True:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                told = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(told[3]) == driver.pid and told[0] != "Z":
                    found.append((folder / "cmdline").read_text())
            except OSError:
                continue
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


def test_a_day_of_trouble_changes_nothing(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    calm, render = tmp_path / "calm", [*RENDER, f"source={real_meshes(tmp_path / 'meshes')}"]
    assert main([*render, f"out={calm / 'shards'}"]) == 0
    expected = LocalStore(calm / "shards")
    faults = Faults(refused=0.03, reset=0.01, answer_lost=0.01, seed=0)
    with (
        fault_proxy(server.port, faults) as port,
        raylets(1, 1, 1, environment=server.environment(port)) as cluster,
    ):
        clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        environment = clean | cluster.access | server.environment(port)
        kills = Kills(cluster, [0, 1, 2], random.Random(0))
        grown: dict[str, list[tuple[float, int, int]]] = {}

        # Rendering: every byte as undisturbed.
        on_ray = ["fleet=ray", f"fleet.address={cluster.address}", "fleet.max_workers=3"]
        driver = picpoint(environment, *render, f"out={URL}/shards", *on_ray)
        with Watch(lambda: [driver.pid]) as watch:
            due = [(2, lambda: kills.worker(b"ray::finish_shard")), (6, kills.node)]
            assert run_with_kills(driver, lambda: num_finished(server, "shards"), due) == 0
        grown["render"] = watch.growth()
        assert left_over(driver) == []
        found = objects_of(server, "shards")
        assert found.keys() == {*expected.list_names()}
        assert all(found[name] == expected.get(name) for name in found.keys() - MAY_DIFFER)

        # Pre-training: the weights of an undisturbed run of two ranks.
        out = tmp_path / "run"
        ranks = ["runtime=ray", f"runtime.address={cluster.address}"]
        driver = picpoint(
            environment,
            *("pretrain", f"out={out}", f"checkpoints={URL}/checkpoints", *ranks, *TRAIN),
        )
        watched = lambda: [driver.pid, *cluster.pids(b"ray::RayTrainWorker")]  # noqa: E731
        with Watch(watched) as watch:
            due = [(20, lambda: kills.worker(b"ray::RayTrainWorker")), (60, kills.node)]
            assert run_with_kills(driver, lambda: (steps_logged(out) or [0])[-1], due) == 0
        grown["pretrain"] = watch.growth()
        assert left_over(driver) == []
        wait_until_gone(lambda: cluster.pids(b"ray::RayTrainWorker"))
        assert steps_logged(out) == list(range(1, steps_logged(out)[-1] + 1))
        assert main(["pretrain", f"out={calm / 'run'}", "runtime=local", *TRAIN]) == 0
        assert digest_of_weights(f"{URL}/checkpoints") == digest_of_weights(
            calm / "run" / "checkpoints"
        )

        # A study: trials that were lost are run again by the same command; figures as undisturbed.
        study = tmp_path / "study"
        command = [
            *("tune", "study=ablations", f"shards={URL}/shards", f"out={study}"),
            f"trial.address={cluster.address}",
            "study.variants=[{name: full, overrides: []}]",
            f"study.parameters=[{{key: pretrain.seed, values: {list(SEEDS)}}}]",
            f"study.more={json.dumps([f'pretrain.{each}' for each in TRIAL])}",
        ]
        due = [
            (4, lambda: kills.worker(b"from cluster.app import main")),
            (8, kills.node),
        ]
        driver = picpoint(environment, *command)
        with Watch(lambda: [driver.pid]) as watch:
            run_with_kills(driver, lambda: steps_of_trials(study), due)
        grown["tune"] = watch.growth()
        for _ in range(3):
            assert left_over(driver) == []
            if all(result == "done" for result in states_of(study)):
                break
            driver = picpoint(environment, *command, "retry_failed=true")
            driver.wait(DEADLINE_S)
        assert driver.returncode == 0
        assert states_of(study) == ["done"] * len(SEEDS)
        wait_until_gone(lambda: cluster.pids(b"from cluster.app import main"))
        assert kills.count == 6
        everything = cluster.process.pid
    assert not Path(f"/proc/{everything}").exists()
    for seed in SEEDS:
        alone = calm / f"trial-{seed}"
        local = [*TRIAL, f"seed={seed}", "data.holdout.validation_fold=1", "runtime=local"]
        more = [f"data.shards={URL}/shards", f"out={alone}", "probe.every=1000000000"]
        assert main(["pretrain", *local, *more]) == 0
    figures = sorted(figures_of(study))
    alone = [read_last(calm / f"trial-{seed}" / "probes.jsonl") for seed in SEEDS]
    assert figures == sorted(alone)
    failed = sum(faults.counts.values()) - faults.counts["none"]
    print(f"requests {sum(faults.counts.values())}, failed {failed}; growth {grown}")
    assert failed >= 20
    watched_long = [each for phase in grown.values() for each in phase]
    assert len(watched_long) >= 2
    assert [g for g in watched_long if g[0] > MAY_GROW_MEMORY or g[1] > MAY_GROW_FILES] == []


def steps_of_trials(study: Path) -> int:
    logs = study.glob("trials/*/pretrain/metrics.jsonl")
    return max((len(path.read_text().splitlines()) for path in logs), default=0)


def states_of(study: Path) -> list[str]:
    results = [load_result(path.parent) for path in sorted(study.glob("trials/*/trial.json"))]
    return ["lost" if each is None else each.state for each in results]


def figures_of(study: Path) -> list[float | None]:
    results = [load_result(path.parent) for path in sorted(study.glob("trials/*/trial.json"))]
    return [each.figure for each in results if each is not None]


def read_last(path: Path) -> float:
    return json.loads(path.read_text().splitlines()[-1])["accuracy"]
