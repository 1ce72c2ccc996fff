"""`picpoint report` tells its sources apart, reads them, and says what is wrong with one."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from cluster.app import main
from cluster.compose import compose_config, load_job
from cluster.jobs.pretrain import PretrainJob
from cluster.record import keep_or_start
from cluster.report_sources import find_sources
from cluster.study import StudyConfig
from cluster.study_table import write_study
from cluster.trial import TrialResult
from cluster.trial_row import TrialRow
from picpoint.evaluate.frozen_result import write_frozen

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from synthetic_results import finetuning, probed


def write_finetuning(folder: Path, **changes) -> Path:
    run = finetuning(str(folder), **changes)
    folder.mkdir()
    (folder / "finetune.yaml").write_text("# inputs\n")
    (folder / "result.json").write_text(json.dumps(dataclasses.asdict(run.result)))
    lines = [json.dumps(dataclasses.asdict(each)) + "\n" for each in run.evaluations]
    (folder / "evaluations.jsonl").write_text("".join(lines))
    return folder


def write_probe(folder: Path) -> Path:
    write_frozen(probed().result, folder / "frozen.json")
    return folder


def write_pretraining(folder: Path) -> Path:
    config = compose_config("pretrain", ["data.shards=s", f"out={folder}", "data.views=12"])
    job = load_job(PretrainJob, config)
    moot = ("out", "resume", "runtime", "trackers")
    keep_or_start(str(folder), "pretrain", job, "digest", moot=moot).finish()
    step = {"loss": 5.0, "loss_local": 3.0, "loss_pooled": 2.0, "local_top1": 0.1, "lr": 1e-3}
    step |= {"samples_seen": 512, "pooled_top1": 0.25, "samples_per_s": 40.0}
    (folder / "metrics.jsonl").write_text(json.dumps(step) + "\n")
    probes = [{"samples_seen": 0, "accuracy": 0.5}, {"samples_seen": 512, "accuracy": 0.75}]
    (folder / "probes.jsonl").write_text("".join(json.dumps(each) + "\n" for each in probes))
    return folder


def write_tune(folder: Path) -> Path:
    study = load_job(StudyConfig, compose_config("tune", ["out=o", "shards=s"]).study)
    trials = [
        TrialRow(
            f"{views}-{seed}",
            {"pretrain.data.views": views, "pretrain.seed": seed},
            TrialResult("done", figure, 1.0)
            if figure
            else TrialResult("failed", None, 1.0, "no memory"),
        )
        for seed, views, figure in [(0, 5, 0.6), (1, 5, 0.8), (0, 20, 0.9), (1, 20, None)]
    ]
    folder.mkdir()
    write_study(study, trials, folder, {"commit": "0123abc", "versions": {}})
    return folder


def complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(arguments)
    (line,) = capsys.readouterr().err.strip().splitlines()
    return code, line


def test_any_mixture_is_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = [
        write_finetuning(tmp_path / "scratch"),
        write_finetuning(tmp_path / "tuned", weights="run", accuracy=0.95),
        write_probe(tmp_path / "probe"),
        write_pretraining(tmp_path / "run"),
        write_tune(tmp_path / "study"),
        Path(__file__).parents[2] / "benchmarks" / "results" / "step.json",
    ]
    out = tmp_path / "report"
    assert main(["report", *map(str, places), f"out={out}"]) == 0
    assert "6 sources" in capsys.readouterr().out
    told = json.loads((out / "report.json").read_text())
    tables = {table["title"]: table for section in told["sections"] for table in section["tables"]}
    control = tables["Pre-trained beside from scratch"]["rows"]
    assert [row[4:7] for row in control] == [[95.0, 90.0, 5.0]]
    assert tables["views: linear probe, validation fold"]["rows"] == [
        [20, 0.9, None, 1, 1],
        [5, pytest.approx(0.7), pytest.approx(0.2**0.5 / 10**0.5), 2, 0],
    ]
    assert tables["views: trials that failed"]["rows"][0][2] == "no memory"
    run = dict(
        zip(
            tables["Pre-training runs"]["columns"],
            tables["Pre-training runs"]["rows"][0],
            strict=True,
        )
    )
    assert (run["Samples seen"], run["Last probe, %"], run["Views"]) == (512, 75.0, "12")
    # GFLOPs of the encoder are counted from the settings of the run.
    published = tables["ModelNet40, fine-tuned"]
    ours = dict(zip(published["columns"], published["rows"][-1], strict=True))
    assert (ours["Accuracy"], ours["Protocol"]) == (95.0, "kept")
    assert ours["GFLOPs"] == pytest.approx(4.78, abs=0.01)
    kinds = [row[1] for row in tables["What was read"]["rows"]]
    assert kinds == ["fine-tuning run"] * 2 + ["probe", "pre-training run", "study", "record"]
    page, markdown = ((out / f"report.{kind}").read_text() for kind in ("html", "md"))
    for text in ("no memory", "ModelNet40, linear SVM", "scratch"):
        assert text in page
        assert text in markdown


def test_a_source_counts_once_and_a_folder_may_be_two(tmp_path: Path) -> None:
    folder = write_finetuning(tmp_path / "both")
    write_probe(folder)
    found = find_sources([str(folder), f"{folder}/", str(tmp_path / "both" / ".." / "both")])
    assert [source.kind for source in found] == ["fine-tuning run", "probe"]


@pytest.mark.parametrize(
    ("name", "content", "code", "message"),
    [
        (None, "", 3, "no such folder or file"),
        ("notes.txt", "", 3, "picpoint evaluate"),
        ("finetune.yaml", "", 6, "run it to its end"),
        ("tune.yaml", "", 2, "run picpoint tune again"),
        ("study.json", "{}", 2, "damaged"),
        ("frozen.json", "{}", 6, "damaged"),
        ("results.json", "{}", 3, "format_version"),
        ("record.json", "{", 3, "not JSON"),
    ],
)
def test_what_is_wrong_with_a_source_is_told_in_one_line(
    name: str | None,
    content: str,
    code: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "source"
    if name is not None:
        folder.mkdir()
        (folder / name).write_text(content)
    found, line = complaint(["report", str(folder), f"out={tmp_path / 'out'}"], capsys)
    assert found == code
    assert message in line
    assert str(folder) in line
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_record_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "result.json"
    path.write_text('{"benchmark": "x"}')
    code, line = complaint(["report", str(path)], capsys)
    assert code == 3
    assert "no record of a benchmark" in line


def test_a_report_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = complaint(["report", "sources=[]"], capsys)
    assert code == 3
    assert "name at least one" in line
    code, line = complaint(["report"], capsys)
    assert code == 2
    assert "sources" in line
