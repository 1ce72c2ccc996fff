"""What may be given to a point encoder? Checked here, as annotations are only while pytest runs."""

from torch import Tensor


def check_clouds(points: Tensor) -> None:
    """Check that points are a batch of clouds.

    Raises:
        ValueError: they are not (B, N, 3), as where the batch is missing or coordinates come first.
    """
    if points.ndim != 3 or points.shape[-1] != 3:
        raise ValueError(
            f"points of shape {tuple(points.shape)}: an encoder takes clouds x points x 3 "
            "coordinates; add the batch with [None], or turn (B, 3, N) with .mT"
        )
