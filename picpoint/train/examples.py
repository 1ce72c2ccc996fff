"""What does a network that labels points make of single clouds? A few are kept, for pictures.

examples.npz    keys, class_names (n,); offsets (n + 1,): rows of each cloud;
                points (rows, 3) float32; truth, predicted (rows,) int32
"""

import io
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64
from torch import Tensor

from picpoint.batch import CloudBatch, move_batch
from picpoint.data.clouds import evaluation_clouds
from picpoint.data.dataset import NO_CLASS, Dataset
from picpoint.publish import publish_bytes
from picpoint.task_model import TaskNetwork
from picpoint.train.checkpoint import CheckpointError
from picpoint.train.finetune_settings import FinetuneConfig
from picpoint.train.precision import ResolvedPrecision, autocast

EXAMPLES_FILE = "examples.npz"
_NUM_EXAMPLES = 8
# More than a picture shows.
_MOST_POINTS = 2048


@dataclass(frozen=True, slots=True)
class LabelledCloud:
    """A cloud with the labels that its points have, and those that a network gave them.

    Attributes:
        key: source id of the cloud.
        class_name: of the object; "" where it has none.
        points: as the network saw them.
        truth: number of each point's part or class.
        predicted: what the network said.
    """

    key: str
    class_name: str
    points: Float32[np.ndarray, "N 3"]
    truth: Int32[np.ndarray, " N"]
    predicted: Int32[np.ndarray, " N"]


@torch.no_grad()
def keep_examples(
    network: TaskNetwork,
    dataset: Dataset,
    rows: Int64[np.ndarray, " n"],
    config: FinetuneConfig,
    precision: ResolvedPrecision,
    device: torch.device,
    run_dir: Path,
) -> None:
    """Write what a network says of the first cloud of every class, then the second, and so on.

    Only of a task that labels points. No collective: one rank does it.

    Args:
        network: of the task; it stays in evaluation mode.
        dataset: the clouds.
        rows: manifest index of each cloud that is measured on.
        config: of the run.
        precision: of the forward pass.
        device: where to compute.
        run_dir: folder of the run.
    """
    if not config.view.with_point_labels:
        return
    network.eval()
    chosen = _deal_by_class(dataset, rows)[:_NUM_EXAMPLES]
    kept: list[LabelledCloud] = []
    for batch in evaluation_clouds(dataset, chosen, config.eval_batch, config.data, config.view):
        moved = move_batch(batch, device)
        with autocast(precision, device):
            scores = network(moved).float().cpu()
        for place in range(len(batch.keys)):
            number = int(dataset.labels[chosen[len(kept)]])
            class_name = "" if number == NO_CLASS else dataset.info.class_names[number]
            start, stop = dataset.info.parts_of_class.get(class_name, (0, scores.shape[-1]))
            own = scores[place, :, start:stop].argmax(-1) + start
            kept.append(_labelled(batch, place, class_name, own))
    publish_bytes(_packed(kept), run_dir / EXAMPLES_FILE)


def load_examples(run_dir: Path) -> tuple[LabelledCloud, ...]:
    """Read the kept clouds of a run; none where it kept none.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = run_dir / EXAMPLES_FILE
    try:
        with np.load(path, allow_pickle=False) as file:
            keys, names, ends = file["keys"], file["class_names"], file["offsets"]
            split = {name: np.split(file[name], ends[1:-1]) for name in _OF_POINTS}
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: damaged; remove it, and no cloud is drawn") from error
    each = zip(keys.tolist(), names.tolist(), *split.values(), strict=True)
    return tuple(LabelledCloud(*cloud) for cloud in each)


_OF_POINTS = ("points", "truth", "predicted")


def _deal_by_class(dataset: Dataset, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    taken: Counter[int] = Counter()
    order = list[tuple[int, int, int]]()
    for row in rows.tolist():
        label = int(dataset.labels[row])
        order.append((taken[label], label, row))
        taken[label] += 1
    return np.array([row for _, _, row in sorted(order)], dtype=np.int64)


def _labelled(batch: CloudBatch, place: int, class_name: str, predicted: Tensor) -> LabelledCloud:
    every = max(1, len(predicted) // _MOST_POINTS)
    return LabelledCloud(
        key=batch.keys[place],
        class_name=class_name,
        points=batch.points[place, ::every].numpy(),
        truth=batch.point_labels[place, ::every].numpy().astype(np.int32),
        predicted=predicted[::every].numpy().astype(np.int32),
    )


def _packed(clouds: list[LabelledCloud]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        keys=np.array([cloud.key for cloud in clouds]),
        class_names=np.array([cloud.class_name for cloud in clouds]),
        offsets=np.cumsum([0, *(len(cloud.points) for cloud in clouds)]),
        points=np.concatenate([cloud.points for cloud in clouds]),
        truth=np.concatenate([cloud.truth for cloud in clouds]),
        predicted=np.concatenate([cloud.predicted for cloud in clouds]),
    )
    return buffer.getvalue()
