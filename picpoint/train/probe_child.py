"""What does a snapshot of the point encoder tell of shapes? Runs in a process of its own.

A process, not a thread: statistics of BatchNorm are taken anew, which in a rank would be a
collective; and neither the interpreter's lock nor the ranks' threads, generators or streams have
to do with it. It has the lowest priority, reads its clouds once, and answers one by one.
"""

import io
import json
import os
import threading
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from picpoint.linear_probe import fit_fold
from picpoint.model import build_point_encoder
from picpoint.train.calibrate import calibrate, deal_to_ghosts
from picpoint.train.probe_shapes import ProbeShapes
from picpoint.train.settings import PretrainConfig
from shards.reader import Request, ShardReader

_BATCH = 16
_READ_AHEAD = 32
_LOWEST_PRIORITY = 19


@dataclass(frozen=True, slots=True)
class ProbeFigures:
    """What a probe found.

    Attributes:
        accuracy: share of the validation shapes that are named right, 0..1.
        num_shapes: how many those are.
        num_train: labelled shapes that the machine learnt from.
        num_classes: of how many classes.
        seconds: that it took.
    """

    accuracy: float
    num_shapes: int
    num_train: int
    num_classes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Clouds:
    """The clouds of all shapes that a probe needs; rows are those of `points`.

    A shape that is damaged, where the run skips such, is in none.
    """

    points: Float[Tensor, "n N 3"]
    labels: Int64[np.ndarray, " n"]
    train: Int64[np.ndarray, " t"]
    validation: Int64[np.ndarray, " v"]
    calibrating: Int64[np.ndarray, " c"]


def serve(connection: Connection, config: PretrainConfig, shapes: ProbeShapes) -> None:
    """Answer snapshots (bytes of `torch.save`) with figures or an error, as JSON, till the end."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(OSError):  # no matter of the result
        os.nice(_LOWEST_PRIORITY)
    torch.set_num_threads(config.probe.threads)
    clouds: _Clouds | None = None
    with suppress(EOFError, BrokenPipeError):
        while True:
            content, started = connection.recv_bytes(), time.perf_counter()
            try:
                clouds = clouds or _read_clouds(config, shapes)
                weights = torch.load(io.BytesIO(content), weights_only=True)
                answer = _ask(config, clouds, weights) | {"seconds": time.perf_counter() - started}
            except Exception as error:  # told by the parent; training goes on
                answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
            connection.send_bytes(json.dumps(answer).encode())


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _read_clouds(config: PretrainConfig, shapes: ProbeShapes) -> _Clouds:
    data = config.data
    reader = ShardReader(data.shards, data.on_corrupt, members=(), cache=data.cache)
    rows = np.unique(np.concatenate([shapes.train, shapes.validation, shapes.calibrating]))
    points: list[Float32[np.ndarray, "N 3"]] = []
    place_of: dict[int, int] = {}
    with closing(reader.stream(map(Request, rows.tolist()), _READ_AHEAD)) as samples:
        for row, sample in zip(rows.tolist(), samples, strict=True):
            if sample is not None:
                place_of[row] = len(points)
                points.append(sample.points[: data.num_points].astype(np.float32))

    def places(chosen: Int64[np.ndarray, " r"]) -> Int64[np.ndarray, " p"]:
        whole = [place_of[row] for row in chosen.tolist() if row in place_of]
        return np.array(whole, dtype=np.int64)

    return _Clouds(
        points=torch.from_numpy(np.stack(points)),
        labels=shapes.labels[list(place_of)],
        train=places(shapes.train),
        validation=places(shapes.validation),
        calibrating=places(shapes.calibrating),
    )


def _ask(
    config: PretrainConfig, clouds: _Clouds, weights: Mapping[str, Tensor]
) -> dict[str, float | int]:
    """Fit a linear machine to what an encoder says of shapes, and have it name the others."""
    encoder = build_point_encoder(config.point_encoder, config.ghost_batch)
    encoder.load_state_dict(weights)
    features = encode_clouds(encoder, clouds.points, clouds.calibrating, config)
    (fit,) = fit_fold(
        features,
        clouds.labels,
        (clouds.train, clouds.train),
        clouds.validation,
        (config.probe.penalty,),
    )
    return {
        "accuracy": float(fit.test_right.mean()),
        "num_shapes": len(clouds.validation),
        "num_train": len(clouds.train),
        "num_classes": len(np.unique(clouds.labels[clouds.train])),
    }


@torch.no_grad()
def encode_clouds(
    encoder: nn.Module,
    points: Float[Tensor, "n N 3"],
    calibrating: Int64[np.ndarray, " c"],
    config: PretrainConfig,
) -> Float32[np.ndarray, "n F"]:
    """Describe clouds as an evaluation does: statistics taken anew, pooled features, float32."""
    dealt = deal_to_ghosts(calibrating, config.ghost_batch, config.seed)
    calibrate(encoder, lambda rows: encoder(points[rows]), dealt)
    encoder.eval()
    pooled = [encoder(part).pooled.float() for part in points.split(_BATCH)]
    return torch.cat(pooled).numpy()
