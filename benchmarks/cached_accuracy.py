"""Does pre-training with cached image features teach what live ones do?

    python -m benchmarks.cached_accuracy            the demo, three seeds of each; a record
    python -m benchmarks.cached_accuracy --quick    one seed, two epochs

The demo is run twice on the same shapes: the image encoder asked at every step, and once for all
(`picpoint cache-features`). Differences are of the same held-out shapes under the same seed; what
each costs, benchmarks/pretrain.py measures. The last line of stdout is one JSON object.
"""

import argparse
import json
from pathlib import Path

from benchmarks.record import Json, write_record
from cluster.app import main as picpoint
from picpoint.evaluate.results import Results, load_results
from picpoint.evaluate.trials import paired_difference

# As configs/demo.yaml has them.
_IMAGE_ENCODER = ("image_encoder.precision=float32", "image_encoder.input_px=160")
_PACKAGES = ("torch", "torchvision", "numba", "numpy", "scikit-learn")


def main() -> None:
    """Run both, print, and (in full) write the record."""
    parser = argparse.ArgumentParser(description="Compare cached image features with live ones.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/cached_accuracy"))
    options = parser.parse_args()
    seeds, more = (1, ("pretrain.epochs=2",)) if options.quick else (options.seeds, ())
    out: Path = options.out
    _call("demo", f"out={out}/live", f"seeds={seeds}", *more)
    shards, features = f"{out}/live/shards", f"{out}/features"
    _call("cache-features", f"shards={shards}", f"out={features}", *_IMAGE_ENCODER)
    _call(
        "demo",
        f"out={out}/cached",
        f"seeds={seeds}",
        f"render.out={shards}",
        f"pretrain.data.shards={shards}",
        "pretrain.data.image_features=cached",
        f"pretrain.data.features={features}",
        *more,
    )
    results = compare(*(load_results(out / kind / "results.json") for kind in ("live", "cached")))
    if not options.quick:
        print("wrote", write_record("cached_accuracy", results, _PACKAGES))
    print(json.dumps(results))


def compare(live: Results, cached: Results) -> dict[str, Json]:
    """Give accuracies in per cent by metric, and cached less live, paired by shape and seed."""
    table: dict[str, Json] = {}
    for before, after in zip(live.comparisons, cached.comparisons, strict=True):
        difference = paired_difference(
            [seed.pretrained[before.metric] for seed in cached.seeds],
            [seed.pretrained[before.metric] for seed in live.seeds],
        )
        table[before.metric] = {
            "live": round(100 * before.pretrained.mean, 2),
            "cached": round(100 * after.pretrained.mean, 2),
            "random_init": round(100 * before.random_init.mean, 2),
            "difference": round(100 * difference.mean, 2),
            "standard_error": round(100 * difference.standard_error, 2),
        }
        print(f"{before.metric:28} {table[before.metric]}")
    return {"accuracy": table}


def _call(*arguments: str) -> None:
    """Run a command of picpoint.

    Raises:
        SystemExit: it failed, and said why.
    """
    if code := picpoint(arguments):
        raise SystemExit(code)


if __name__ == "__main__":
    main()
