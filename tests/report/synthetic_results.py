"""Made-up results of every kind, with figures that a test can tell by hand."""

import numpy as np
from synthetic_report import CLASSES, evaluation_data, training_log

from picpoint.evaluate.frozen import FewShotScore, SvmScore
from picpoint.evaluate.frozen_result import FrozenResult, FrozenScores
from picpoint.report.page import ReportData, Source
from picpoint.report.pretraining import Pretraining
from picpoint.report.probes import Probed
from picpoint.report.records import Record
from picpoint.report.run_groups import Finetuning
from picpoint.report.studies import Study, StudyRow, Trial
from picpoint.train.examples import LabelledCloud
from picpoint.train.finetune_log import EvaluationReport
from picpoint.train.finetune_result import FinetuneResult

PARTS = ("wing", "body", "tail", "engine", "lid", "handle")
MODELNET40 = {"data.num_points": 1024, "data.label_share": 1.0, "votes": 0}


def confusion(num_classes, right=9, wrong=1):
    """Every class is taken `wrong` times for the next one."""
    matrix = right * np.eye(num_classes, dtype=int)
    return matrix + wrong * np.roll(np.eye(num_classes, dtype=int), 1, axis=1)


def finetuning(
    name="runs/scratch-0",
    *,
    accuracy=0.9,
    weights="",
    seed=0,
    dataset="modelnet40_h5",
    counts=(9840, 2468),
    class_names=CLASSES,
    encoder="dgcnn",
    parameters=1_809_576,
    voted=None,
    matrix=None,
    evaluated_on="test",
    **settings,
) -> Finetuning:
    last = {"accuracy": accuracy, "mean_class_accuracy": accuracy - 0.02}
    if voted is not None:
        last["accuracy_voted"] = voted
    matrix = confusion(len(class_names)) if matrix is None else matrix
    return Finetuning(
        name=name,
        result=FinetuneResult(
            dataset=dataset,
            dataset_digest="d" * 64,
            task="classify",
            evaluated_on=evaluated_on,
            num_train=counts[0],
            num_evaluated=counts[1],
            class_names=class_names,
            part_names=(),
            last=last,
            best={"accuracy": accuracy + 0.01, "mean_class_accuracy": accuracy},
            best_epoch=200,
            num_evaluations=25,
            confusion=tuple(map(tuple, np.asarray(matrix).tolist())),
            settings={
                "point_encoder.name": encoder,
                "seed": seed,
                "weights.sha256": "w" * 64 if weights else "",
                "freeze": False,
                **MODELNET40,
                **settings,
            },
            weights=weights,
            parameters=parameters,
        ),
        evaluations=tuple(
            EvaluationReport(epoch * 9840, epoch, {"accuracy": accuracy - 0.1 / epoch}, [])
            for epoch in (10, 20, 30)
        ),
        examples=(),
        gflops=4.78,
        commit="0123abc",
    )


