"""`picpoint evaluate`: what have pre-training runs learned, beside the same networks untrained?"""

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from omegaconf import DictConfig

from cluster.compose import ConfigError, load_job
from cluster.progress import ProgressLine
from cluster.record import commit, done_stage, plain, versions
from picpoint.evaluate.encode import EncodeConfig, encode_run
from picpoint.evaluate.probe import ProbeConfig
from picpoint.evaluate.results import format_table, load_results, summarise, write_results
from picpoint.evaluate.seed import evaluate_seed
from picpoint.evaluate.stored import save_encoded
from picpoint.train.checkpoint import CheckpointError
from picpoint.train.settings import PretrainConfig

RESULTS_FILE = "results.json"


@dataclass(frozen=True, slots=True)
class EvaluateJob:
    """Which runs are evaluated, and how.

    Attributes:
        runs: folders of pre-training runs, one per seed.
        out: folder that results.json goes to.
        encode: how shapes are encoded.
        probe: how the features are probed.
    """

    runs: tuple[str, ...]
    out: str
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)


def describe(job: EvaluateJob) -> list[str]:
    """Say what would be read and written."""
    configs = [load_run(Path(run)) for run in job.runs]
    return [
        *(
            f"read   seed {config.seed} from {run}, shapes from {config.data.shards}"
            for run, config in zip(job.runs, configs, strict=True)
        ),
        f"probe  {job.probe.num_repeats} x {job.probe.num_folds} folds, {job.encode.views} views",
        f"write  {Path(job.out) / RESULTS_FILE}",
    ]


def run(job: EvaluateJob) -> Path:
    """Evaluate runs, write results.json and print its table.

    Raises:
        CheckpointError: a run has no whole checkpoint.
        ProbeError: there are too few shapes to probe.
    """
    started = time.perf_counter()
    configs = [load_run(Path(run)) for run in job.runs]
    if len({config.seed for config in configs}) < len(configs):
        raise ConfigError(f"runs={list(job.runs)}: two have the same seed; give each seed once")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results = []
    with ProgressLine("evaluate") as progress:
        for config, run_dir in zip(configs, job.runs, strict=True):
            progress.show(f"run {len(results) + 1}/{len(configs)}: {run_dir}")
            encoded = encode_run(config, Path(run_dir), job.encode, device)
            save_encoded(encoded, encoded_file(job.out, config.seed))
            results.append(
                evaluate_seed(
                    config.seed,
                    encoded.pretrained,
                    encoded.random_init,
                    job.probe,
                    encoded.others,
                )
            )
    stages = {
        "render": done_stage(configs[0].data.shards, "render"),
        **{
            f"pretrain_seed_{config.seed}": done_stage(run_dir, "pretrain")
            for config, run_dir in zip(configs, job.runs, strict=True)
        },
    }
    known = {name: stage for name, stage in stages.items() if stage is not None}
    seconds = {name: stage.seconds for name, stage in known.items()}
    path = Path(job.out) / RESULTS_FILE
    summary = summarise(
        results,
        seconds=seconds | {"evaluate": time.perf_counter() - started},
        versions=versions(),
        commit=commit(),
        config={
            "evaluate": plain(job),
            "pretrain": plain(configs[0]),
            "commits": {name: stage.commit for name, stage in known.items()},
        },
    )
    write_results(summary, path)
    print(format_table(load_results(path)))
    return path


def encoded_file(out: str, seed: int) -> Path:
    """Name the file that holds what a seed's encoders say of the shapes."""
    return Path(out) / f"encoded-seed-{seed}.npz"


def load_run(run_dir: Path) -> PretrainConfig:
    """Read the settings that a run was made with.

    Raises:
        CheckpointError: there is no run in that folder.
    """
    record = run_dir / "pretrain.yaml"
    if not record.exists():
        raise CheckpointError(f"{record}: missing; {run_dir} is no pre-training run")
    return load_job(PretrainConfig, DictConfig(yaml.safe_load(record.read_text())))
