"""Rendering to object storage while workers and drivers are killed and requests fail."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import obstore
import pytest
from fault_proxy import Faults, fault_proxy

from cluster.app import main
from shards.manifest import load_manifest
from shards.reader import Request, ShardReader
from shards.store import LocalStore
from shards.verify import verify
from tests.s3_server import BUCKET, S3Server, s3_server

pytestmark = pytest.mark.slow

# Real meshes, enough work for the kills to fall within it.
SIZES = ["source=demo", "shapes_per_shard=6", "capture.num_points=1024"]
SOLID = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 {}\nf 1 3 2\nf 1 2 4\nf 2 3 4\nf 1 4 3\n"
MAY_DIFFER = {"render.done.json"}  # when and how long
DEADLINE_S = 900


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed")
    assert main(["render", f"out={out}", *SIZES]) == 0
    return {name: LocalStore(out).get(name) for name in LocalStore(out).list_names()}


def start(
    out: str, environment: dict[str, str], stdout: int | IO[bytes] = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.app", "render", f"out={out}", *SIZES],
        env=os.environ | environment,
        start_new_session=True,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
    )


def renderers_of(driver: subprocess.Popen[bytes]) -> list[int]:
    """Living processes of the driver's session other than itself and multiprocessing's own."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (
                folder.joinpath("stat").read_text().rpartition(")")[2].split()[:4]
            )
            command = folder.joinpath("cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
        is_other = int(folder.name) == driver.pid or b"resource_tracker" in command
        if int(session) == driver.pid and state != "Z" and not is_other:
            found.append(int(folder.name))
    return found


def wait_until_gone(driver: subprocess.Popen[bytes]) -> None:
    """Orphans end at once, those that were still being started when they find nobody to serve."""
    deadline = time.monotonic() + 60
    while renderers_of(driver):
        assert time.monotonic() < deadline, "workers outlive their driver"
        time.sleep(0.1)


def num_finished(server: S3Server, prefix: str) -> int:
    parts = f"{prefix}/manifest/samples"
    return sum(len(page) for page in obstore.list(server.store(), parts))


def objects_of(server: S3Server, prefix: str) -> dict[str, bytes]:
    store = server.store(prefix)
    names = [entry["path"] for page in obstore.list(store) for entry in page]
    return {name: bytes(obstore.get(store, name).bytes()) for name in names}


def test_kills_and_failing_requests_leave_the_undisturbed_set(server, undisturbed, monkeypatch):
    """A renderer is killed every second or so, the driver twice; 5 % of the requests fail.

    A worker may take longer than that to start: a kill waits for a shard's end.
    """
    dice = random.Random(0)
    faults = Faults(refused=0.03, reset=0.01, answer_lost=0.01, seed=0)
    url, num_killed, driver_kills_at, seen = f"s3://{BUCKET}/killed", 0, [8, 18], 0
    deadline = time.monotonic() + DEADLINE_S
    with fault_proxy(server.port, faults) as port:
        driver = start(url, server.environment(port))
        while driver.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(1)
            finished = num_finished(server, "killed")
            if finished == seen:
                continue
            seen = finished
            if driver_kills_at and finished >= driver_kills_at[0]:
                driver_kills_at.pop(0)
                driver.kill()
                driver.wait()
                wait_until_gone(driver)
                driver = start(url, server.environment(port))
            elif renderers := renderers_of(driver):
                os.kill(dice.choice(renderers), signal.SIGKILL)
                num_killed += 1
    assert driver.returncode == 0
    assert not driver_kills_at
    assert num_killed >= 3
    assert sum(faults.counts.values()) - faults.counts["none"] >= 5, faults
    found = objects_of(server, "killed")
    assert found.keys() == undisturbed.keys()
    assert [
        name for name in undisturbed.keys() - MAY_DIFFER if found[name] != undisturbed[name]
    ] == []
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    assert verify(url).findings == ()


def test_two_jobs_share_one_output_without_damage(server, undisturbed, tmp_path):
    logs = [tmp_path / "first", tmp_path / "second"]
    drivers = []
    for path in logs:
        with path.open("wb") as log:
            drivers.append(start(f"s3://{BUCKET}/shared", server.environment(), log))
    assert [driver.wait(timeout=DEADLINE_S) for driver in drivers] == [0, 0]
    found = objects_of(server, "shared")
    assert found.keys() == undisturbed.keys()
    assert all(found[name] == undisturbed[name] for name in undisturbed.keys() - MAY_DIFFER)
    for path in logs:
        num_shards, num_kept = re.findall(
            r"(\d+)/\1 shards\s+(?:\((\d+) kept\))?", path.read_text()
        )[-1]
        assert int(num_kept or 0) < int(num_shards), "one job did all the work"


def test_meshes_behind_failing_requests_are_all_rendered(server, tmp_path, monkeypatch):
    """A store that fails in passing is never a reject of a mesh, or a texture that is missing."""
    meshes = tmp_path / "meshes"
    meshes.mkdir()
    rows = ["source_id,label,file"]
    for number in range(24):
        text = f"mtllib {number}.mtl\nusemtl red\n" + SOLID.format(number + 1)
        (meshes / f"{number}.obj").write_text(text)
        (meshes / f"{number}.mtl").write_text("newmtl red\nKd 1 0 0\n")
        rows.append(f"{number:02d},solid,s3://{BUCKET}/meshes/{number}.obj")
        for suffix in ("obj", "mtl"):
            path = meshes / f"{number}.{suffix}"
            obstore.put(server.store("meshes"), path.name, path.read_bytes())
    table = tmp_path / "list.csv"
    table.write_text("\n".join(rows) + "\n")
    settings = ["shapes_per_shard=6", "capture.num_points=64", "capture.rig.size_px=16"]
    faults = Faults(refused=0.2, reset=0.1, answer_cut=0.1, seed=0)
    sets = []
    for name, port in (("calm", server.port), ("stormy", None)):
        with fault_proxy(server.port, faults) as faulty:
            for key, value in server.environment(port or faulty).items():
                monkeypatch.setenv(key, value)
            out = tmp_path / name
            assert main(["render", f"source={table}", f"out={out}", *settings]) == 0
        sets.append({name: LocalStore(out).get(name) for name in LocalStore(out).list_names()})
        manifest = load_manifest(out)
        assert (manifest.num_samples, manifest.rejects) == (24, ())
        assert all(not ShardReader(out).read(Request(row)).meta.warnings for row in range(24))
    assert sum(faults.counts.values()) - faults.counts["none"] >= 10, faults
    assert all(sets[0][name] == sets[1][name] for name in sets[0].keys() - MAY_DIFFER)
