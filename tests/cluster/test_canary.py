"""Secrets of the environment and of URLs are in nothing that a run writes."""

import base64
import gzip
import io
import json
import os
import secrets
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import obstore
import pyarrow
import pyarrow.parquet
import pytest
from every_byte import holds, places_of
from s3_server import BUCKET, S3Server, s3_server
from tiny_run import TINY_RUN

from cluster.app import main
from cluster.trials_on_ray import leave_secrets_where_they_are
from picpoint.render.sources import CATALOGUE
from shards.errors import UrlError
from shards.remote import RemoteStore
from shards.secret_urls import holds_secret, without_secrets
from shards.store import open_store

ROOT = Path(__file__).parents[2]
SOLID = "OFF\n4 4 6\n0 0 0\n1 0 0\n0 1 0\n0 0 {}\n3 0 2 1\n3 0 1 3\n3 0 3 2\n3 1 2 3\n"
CANARY = "canary-" + secrets.token_hex(12)
# What a user may have in the environment; the server's own key is the one that is really used.
SECRETS = {
    name: f"{CANARY}-{number}"
    for number, name in enumerate(
        (
            *(
                "HF_TOKEN",
                "WANDB_API_KEY",
                "MLFLOW_TRACKING_PASSWORD",
                "GOOGLE_SERVICE_ACCOUNT_KEY",
            ),
            *("AZURE_STORAGE_ACCOUNT_KEY", "SOME_PASSWORD", "RAY_AUTH_TOKEN"),
        )
    )
}


def packed(kind: str) -> bytes:
    """The canary inside some file."""
    content, file = b"some " + CANARY.encode() + b" thing", io.BytesIO()
    match kind:
        case "plain":
            return content
        case "wide":
            return CANARY.encode("utf-16-le")
        case "gzip":
            return gzip.compress(content)
        case "zip":
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("a.txt", content)
        case "gzip in tar":
            with tarfile.open(fileobj=file, mode="w") as archive:
                member = tarfile.TarInfo("a.gz")
                member.size = len(packed("gzip"))
                archive.addfile(member, io.BytesIO(packed("gzip")))
        case "parquet":
            table = pyarrow.table({"a": [CANARY]})
            pyarrow.parquet.write_table(table, file, compression="zstd")
        case "base64":
            return b'<img src="data:text/plain;base64,' + base64.b64encode(content) + b'">'
        case _:
            raise AssertionError(kind)
    return file.getvalue()


@pytest.mark.parametrize(
    "kind", ["plain", "wide", "gzip", "zip", "gzip in tar", "parquet", "base64"]
)
def test_the_search_finds_what_is_packed(kind: str, tmp_path: Path):
    (tmp_path / "file").write_bytes(packed(kind))
    assert places_of(CANARY, tmp_path) == ["file"]
    assert not holds(packed(kind), CANARY[:-1] + "!")


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:{}@bucket/set",
        "s3://:{}@bucket/set",
        "https://host/mesh.glb?X-Amz-Algorithm=A&X-Amz-Signature={}",
        "az://container/set?sv=1&sig={}",
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    place = url.format(CANARY)
    with pytest.raises(UrlError, match="environment") as raised:
        open_store(place)
    assert CANARY not in str(raised.value)
    for arguments in (
        ["render", "source=demo", f'out="{place}"'],
        ["pretrain", f'data.shards="{place}"', f"out={tmp_path / 'run'}"],
        ["pretrain", "data.shards=s", f"out={tmp_path / 'run'}", f'checkpoints="{place}"'],
        ["tune", f"out={tmp_path / 'run'}", f"study.more=['pretrain.data.shards=\"{place}\"']"],
    ):
        assert main(arguments) == 2
        told = capsys.readouterr()
        assert CANARY not in told.out + told.err
        assert "environment" in told.err
    assert list(tmp_path.iterdir()) == []


def test_ordinary_urls_hold_no_secret():
    for url in ("s3://b/a", "az://c@account/x", "http://h:8265/a?b=1", "gs://b/a:b@c", "C:/a@b"):
        assert not holds_secret(url)


