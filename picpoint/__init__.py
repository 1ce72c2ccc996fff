"""Self-supervised pre-training for point clouds, taught by rendered pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from picpoint.encoders.dgcnn import Dgcnn
    from picpoint.encoders.pointnext import PointNext


def load(name_or_path: str | Path, *, revision: str | None = None) -> Dgcnn | PointNext:
    """Load a pre-trained point encoder, in evaluation mode and on the CPU.

    Args:
        name_or_path: a folder that `picpoint export` or `picpoint import-weights` wrote, or the
            name of a repository on the Hugging Face Hub, `owner/name`.
        revision: branch, tag or commit of that repository.

    Returns:
        What maps points (B, N, 3) to `picpoint.batch.PointFeatures`: `pooled` (B, C), and `local`
        (B, M, C) of the first M points. Points lie in the unit sphere, y up, in farthest-point
        order (`picpoint.ops.sampling.farthest_points`).

    Raises:
        EncoderFileError: there is no encoder, or a damaged one, or one of another version.
        MissingPackageError: a name of the Hub, and huggingface_hub is not installed.
    """
    # Here, because rendering on a CPU needs no torch.
    from picpoint.weights.encoder_file import load_encoder

    return load_encoder(name_or_path, revision=revision)