def labelled_cloud(class_name, first, num_points=600, wrong=0.1, seed=0) -> LabelledCloud:
    """A ball whose upper half is another part; some points are told wrong."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(num_points, 3)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    truth = (first + (points[:, 1] > 0)).astype(np.int32)
    swapped = rng.random(num_points) < wrong
    predicted = np.where(swapped, 2 * first + 1 - truth, truth).astype(np.int32)
    return LabelledCloud("k" * 32, class_name, points, truth, predicted)


def parts_run(name="runs/parts", class_names=("airplane", "bag", "cap"), part_names=PARTS):
    miou = {class_names[0]: 0.85, class_names[1]: 0.7, class_names[2]: 0.775}
    last = {"instance_miou": 0.861, "class_miou": 0.775, "point_accuracy": 0.94}
    return Finetuning(
        name=name,
        result=FinetuneResult(
            dataset="shapenetpart_h5",
            dataset_digest="p" * 64,
            task="parts",
            evaluated_on="test",
            num_train=14007,
            num_evaluated=2874,
            class_names=class_names,
            part_names=part_names,
            last=last,
            best=last,
            best_epoch=250,
            num_evaluations=25,
            confusion=tuple(map(tuple, confusion(len(part_names), 900, 100).tolist())),
            settings={"point_encoder.name": "pointnext_s", "seed": 0, "data.num_points": 2048},
            weights="",
            miou_of_class=miou,
            parameters=1_000_000,
        ),
        evaluations=(EvaluationReport(100, 1, last, []),),
        examples=tuple(
            labelled_cloud(label, 2 * number, seed=number)
            for number, label in enumerate(class_names)
        ),
        gflops=None,
        commit="0123abc",
    )


def probed(name="runs/probe", dataset="modelnet40_h5", counts=(9840, 2468), **settings) -> Probed:
    def scores(base):
        return FrozenScores(
            svm={
                "LinearSVC": SvmScore(base, 0.01, base - 0.01),
                "SVC": SvmScore(base + 0.01, 0.1, base),
            },
            knn=base - 0.05,
            few_shot=(FewShotScore(5, 10, base + 0.02, 0.03, 10),),
            few_shot_tuned=(FewShotScore(5, 20, base + 0.04, 0.02, 10),),
        )

    return Probed(
        name=name,
        result=FrozenResult(
            dataset=dataset,
            dataset_digest="d" * 64,
            evaluated_on="test",
            num_train=counts[0],
            num_evaluated=counts[1],
            weights="runs/pretrain",
            weights_sha256="w" * 64,
            num_points=1024,
            pretrained=scores(0.91),
            random_init=scores(0.8),
            settings={"frozen": {"penalties": [0.01, 0.1]}, "data": {"label_share": 1.0}}
            | settings,
            encoder="dgcnn",
            parameters=617_856,
            usual_flops=4_780_000_000,
        ),
        commit="0123abc",
    )


def study(name="views", folder="runs/study", reason="CUDA out of memory") -> Study:
    figures = {5: (0.70, 0.72), 10: (0.75, 0.77), 20: (0.8, 0.78), 40: (None, None)}
    trials = [
        Trial(
            f"t{views}{seed}",
            {"pretrain.data.views": views, "pretrain.seed": seed},
            "failed" if figure is None else "done",
            figure,
            12.0,
            reason if figure is None else "",
        )
        for views, of_seeds in figures.items()
        for seed, figure in enumerate(of_seeds)
    ]
    rows = [
        StudyRow({"pretrain.data.views": 20}, 0.79, 0.0141, 2, 0),
        StudyRow({"pretrain.data.views": 10}, 0.76, 0.0141, 2, 0),
        StudyRow({"pretrain.data.views": 5}, 0.71, 0.0141, 2, 0),
        StudyRow({"pretrain.data.views": 40}, None, None, 0, 2),
    ]
    return Study(
        name=name,
        folder=folder,
        question="How many views of a shape does pre-training need?",
        figure="linear probe, validation fold",
        keys=("pretrain.data.views",),
        repeats=("pretrain.seed",),
        rows=tuple(rows),
        trials=tuple(trials),
        commit="0123abc",
    )


def record(name="stream", results=None) -> Record:
    return Record(
        name=name,
        date="2026-11-26T13:52:30+00:00",
        commit="b0c0dd5be2a5",
        machine={"cpu": "AMD EPYC", "cores": 2},
        versions={"numpy": "2.4.6", "litdata": None},
        results=results
        or {
            "num_samples": 172,
            "workers": {"1": {"shapes_per_s": 3.42}, "2": {"shapes_per_s": 5.89}},
        },
    )


def pretraining(name="runs/pretrain") -> Pretraining:
    return Pretraining(
        name=name,
        log=training_log(0),
        probes=np.array([[0, 0.6], [1920, 0.7], [3840, 0.81]]),
        settings={"Point encoder": "dgcnn", "Views": "20"},
        parameters=617_856,
        commit="0123abc",
    )


def full_report() -> ReportData:
    """A report with everything that one can be of."""
    runs = [
        *(finetuning(f"runs/scratch-{s}", accuracy=0.92 + 0.01 * s, seed=s) for s in (0, 1)),
        *(
            finetuning(
                f"runs/tuned-{s}",
                accuracy=0.93 + 0.01 * s,
                voted=0.94,
                seed=s,
                weights="runs/pretrain",
            )
            for s in (0, 1)
        ),
        finetuning("runs/own", dataset="folder", counts=(40, 20), encoder="pointnext_s"),
        parts_run(),
    ]
    return ReportData(
        title="picpoint: report",
        created="2026-01-02 03:04 UTC",
        commit="0123abc",
        sources=(Source("runs/tuned-0", "fine-tuning run", "0123abc"),),
        evaluations=(evaluation_data(num_views=2),),
        pretrainings=(pretraining(),),
        finetunings=tuple(runs),
        probes=(probed(),),
        studies=(study(),),
        records=(record(),),
    )
