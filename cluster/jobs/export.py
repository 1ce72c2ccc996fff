"""`picpoint export`: the point encoder of a run, for others to load, and its model card."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.jobs.evaluate import RESULTS_FILE, load_run
from cluster.record import done_stage
from picpoint.evaluate.results import METRIC_TITLES, Results, load_results
from picpoint.model import build_point_encoder
from picpoint.publish import publish_text
from picpoint.train.checkpoint import CheckpointError, newest_checkpoint
from picpoint.weights.card import Card, format_card
from picpoint.weights.cost import count_parameters
from picpoint.weights.encoder_file import save_encoder
from picpoint.weights.hub import CARD_FILE, ONNX_FILE, push
from picpoint.weights.onnx_file import save_onnx

# Names of files on the machine that trained.
_OF_THE_MACHINE = ("image_encoder.weights",)
_PREFIX = "point_encoder."


@dataclass(frozen=True, slots=True)
class ExportJob:
    """What is exported, and to where.

    Attributes:
        run: folder of a pre-training run.
        out: folder that the encoder goes to.
        license: of the weights, as the Hub abbreviates it.
        evaluation: folder of an evaluation whose results go onto the card; "" for none.
        unfinished: take the newest checkpoint of a run that did not come to its end.
        onnx: write the encoder as ONNX, too.
        push: repository on the Hugging Face Hub to upload to, owner/name; "" for none.
        private: whether a repository that is made there is private.
    """

    run: str
    out: str
    license: str
    evaluation: str = ""
    unfinished: bool = False
    onnx: bool = False
    push: str = ""
    private: bool = True


def describe(job: ExportJob) -> list[str]:
    """Say what would be read and written."""
    config = load_run(Path(job.run))
    lines = [
        f"read   {config.point_encoder.name} of {job.run}",
        f"write  config.json, model.safetensors, {CARD_FILE}"
        f"{f', {ONNX_FILE}' if job.onnx else ''} to {job.out}",
    ]
    return [*lines, f"push   to {job.push}"] if job.push else lines


def run(job: ExportJob) -> None:
    """Write the folder, and upload it if asked to.

    Raises:
        CheckpointError: the run has no whole checkpoint, or did not come to its end.
        ResultsError: there is no evaluation where one is named.
        MissingPackageError: onnx or the Hub is asked for without its package.
        HubError: the Hub refused.
    """
    run_dir, out = Path(job.run), Path(job.out)
    config = load_run(run_dir)
    results = load_results(Path(job.evaluation) / RESULTS_FILE) if job.evaluation else None
    stage = done_stage(job.run, "pretrain")
    if stage is None and not job.unfinished:
        raise CheckpointError(
            f"{job.run}: the run did not come to its end; finish it by the same command, or "
            "export its newest checkpoint with unfinished=true"
        )
    checkpoint, passed_over = newest_checkpoint(config.checkpoints_of(run_dir))
    if checkpoint is None:
        found = "; ".join(passed_over) or "nothing is there"
        raise CheckpointError(f"{job.run}: no whole checkpoint ({found})")
    encoder = build_point_encoder(config.point_encoder, config.ghost_batch).eval()
    state = checkpoint.state["model"].items()
    encoder.load_state_dict(
        {name.removeprefix(_PREFIX): v for name, v in state if name.startswith(_PREFIX)}
    )
    save_encoder(encoder, out)
    if job.onnx:
        save_onnx(encoder, config.data.num_points, out / ONNX_FILE)
    commit = stage.commit if stage else "unknown"
    # Of a run that paused, the settings of its checkpoints tell the epochs of the whole.
    pause = {"pause_after": config.pause_after} if config.pause_after else {}
    settings = {**checkpoint.settings, **pause}
    seen = int(checkpoint.state["samples_seen"])
    card = _card(job, settings, seen, commit, count_parameters(encoder), results)
    publish_text(format_card(card), out / CARD_FILE)
    print(f"written: {out}")
    if job.push:
        print(f"pushed: {push(out, job.push, private=job.private)}")


def _card(
    job: ExportJob,
    settings: Mapping[str, object],
    samples_seen: int,
    commit: str,
    parameters: int,
    results: Results | None,
) -> Card:
    return Card(
        license=job.license,
        encoder=str(settings["point_encoder.name"]),
        parameters=parameters,
        settings={key: v for key, v in settings.items() if key not in _OF_THE_MACHINE},
        commit=commit,
        samples_seen=samples_seen,
        results=_rows(results) if results else (),
        extent=results.extent if results else "",
    )


def _rows(results: Results) -> list[tuple[str, ...]]:
    """Set each measure beside that of the untrained network, in per cent."""
    rows: list[tuple[str, ...]] = [("", "pre-trained", "random init", "chance")]
    for line in results.comparisons:
        both = (line.pretrained, line.random_init)
        told = [
            f"{100 * each.mean:.1f}" + ("" if each.std is None else f" +- {100 * each.std:.1f}")
            for each in both
        ]
        rows.append((METRIC_TITLES[line.metric], *told, f"{100 * line.chance:.1f}"))
    return rows
