"""What does pre-training teach of real shapes, and what does each part of it add?

    make data                                            # fetches the meshes (two Debian packages)
    python -m benchmarks.learning                        # a part of them, some hours on two cores
    python -m benchmarks.learning --size full            # all of them, at the paper's sizes: a GPU
    python -m benchmarks.learning --quick                # the demo's shapes: does the script run?

820 pieces of furniture and parts of KiCad are rendered, their pictures shown to EfficientNet-Lite0
once, and encoders pre-trained on the unlabelled mixture: by the whole method and without each of
its parts. Then linear SVMs name the classes of shapes that pre-training never saw, from all labels
and from ten a class, once for furniture and once for electronics. Series are held out whole; seeds
0, 1, 2 ... hold out folds 0, 1, 2, 3, 0 ..., and fold 4 is for choosing settings (`--fold 4`, which
writes no record). `random init` is the network of the same seed before training.

Folds differ more than variants do. So beside each variant's mean stands its difference to the whole
method, seed by seed on the same shapes, and the standard error of the mean of these.

Everything lies in `--out`, and what is finished is kept: the same command goes on where it stopped.
"""

import argparse
import hashlib
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.record import Json, write_record
from cluster.app import main as picpoint
from cluster.jobs.evaluate import load_run
from picpoint.data.split import series_of
from picpoint.evaluate.encode import EncodeConfig, encode_run
from picpoint.evaluate.encoded import UNLABELLED, EncodedShapes
from picpoint.evaluate.probe import ProbeConfig, few_label_probe, linear_probe
from picpoint.render.object_classes import OBJECT_CLASSES
from picpoint.render.sources import SourceShape, list_shapes

VARIANTS: Mapping[str, tuple[str, ...]] = {
    "full": (),
    "global only": ("loss.local_weight=0",),
    "local only": ("loss.pooled_weight=0",),
    "no pose": ("heads.pose_fusion=none",),
}
RANDOM = "random init"
VALIDATION_FOLD = 4
FEW = 10
_LEAST_CLASS = 10
_PENALTY = 1e-2  # the SVMs' C; the best of 1e-5 ... 1e-1 on the validation fold
_PACKAGES = ("torch", "numba", "numpy", "scikit-learn")


@dataclass(frozen=True, slots=True)
class Size:
    """How large a run is.

    Attributes:
        per_class: electronic parts of each class, spread over its series; 0 for all.
        least_class: classes of electronics with fewer parts are left out; 0 for none.
        rig: of cameras.
        train: overrides of `picpoint pretrain`.
    """

    per_class: int
    least_class: int
    rig: str
    train: tuple[str, ...]


# As the demo's: chosen there, and not bettered on the validation fold.
_SMALL = (
    "data.num_points=256",
    "data.correspondences=64",
    "data.augment.rotation=none",
    "point_encoder.widths=[32,32,64,128]",
    "point_encoder.pooled_width=512",
    "point_encoder.num_neighbours=16",
    "heads.latent_width=256",
    "heads.hidden_width=256",
    "loss.temperature=0.2",
    "global_batch=64",
    "ghost_batch=32",
    "optim.lr=3e-3",
)
SIZES = {
    "small": Size(60, 40, "icosahedron", (*_SMALL, "epochs=8")),
    "full": Size(0, 0, "dodecahedron", ("optim.lr=1e-3", "epochs=100")),
}
QUICK = Size(0, 0, "octahedron", (*_SMALL, "data.num_points=128", "epochs=1"))