def test_an_endpoint_with_a_password_is_not_shown_in_errors(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://me:{CANARY}@127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    monkeypatch.setattr("shards.remote._RETRIES_OF_A_REQUEST", 0)
    with pytest.raises(Exception, match="endpoint") as raised:
        RemoteStore.size.__wrapped__(RemoteStore(f"s3://{BUCKET}"), "x")  # type: ignore[attr-defined]
    assert CANARY not in str(raised.value)
    assert without_secrets(f"http://u:p@h/x?sig={CANARY} in 1s") == "http://h/x in 1s"


@pytest.mark.ray
def test_tune_hands_no_keys_to_its_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray shows what is handed on in its logs; a trial has its machine's own."""
    from ray.tune.execution import class_cache

    monkeypatch.setattr(
        class_cache, "ENV_VARS_TO_PROPAGATE", set(class_cache.ENV_VARS_TO_PROPAGATE)
    )
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    monkeypatch.setenv("RAY_CHDIR_TO_TRIAL_DIR", "0")

    class Trial:
        pass

    def handed_on() -> dict[str, str]:
        actor = class_cache._ActorClassCache().get(Trial)
        return actor._default_options["runtime_env"]["env_vars"]

    assert handed_on()["AWS_SECRET_ACCESS_KEY"] == CANARY, "Ray has mended it: so can we"
    leave_secrets_where_they_are()
    assert CANARY not in handed_on().values()
    assert handed_on()["RAY_CHDIR_TO_TRIAL_DIR"] == "0"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


def solids(folder: Path) -> Path:
    """Meshes of two classes, with a catalogue."""
    folder.mkdir()
    rows = ["source_id,label,file"]
    for number in range(24):
        label = ("flat", "tall")[number % 2]
        height = (0.2, 2.0)[number % 2] + number / 50
        name = f"{number}.off"
        (folder / name).write_text(SOLID.format(height))
        rows.append(f"{label}/{number},{label},{name}")
    (folder / CATALOGUE).write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.slow
@pytest.mark.ray
def test_nothing_that_a_run_writes_holds_a_secret(
    server: S3Server, shard_set: Path, tmp_path: Path
) -> None:
    """Render, pre-training, evaluation, report, export, a study on Ray, a dry submission."""
    key = server.environment()["AWS_SECRET_ACCESS_KEY"]
    home, written = tmp_path / "home", tmp_path / "written"
    home.mkdir()
    # Short: the names of Ray's sockets have to fit into 107 bytes.
    ray_folder = Path(f"/tmp/c{secrets.token_hex(3)}")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AWS_"))}
    environment |= server.environment() | SECRETS
    environment |= {
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "RAY_TMPDIR": str(ray_folder),
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
    }
    ray_folder.mkdir()
    shards, url = f"s3://{BUCKET}/shards", f"s3://{BUCKET}"
    tiny = [*TINY_RUN, "global_batch=4", "ghost_batch=2", "epochs=1"]
    small = [f"source={solids(tmp_path / 'meshes')}", "capture.num_points=128"]
    run, evaluation = written / "run", written / "evaluation"
    more = [f"pretrain.{each}" for each in (*tiny[1:], "trackers=[]", "probe.every=0")]
    commands = [
        ["render", f"out={shards}", *small, "capture.rig.size_px=64"],
        [
            *("pretrain", f"data.shards={shards}", f"out={run}", f"checkpoints={url}/checkpoints"),
            *(*tiny, "data.holdout.fold=0", f"data.cache_dir={written / 'cache'}"),
        ],
        ["evaluate", f"runs=[{run}]", f"out={evaluation}", "encode.views=1"],
        ["report", str(evaluation), f"out={written / 'report'}"],
        ["export", f"run={run}", f"out={written / 'encoder'}", "license=apache-2.0"],
        [
            *("tune", "study=ablations", f"shards={shards}", f"out={written / 'study'}"),
            f"study.more={json.dumps([*more[:-1], 'pretrain.probe.per_class=2'])}",
            "study.variants=[{name: full, overrides: []}]",
            "study.parameters=[{key: pretrain.seed, values: [0]}]",
        ],
        ["submit", "pretrain", f"data.shards={shards}", f"out={run}", "--dry-run"],
        ["doctor"],
    ]
    written.mkdir()
    try:
        for number, command in enumerate(commands):
            with (written / f"{number}-{command[0]}.log").open("wb") as log:
                code = subprocess.run(
                    [sys.executable, "-m", "cluster.app", *command],
                    env=environment,
                    cwd=written,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=600,
                ).returncode
            assert code == 0, (written / f"{number}-{command[0]}.log").read_text()[-2000:]
        fetched = tmp_path / "objects"
        for page in obstore.list(server.store()):
            for entry in page:
                path = fetched / entry["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(bytes(obstore.get(server.store(), entry["path"]).bytes()))
        # That the search had something to search in.
        names = {path.name for path in (*written.rglob("*"), *fetched.rglob("*")) if path.is_file()}
        assert {"shard-000000.tar", "manifest.json", "metrics.jsonl", "results.json"} <= names
        assert {"report.html", "study.json", "pretrain.yaml", "model.safetensors"} <= names
        assert any(name.endswith(".pt") for name in names), names
        for secret in (key, CANARY):
            for folder in (written, fetched, home, ray_folder):
                assert places_of(secret, folder) == [], (secret, folder)
    finally:
        subprocess.run(["rm", "-rf", str(ray_folder)], check=True)
