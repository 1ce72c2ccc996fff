"""`picpoint doctor --image-encoder NAME`: does it load, what does it give, what does it cost?"""

import dataclasses
import time
from collections.abc import Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from cluster.compose import ConfigError, compose_config, load_job
from cluster.jobs.pretrain import PretrainJob
from picpoint.encoders.image import ImageEncoder, ImageEncoderConfig, strides_of
from picpoint.encoders.image_weights import find_weights
from picpoint.weights.cost import count_parameters

_BATCH = 16
_LEAST_S = 2.0


def main(name: str, overrides: Sequence[str]) -> int:
    """Print what an image encoder is, on the device that runs would use.

    Args:
        name: of a file of configs/image_encoder.
        overrides: `image_encoder.KEY=VALUE`.
    """
    config = _image_encoder_config(name, overrides)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = ImageEncoder(config, device)
    across = config.input_px // config.stride
    print(f"{config.name} at {config.input_px} px, {encoder.precision} on {device.type}")
    print(f"weights     {find_weights(config.name, config.weights)}")
    print(f"SHA-256     {encoder.weights_sha256}")
    print(f"parameters  {count_parameters(encoder) / 1e6:.2f} M, without the classifier")
    print(f"FLOPs       {_flops(encoder, config.input_px, device) / 1e9:.2f} G a picture")
    print(f"local map   stride {config.stride}: {across} x {across} x {encoder.local_width}")
    for stride in strides_of(config.name):
        if stride != config.stride and config.input_px % stride == 0:
            other = ImageEncoder(dataclasses.replace(config, stride=stride), device)
            cells = config.input_px // stride
            print(f"            or stride {stride}: {cells} x {cells} x {other.local_width}")
    print(f"pooled      {encoder.pooled_width}")
    unit = "pictures/s" if device.type == "cuda" else "pictures/s on one core"
    print(f"speed       {pictures_per_s(encoder, config.input_px, device):.0f} {unit}")
    return 0


def _image_encoder_config(name: str, overrides: Sequence[str]) -> ImageEncoderConfig:
    for override in overrides:
        if not override.startswith("image_encoder."):
            raise ConfigError(
                f"{override}: only the image encoder can be set here, as image_encoder.stride=8"
            )
    chosen = ["out=none", "data.shards=none", f"image_encoder={name}", *overrides]
    return load_job(PretrainJob, compose_config("pretrain", chosen)).image_encoder


def _pictures(count: int, size_px: int, device: torch.device) -> torch.Tensor:
    return torch.randint(256, (count, 1, 3, size_px, size_px), dtype=torch.uint8, device=device)


def _flops(encoder: ImageEncoder, size_px: int, device: torch.device) -> int:
    """Count products and sums of one picture, each for itself."""
    with FlopCounterMode(display=False) as counter:
        encoder(_pictures(1, size_px, device))
    return counter.get_total_flops()


def pictures_per_s(encoder: ImageEncoder, size_px: int, device: torch.device) -> float:
    """Time batches for some seconds, after one that does not count.

    On a CPU it is the CPU time of one thread, which others on the machine disturb least.
    """
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    pictures = _pictures(_BATCH, size_px, device)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    encoder(pictures).pooled.sum().item()  # waits for the device
    count, started_s = 0, clock()
    while clock() - started_s < _LEAST_S:
        encoder(pictures).pooled.sum().item()
        count += _BATCH
    spent_s = clock() - started_s
    torch.set_num_threads(num_threads)
    return count / spent_s