def main() -> None:
    """Prepare, train, probe, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--data", type=Path, default=Path("data"), help="what make data fetched")
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fold", type=int, help="for every seed; by turns if not given")
    parser.add_argument("--variants", nargs="+", choices=sorted(VARIANTS), default=list(VARIANTS))
    parser.add_argument("overrides", nargs="*", help="of picpoint pretrain, for every variant")
    args = parser.parse_args()
    size = QUICK if args.quick else SIZES[args.size]
    seeds = 1 if args.quick else args.seeds
    prepare(size, "demo" if args.quick else choose_meshes(args.data, args.out, size), args.out)
    probes: dict[str, list[dict[str, float]]] = {}
    for seed in range(seeds):
        fold = seed % VALIDATION_FOLD if args.fold is None else args.fold
        for name in args.variants:
            told = run_variant(
                size, args.out, name, seed, fold, args.overrides, random=name == args.variants[0]
            )
            for network, accuracies in told.items():
                probes.setdefault(network, []).append(accuracies)
    table, paired = summarise(probes), compare(probes, args.variants[0])
    print(format_table(table))
    print(f"\nless {args.variants[0]}, +- the standard error:\n{format_table(paired)}")
    results: dict[str, Json] = {
        "size": args.size,
        "train": [*size.train, *args.overrides],
        "seeds": seeds,
        "accuracy": table,
        f"less {args.variants[0]}": paired,
        "by_seed": probes,
    }
    if not args.quick and args.fold is None:
        print(f"wrote {write_record('learning', results, _PACKAGES)}")
    print(json.dumps(results))


def choose_meshes(data: Path, out: Path, size: Size) -> str:
    """Link the meshes that a size takes into a folder of its own.

    Raises:
        SystemExit: `make data` has not fetched them.
    """
    for part in ("furniture", "kicad"):
        if not (data / part).is_dir():
            raise SystemExit(f"{data / part} is not there; fetch the meshes with make data")
    chosen = [
        *((data / "furniture", path.name) for path in (data / "furniture").glob("*.sh3f")),
        *((data / "kicad", shape.file) for shape in _chosen_parts(data / "kicad", size)),
    ]
    for folder, file in chosen:
        link = out / "meshes" / folder.name / file
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            os.link(folder / file, link)
    return str(out / "meshes")


def _chosen_parts(folder: Path, size: Size) -> list[SourceShape]:
    """Take as many parts of each class, as evenly of its series as can be."""
    parts = list_shapes(folder)
    of_class = Counter(part.label for part in parts)
    kept = [part for part in parts if of_class[part.label] >= size.least_class]
    kept.sort(key=lambda part: hashlib.sha256(part.source_id.encode()).hexdigest())
    taken: Counter[str] = Counter()

    def place(name: str) -> int:
        taken[name] += 1
        return taken[name]

    # The first of every series comes first, then the second of each.
    in_series = sorted([(place(series_of(part.source_id)), part.source_id, part) for part in kept])
    in_class = [(place(part.label), part) for _, _, part in in_series]
    return [part for number, part in in_class if size.per_class == 0 or number <= size.per_class]


def prepare(size: Size, source: str, out: Path) -> None:
    """Render, and ask the image encoder of every picture."""
    shards = f"{out}/shards"
    _call("render", f"source={source}", f"out={shards}", f"capture.rig.names=[{size.rig}]")
    _call("cache-features", f"shards={shards}", f"out={out}/features")


def run_variant(
    size: Size,
    out: Path,
    name: str,
    seed: int,
    fold: int,
    overrides: Sequence[str],
    *,
    random: bool,
) -> dict[str, dict[str, float]]:
    """Pre-train one variant and probe it, and the network it began as if asked to.

    Returns:
        Accuracies by network and probe; what an earlier call found is kept.
    """
    settings = (*size.train, *VARIANTS[name], *overrides)
    digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:8]
    run = out / f"{name.replace(' ', '-')}-{digest}-fold-{fold}-seed-{seed}"
    record = run / "probes.json"
    if not record.exists():
        started = time.perf_counter()
        _call(
            "pretrain",
            "runtime=local",
            f"data.shards={out}/shards",
            f"data.features={out}/features",
            "data.image_features=cached",
            "data.holdout.unit=series",
            f"data.holdout.fold={fold}",
            f"seed={seed}",
            f"out={run}",
            *settings,
        )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        encoded = encode_run(load_run(run), run, EncodeConfig(views=1), device)
        probes = {name: probe(encoded.pretrained)}
        if random:
            probes[RANDOM] = probe(encoded.random_init)
        print(f"{run.name}: {probes}, {time.perf_counter() - started:.0f} s", flush=True)
        record.write_text(json.dumps(probes))
    return json.loads(record.read_text())


def probe(shapes: EncodedShapes) -> dict[str, float]:
    """Give the accuracies of furniture and of electronics, from all labels and from few."""
    config = ProbeConfig(num_repeats=1, penalties=(_PENALTY,))
    found: dict[str, float] = {}
    is_furniture = np.array([name in OBJECT_CLASSES for name in shapes.class_names])
    for part, of_part in (("furniture", is_furniture), ("electronics", ~is_furniture)):
        known = _keep_classes(shapes, of_part)
        if len(known.probe_test) == 0:
            continue  # the demo's shapes are neither
        found[f"{part}, all labels"] = linear_probe(known, config).accuracy
        few = few_label_probe(known, replace(config, num_repeats=10), FEW)
        found[f"{part}, {FEW} a class"] = few.accuracy
    return found


def _keep_classes(shapes: EncodedShapes, wanted: np.ndarray) -> EncodedShapes:
    """Forget the labels of other classes, and of those too small to be learnt or tested."""
    labels = shapes.labels.copy()
    counts = np.bincount(labels[shapes.probe_train], minlength=len(wanted))
    kept = wanted & (counts >= _LEAST_CLASS)
    labels[(labels != UNLABELLED) & ~kept[labels]] = UNLABELLED
    return replace(shapes, labels=labels)


def summarise(
    probes: Mapping[str, Sequence[Mapping[str, float]]],
) -> dict[str, dict[str, dict[str, float]]]:
    """Give mean and deviation over the seeds, of every variant and probe, in per cent."""
    return {
        name: {metric: _mean("std", [each[metric] for each in told]) for metric in told[0]}
        for name, told in probes.items()
    }


def compare(
    probes: Mapping[str, Sequence[Mapping[str, float]]], base: str
) -> dict[str, dict[str, dict[str, float]]]:
    """Give every other variant's accuracy less the base's, in points, and the mean's error.

    Also for the mean of all probes.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, told in probes.items():
        if name == base:
            continue
        less = [
            {metric: mine[metric] - theirs[metric] for metric in mine}
            for mine, theirs in zip(told, probes[base], strict=True)
        ]
        of_metric = {metric: [each[metric] for each in less] for metric in less[0]}
        of_metric["mean"] = [statistics.mean(each.values()) for each in less]
        found[name] = {key: _mean("standard_error", each) for key, each in of_metric.items()}
    return found


def _mean(error: str, values: Sequence[float]) -> dict[str, float]:
    """Give the mean of fractions, and their deviation or the mean's own error, in per cent."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    if error == "standard_error":
        spread /= len(values) ** 0.5
    return {"mean": round(100 * statistics.mean(values), 2), error: round(100 * spread, 2)}


def format_table(table: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Write the table as Markdown."""
    metrics = list(next(iter(table.values())))
    lines = [
        "| |" + "".join(f" {metric} |" for metric in metrics),
        "|---" * (len(metrics) + 1) + "|",
    ]
    for name, told in table.items():
        pairs = [tuple(told[metric].values()) for metric in metrics]
        cells = "".join(f" {mean:.1f} +- {spread:.1f} |" for mean, spread in pairs)
        lines.append(f"| {name} |{cells}")
    return "\n".join(lines)


def _call(*arguments: str) -> None:
    """Run a command of picpoint.

    Raises:
        SystemExit: it failed, and said why.
    """
    if code := picpoint(arguments):
        raise SystemExit(code)


if __name__ == "__main__":
    main()
