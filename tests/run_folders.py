"""What did a run of `picpoint pretrain` leave? For tests that compare runs."""

import hashlib
import json
from pathlib import Path

from picpoint.train.checkpoint import newest_checkpoint


def digest_of_weights(checkpoints: Path | str) -> str:
    """Hash the weights of the newest checkpoint, which must be whole."""
    checkpoint, passed_over = newest_checkpoint(checkpoints)
    assert checkpoint is not None
    assert not passed_over
    digest = hashlib.sha256()
    for name, value in sorted(checkpoint.state["model"].items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def steps_logged(out: Path) -> list[int]:
    """Tell the steps in the log of a run, which may not have begun, or be writing a line."""
    log = out / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("}")]
