"""A page's worth of made-up data, for the tests of the page."""

import math

import numpy as np
from PIL import Image, ImageDraw

from picpoint.evaluate.encoded import EncodedShapes
from picpoint.evaluate.probe import ProbeConfig
from picpoint.evaluate.results import Results
from picpoint.evaluate.seed import evaluate_seed
from picpoint.report.evaluation import Evaluation
from picpoint.report.page import ReportData, Source
from picpoint.report.pictures import AnnotatedPicture
from picpoint.report.training_log import LogLine, TrainingLog

CLASSES = ("bed", "bookcase", "chair", "desk", "lamp", "plant", "sofa", "table", "toilet", "rug")
PROBE = ProbeConfig(num_repeats=2, penalties=(1e-3,))


def encoded(separation, seed, class_names=CLASSES, per_class=10) -> EncodedShapes:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(class_names)), per_class)
    n = len(labels)
    features = separation * rng.normal(size=(len(class_names), 64))[labels]
    clouds = rng.normal(size=(n, 1, 8))
    return EncodedShapes(
        keys=tuple(f"{i:032x}" for i in range(n)),
        class_names=class_names,
        labels=labels.astype(np.int64),
        features=(features + rng.normal(size=(n, 64))).astype(np.float32),
        shape_embeddings=unit(clouds[:, 0]),
        picture_embeddings=unit(separation * clouds + rng.normal(size=(n, 4, 8))),
        held_out=np.arange(n) % 5 == 0,
    )


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def picture(seed, size_px=224):
    """A coloured blob on white, and pixels inside it."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (size_px, size_px), "white")
    low, high = rng.uniform(0.1, 0.3, 2) * size_px, rng.uniform(0.6, 0.9, 2) * size_px
    colour = tuple(int(c) for c in rng.integers(60, 220, 3))
    ImageDraw.Draw(image).rounded_rectangle([*low, *high], radius=size_px // 12, fill=colour)
    pixels = rng.uniform(low + 4, high - 4, size=(64, 2)).astype(np.float32)
    return AnnotatedPicture(np.asarray(image), pixels, f"chair, view {seed}, 64 points")


def training_log(seed, num_lines=60) -> TrainingLog:
    rng = np.random.default_rng(seed)
    lines = []
    for step in range(1, num_lines + 1):
        progress = step / num_lines
        local, pooled = 4.8 - 2 * progress + rng.normal() * 0.05, 3.4 * math.exp(-progress) + 0.2
        lines.append(
            LogLine(
                samples_seen=step * 64,
                loss=local + pooled,
                loss_local=local,
                loss_pooled=pooled,
                local_top1=0.25 * progress,
                pooled_top1=0.7 * progress**0.5,
                lr=5e-4 * (1 + math.cos(math.pi * progress)),
                samples_per_s=41.0,
            )
        )
    return TrainingLog(seed, tuple(lines))


def evaluation_data(num_seeds=1, class_names=CLASSES, num_views=20, separation=0.6) -> Evaluation:
    pairs = [
        (encoded(separation, seed, class_names), encoded(0.15, seed + 50, class_names))
        for seed in range(num_seeds)
    ]
    results = Results(
        seeds=tuple(evaluate_seed(seed, *pair, PROBE) for seed, pair in enumerate(pairs)),
        seconds={"render": 21.3, "pretrain seed 0": 148.2, "evaluate": 9.4},
        versions={"picpoint": "0.1.0", "torch": "2.11.0+cpu", "ray": "2.60.0", "numpy": "2.3.1"},
        commit="0123abc",
        config={},
    )
    pretrained, random_init = pairs[0]
    return Evaluation(
        name="runs/demo",
        results=results,
        logs=tuple(training_log(seed) for seed in range(num_seeds)),
        views=tuple(picture(seed) for seed in range(num_views)),
        pretrained=pretrained,
        random_init=random_init,
        thumbnails={key: picture(i, 128).picture for i, key in enumerate(pretrained.keys)},
        num_queries=8,
        config_yaml="optim:\n  lr: 0.001\ndata:\n  views: 4\n  shards: runs/demo/shards\n" * 6,
    )


def report_data(**options) -> ReportData:
    """A report of an evaluation alone."""
    return ReportData(
        title="picpoint demo",
        created="2026-01-02 03:04 UTC",
        commit="0123abc",
        sources=(Source("runs/demo", "evaluation", "0123abc"),),
        evaluations=(evaluation_data(**options),),
    )
