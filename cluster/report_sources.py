"""What can a report be of, and how is each read? Folders are told apart by what lies in them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cluster.jobs.evaluate import RESULTS_FILE, load_run
from cluster.population_table import lineage
from cluster.record import done_stage
from cluster.study import varied_keys
from cluster.study_table import RESULTS_FILE as STUDY_FILE
from cluster.study_table import read_study
from picpoint.evaluate.frozen_result import FROZEN_FILE, read_frozen
from picpoint.evaluate.results import ResultsError
from picpoint.report.pretraining import Pretraining
from picpoint.report.probes import Probed
from picpoint.report.records import Record
from picpoint.report.run_groups import Finetuning
from picpoint.report.studies import Study, StudyRow, Trial
from picpoint.report.training_log import load_log
from picpoint.train.background_probe import PROBE_FILE
from picpoint.train.examples import load_examples
from picpoint.train.finetune_result import FinetuneResult, read_evaluations, read_result
from picpoint.train.log import LOG_FILE
from picpoint.train.pretrained import encoder_config_of
from picpoint.weights.cost import encoder_cost

Kind = Literal["evaluation", "pre-training run", "fine-tuning run", "probe", "study", "record"]

# What lies in a folder of each kind.
_MARKS: dict[str, Kind] = {
    RESULTS_FILE: "evaluation",
    "pretrain.yaml": "pre-training run",
    "finetune.yaml": "fine-tuning run",
    FROZEN_FILE: "probe",
    STUDY_FILE: "study",
    "tune.yaml": "study",
}
_RECORD_KEYS = {"benchmark", "date", "commit", "machine", "versions", "results"}


@dataclass(frozen=True, slots=True)
class FoundSource:
    """Something that a report shows.

    Attributes:
        place: folder or file.
        kind: what it is.
    """

    place: Path
    kind: Kind


def find_sources(places: Sequence[str]) -> list[FoundSource]:
    """Tell what each place is; a folder may be several things at once.

    Raises:
        ResultsError: a place is not there, or is nothing that a report shows.
    """
    if not places:
        raise ResultsError("no sources; name at least one: picpoint report RUN|STUDY ...")
    found = [source for place in places for source in _sources_at(Path(place))]
    unique = {(source.place.resolve(), source.kind): source for source in reversed(found)}
    return [source for source in found if unique[source.place.resolve(), source.kind] is source]


def _sources_at(place: Path) -> Iterator[FoundSource]:
    if not place.exists():
        raise ResultsError(f"{place}: no such folder or file; name a run, a study or a record")
    if place.is_file():
        _load_record(place)
        yield FoundSource(place, "record")
        return
    marked: list[Kind] = [kind for name, kind in _MARKS.items() if (place / name).exists()]
    kinds = list(dict.fromkeys(marked))
    records = [] if kinds else [path for path in sorted(place.glob("*.json")) if _is_record(path)]
    if not kinds and not records:
        raise ResultsError(
            f"{place}: nothing that a report shows; name what picpoint evaluate, pretrain, "
            "finetune, probe or tune wrote, or records of benchmarks"
        )
    yield from (FoundSource(place, kind) for kind in kinds)
    yield from (FoundSource(path, "record") for path in records)


def read_pretraining(place: Path) -> Pretraining:
    """Read a pre-training run, finished or not.

    Raises:
        CheckpointError, LogError: it is damaged.
    """
    config = load_run(place)
    probes = place / PROBE_FILE
    lines = probes.read_text().splitlines() if probes.exists() else []
    told = [json.loads(line) for line in lines]
    done = done_stage(str(place), "pretrain")
    encoder = config.point_encoder
    return Pretraining(
        name=str(place),
        log=load_log(place / LOG_FILE, config.seed),
        probes=np.array(
            [(each["samples_seen"], each["accuracy"]) for each in told], dtype=np.float64
        ).reshape(-1, 2),
        settings={
            "Point encoder": encoder.name,
            "Image encoder": config.image_encoder.name,
            "Views": str(config.data.views or "all"),
            "Batch": str(config.global_batch),
            "Epochs": config.epochs_told,
            "Seed": str(config.seed),
        },
        parameters=encoder_cost(encoder, config.data.num_points).parameters,
        commit=done.commit if done else "",
    )


def read_finetuning(place: Path) -> Finetuning:
    """Read a finished fine-tuning run.

    Raises:
        CheckpointError: it is not finished, or damaged.
    """
    result = read_result(place)
    done = done_stage(str(place), "finetune")
    return Finetuning(
        name=str(place),
        result=result,
        evaluations=tuple(read_evaluations(place)),
        examples=load_examples(place),
        gflops=_gflops(result, place),
        commit=done.commit if done else "",
    )


def _gflops(result: FinetuneResult, place: Path) -> float | None:
    """Count the encoder's FLOPs; the forms that label points are others, and not counted."""
    num_points = result.settings.get("data.num_points")
    if result.task != "classify" or not isinstance(num_points, int):
        return None
    config = encoder_config_of(result.settings, str(place))
    return encoder_cost(config, num_points).usual_flops / 1e9


def read_probe(place: Path) -> Probed:
    """Read the probes of an encoder.

    Raises:
        ProbeError: they are damaged.
    """
    done = done_stage(str(place), "probe")
    return Probed(str(place), read_frozen(place / FROZEN_FILE), done.commit if done else "")


def read_study_shown(place: Path) -> Study:
    """Read a study as the report shows it.

    Raises:
        ConfigError: it is not finished, or damaged.
    """
    record = read_study(place)
    study = record.study
    line = lineage(study, record.trials) if study.scheduler == "population" else []
    return Study(
        name=study.name,
        folder=str(place),
        question=study.question,
        figure=study.figure.title,
        keys=tuple(varied_keys(study)),
        repeats=study.repeats,
        rows=tuple(
            StudyRow(row.settings, row.mean, row.std, row.done, row.failed) for row in record.table
        ),
        trials=tuple(
            Trial(
                name=trial.trial,
                settings=trial.settings,
                state=trial.result.state,
                figure=trial.result.figure,
                seconds=trial.result.seconds,
                reason=trial.result.reason,
                generation=trial.generation,
                parent=trial.parent,
            )
            for trial in record.trials
        ),
        commit=record.commit,
        lineage=tuple(row.trial for row in line),
    )


def read_record(place: Path) -> Record:
    """Read a record of a benchmark.

    Raises:
        ResultsError: it is none, or damaged.
    """
    told = _load_record(place)
    return Record(
        name=str(told["benchmark"]),
        date=str(told["date"]),
        commit=str(told["commit"]),
        machine=told["machine"],
        versions=told["versions"],
        results=told["results"],
    )


def _load_record(path: Path) -> dict[str, Any]:
    told = _json_at(path)
    if not isinstance(told, dict) or not told.keys() >= _RECORD_KEYS:
        raise ResultsError(
            f"{path}: no record of a benchmark, which has {', '.join(sorted(_RECORD_KEYS))}; name "
            "the folder of a run, or a file of benchmarks/results"
        )
    return told


def _is_record(path: Path) -> bool:
    """Tell whether a file among others is a record."""
    told = _json_at(path)
    return isinstance(told, dict) and told.keys() >= _RECORD_KEYS


def _json_at(path: Path) -> Any:  # noqa: ANN401 - JSON
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResultsError(f"{path}: not JSON ({error}); remove it, or name another") from error
