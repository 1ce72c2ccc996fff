"""`picpoint export`: others load the trained encoder, and nothing of this machine goes along."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_run import TINY_RUN

import picpoint
from cluster.app import main
from picpoint.ops.sampling import farthest_points, take_rows
from picpoint.train.checkpoint import newest_checkpoint
from picpoint.weights import hub
from picpoint.weights.card import Card, format_card


def pretrain(shard_set: Path, out: Path, *more: str) -> Path:
    command = ["pretrain", f"data.shards={shard_set}", f"out={out}", "epochs=2", *more]
    assert main([*command, "global_batch=4", "ghost_batch=2", *TINY_RUN]) == 0
    return out


@pytest.fixture(scope="module")
def run(shard_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(shard_set, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    out = run.with_name("encoder")
    arguments = [f"run={run}", f"out={out}", "license=cc-by-4.0", "onnx=true"]
    # In a process of its own: the checks of shapes that tests switch on cannot be traced.
    subprocess.run([sys.executable, "-m", "cluster.app", "export", *arguments], check=True)
    return out


def clouds(count: int) -> torch.Tensor:
    points = torch.randn(count, 48, 3, generator=torch.Generator().manual_seed(0))
    points /= points.norm(dim=-1, keepdim=True)
    return take_rows(points, farthest_points(points, 48))


def test_what_is_loaded_is_what_was_trained(run: Path, exported: Path) -> None:
    checkpoint, _ = newest_checkpoint(run / "checkpoints")
    assert checkpoint is not None
    state = picpoint.load(exported).state_dict()
    assert state
    for name, value in state.items():
        assert torch.equal(value, checkpoint.state["model"][f"point_encoder.{name}"])


def test_loading_needs_neither_ray_nor_hydra_nor_configs(exported: Path) -> None:
    code = (
        "import sys, picpoint; picpoint.load(sys.argv[1]); "
        "print(sorted({'ray', 'hydra', 'omegaconf', 'configs', 'cluster'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(exported)]
    assert subprocess.run(command, capture_output=True, text=True).stdout.strip() == "[]"


def test_no_path_of_this_machine_goes_along(run: Path, exported: Path) -> None:
    for path in exported.iterdir():
        content = path.read_bytes()
        assert str(run.parent).encode() not in content
        assert b"shard_set" not in content
    card = (exported / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\nlibrary_name: picpoint\n")
    assert "| point\\_encoder.pooled\\_width | 16 |" in card
    assert "Not evaluated." in card


def test_a_card_tells_that_its_run_paused(shard_set: Path, tmp_path: Path) -> None:
    run, out = pretrain(shard_set, tmp_path / "run", "pause_after=1"), tmp_path / "encoder"
    assert main(["export", f"run={run}", f"out={out}", "license=cc0-1.0"]) == 0
    card = (out / "README.md").read_text()
    assert "| epochs | 2 |" in card
    assert "| pause\\_after | 1 |" in card


def test_onnx_gives_the_same_features_for_batches_of_any_size(exported: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    encoder = picpoint.load(exported)
    for count in (1, 3):
        points = clouds(count)
        features = encoder(points)
        pooled, local = session.run(None, {"points": points.numpy()})
        torch.testing.assert_close(torch.from_numpy(pooled), features.pooled, rtol=0, atol=1e-4)
        torch.testing.assert_close(torch.from_numpy(local), features.local, rtol=0, atol=1e-4)


def test_an_unfinished_run_is_exported_only_if_asked_for(run: Path, capsys) -> None:
    done = run / "pretrain.done.json"
    content = done.read_bytes()
    done.unlink()
    out = run.with_name("unfinished")
    arguments = ["export", f"run={run}", f"out={out}", "license=other"]
    assert main(arguments) == 6
    assert "unfinished=true" in capsys.readouterr().err
    assert not out.exists()
    assert main([*arguments, "unfinished=true"]) == 0
    done.write_bytes(content)


def test_what_is_pushed_are_the_files_of_the_export(exported: Path, monkeypatch) -> None:
    asked = []

    class Api:
        def create_repo(self, name, *, private, exist_ok):
            asked.append((name, private, exist_ok))

        def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message):
            del commit_message
            asked.append((repo_id, folder_path, sorted(allow_patterns)))
            return type("Commit", (), {"commit_url": "https://hub/commit"})()

    stand_in = type("Hub", (), {"HfApi": Api})
    monkeypatch.setattr(hub, "import_optional", lambda *_: stand_in)
    assert hub.push(exported, "me/encoder", private=True) == "https://hub/commit"
    files = ["README.md", "config.json", "model.onnx", "model.safetensors"]
    assert asked == [("me/encoder", True, True), ("me/encoder", exported, files)]

    def refuse(*_: object, **__: object) -> None:
        raise OSError("401 Client Error\nmore")

    monkeypatch.setattr(Api, "create_repo", refuse)
    with pytest.raises(hub.HubError, match=r"401 Client Error; log in with `hf auth login`"):
        hub.push(exported, "me/encoder", private=True)


def test_a_card_escapes_what_comes_from_settings() -> None:
    card = format_card(Card("other", "dgcnn", 1, {"a|b": "<script>[x](y)"}, "c", 1))
    assert "<script>" not in card
    assert "| a\\|b | &lt;script>\\[x\\](y) |" in card
    assert json.dumps("license: other")[1:-1] in card
