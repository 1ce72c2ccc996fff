"""How would a competent user write the same pre-training step from the paper, without picpoint?

Stock webdataset loader, Pillow for the one picture that is used, DGCNN with a product per edge, the
frozen EfficientNet-Lite0 of its package asked at every step, one process, float32. The sizes are
those of picpoint's step; nothing here is slow on purpose.
"""

import importlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from picpoint.encoders.image_weights import find_weights, read_state

_MEAN, _STD = (0.498, 0.498, 0.498), (0.502, 0.502, 0.502)
_STRIDE_16_BLOCK = 10  # the last one of stride 16, of which the local map is taken


@dataclass(frozen=True, slots=True)
class PlainSizes:
    """What both steps have in common."""

    num_points: int
    correspondences: int
    batch: int
    picture_px: int
    latent_width: int
    temperature: float
    lr: float


@dataclass(frozen=True, slots=True)
class PlainBatch:
    """One batch of the plain loader."""

    points: Float[Tensor, "B N 3"]
    picture: Float[Tensor, "B 3 H W"]
    matrices: Float[Tensor, "B 32"]
    index: Int64[Tensor, "B K"]
    grid: Float[Tensor, "B K 2"]


def plain_batches(tars: Sequence[Path], sizes: PlainSizes) -> Iterator[PlainBatch]:
    """Stream shuffled batches, for ever."""
    webdataset: Any = importlib.import_module("webdataset")

    generator = np.random.default_rng(0)
    stream = webdataset.WebDataset(list(map(str, tars)), shardshuffle=False).shuffle(100).repeat()
    rows: list[tuple[Any, ...]] = []
    for sample in stream:
        rows.append(_row(sample, sizes, generator))
        if len(rows) == sizes.batch:
            yield PlainBatch(
                *(torch.from_numpy(np.stack(each)) for each in zip(*rows, strict=True))
            )
            rows = []


def _row(
    sample: dict[str, bytes], sizes: PlainSizes, generator: np.random.Generator
) -> tuple[np.ndarray, ...]:
    points = np.load(io.BytesIO(sample["points.npy"]))[: sizes.num_points].astype(np.float32)
    cameras = np.load(io.BytesIO(sample["cameras.npy"]))
    bits = np.frombuffer(sample["visibility.bin"], np.uint8).reshape(len(cameras), -1)
    view = generator.integers(len(cameras))
    picture = Image.open(io.BytesIO(sample[f"view{view:02d}.jpg"])).convert("RGB")
    picture = picture.resize((sizes.picture_px, sizes.picture_px), Image.Resampling.BOX)
    pixels = (np.asarray(picture, np.float32) / 255 - _MEAN) / _STD
    clip = np.c_[points, np.ones(len(points), np.float32)] @ (cameras[view, 1] @ cameras[view, 0]).T
    grid = clip[:, :2] / clip[:, 3:] * [1, -1]
    seen = np.flatnonzero(np.unpackbits(bits[view], count=len(bits[view]) * 8)[: len(points)])
    seen = seen if len(seen) else np.zeros(1, int)
    index = generator.choice(seen, sizes.correspondences)
    return (
        points,
        pixels.transpose(2, 0, 1).astype(np.float32),
        cameras[view].reshape(-1),
        index,
        grid[index].astype(np.float32),
    )


class PlainDgcnn(nn.Module):
    """DGCNN's classification encoder, an edge at a time."""

    def __init__(self, num_neighbours: int = 20) -> None:
        super().__init__()
        self.k = num_neighbours
        widths = (3, 64, 64, 128, 256)
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * a, b, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2))
            for a, b in pairwise(widths)
        )
        self.last = nn.Sequential(
            nn.Conv1d(512, 1024, 1, bias=False), nn.BatchNorm1d(1024), nn.LeakyReLU(0.2)
        )

    def forward(
        self, points: Float[Tensor, "B N 3"]
    ) -> tuple[Float[Tensor, "B C N"], Float[Tensor, "B 2C"]]:
        """Give local features and the pooled one."""
        x, levels = points.mT, []
        for conv in self.convs:
            x = conv(_edges(x, self.k)).amax(dim=-1)
            levels.append(x)
        local = self.last(torch.cat(levels, dim=1))
        return local, torch.cat([local.amax(dim=2), local.mean(dim=2)], dim=1)


def _edges(x: Float[Tensor, "B C N"], k: int) -> Float[Tensor, "B 2C N k"]:
    with torch.no_grad():
        inner = x.mT @ x
        squared = x.square().sum(dim=1)
        index = (2 * inner - squared[:, None] - squared[:, :, None]).topk(k, dim=-1).indices
    batch = torch.arange(len(x))[:, None, None]
    neighbours = x.mT[batch, index]
    own = x.mT[:, :, None].expand_as(neighbours)
    return torch.cat([neighbours - own, own], dim=-1).permute(0, 3, 1, 2).contiguous()


class PlainModel(nn.Module):
    """Both encoders, the pose code and four heads."""

    def __init__(self, latent_width: int) -> None:
        super().__init__()
        self.point_encoder = PlainDgcnn()
        self.image_encoder = EfficientNet.from_name("efficientnet-lite0")
        self.image_encoder.load_state_dict(read_state(find_weights("lite0", "default")))
        self.image_encoder.requires_grad_(False).eval()
        self.pose = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64))
        self.heads = nn.ModuleDict(
            {
                "point_local": _head(1024 + 64, latent_width),
                "point_pooled": _head(2048, latent_width),
                "picture_local": _head(112, latent_width),
                "picture_pooled": _head(1280, latent_width),
            }
        )

    def describe(
        self, picture: Float[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B P"]]:
        """Ask the frozen network for its map of stride 16 and its pooled feature."""
        net = self.image_encoder
        with torch.no_grad():
            x = net._swish(net._bn0(net._conv_stem(picture)))
            local = x
            for number, block in enumerate(net._blocks):
                x = block(x)
                if number == _STRIDE_16_BLOCK:
                    local = x
            x = net._swish(net._bn1(net._conv_head(x)))
        return local, x.mean(dim=(2, 3))

    def forward(self, batch: PlainBatch, temperature: float) -> Float[Tensor, ""]:
        """Give the loss of a batch."""
        local, pooled = self.point_encoder(batch.points)
        picture_local, picture_pooled = self.describe(batch.picture)
        rows = batch.index[:, None].expand(-1, local.shape[1], -1)
        points = local.gather(2, rows).mT
        code = self.pose(batch.matrices)[:, None].expand(-1, points.shape[1], -1)
        at_pixels = functional.grid_sample(
            picture_local, batch.grid[:, None], align_corners=False, padding_mode="border"
        )[:, :, 0].mT
        count = points.shape[:2]
        a = self.heads["point_local"](torch.cat([points, code], dim=-1).flatten(0, 1))
        b = self.heads["picture_local"](at_pixels.flatten(0, 1))
        of_points = _info_nce(a.unflatten(0, count), b.unflatten(0, count), temperature)
        a = self.heads["point_pooled"](pooled)
        b = self.heads["picture_pooled"](picture_pooled)
        return of_points + _info_nce(a[None], b[None], temperature)


def _head(width: int, latent_width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, latent_width)
    )


def _info_nce(
    a: Float[Tensor, "G n D"], b: Float[Tensor, "G n D"], temperature: float
) -> Float[Tensor, ""]:
    logits = functional.normalize(a, dim=-1) @ functional.normalize(b, dim=-1).mT / temperature
    own = torch.arange(logits.shape[1]).expand(len(logits), -1)
    forth = functional.cross_entropy(logits.mT, own)
    return (forth + functional.cross_entropy(logits, own)) / 2


def plain_steps(tars: Sequence[Path], sizes: PlainSizes) -> Iterator[float]:
    """Train, one step at a time; give the loss of each."""
    torch.manual_seed(0)
    model = PlainModel(sizes.latent_width)
    model.train()
    model.image_encoder.eval()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=sizes.lr)
    for batch in plain_batches(tars, sizes):
        loss = model(batch, sizes.temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()
