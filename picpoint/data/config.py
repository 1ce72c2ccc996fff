"""What does a training step read of each shape? The settings."""

from dataclasses import dataclass, field
from typing import Literal

from picpoint.data.augment import AugmentConfig
from picpoint.data.split import HoldoutConfig
from picpoint.data.views import ALL_RIGS
from shards.cache import CacheConfig


@dataclass(frozen=True, slots=True)
class DataConfig:
    """What a training step reads of each shape.

    Attributes:
        shards: folder or URL of the shard set.
        num_points: points per cloud; the paper's 1,024.
        point_subset: `prefix` takes the first of the stored farthest-point order, always the same;
            `random` draws others each time and sorts them into farthest-point order.
        rig: whose of the rendered views are used, by the rig's name; `all` for every one's.
        views: how many of those are used, spread as evenly as can be; 0 for all.
        views_per_step: views of a shape in one step. Paper: unspecified; here 1, because one pass
            of the image encoder per pass of the point encoder keeps the two costs alike.
        correspondences: visible points per view. Paper: unspecified; here 128.
        holdout: which shapes pre-training never sees.
        augment: random motion of the clouds.
        image_features: `live` decodes pictures and asks the image encoder; `cached` reads what it
            said of them (picpoint cache-features), at a fraction of the cost. Colours of pictures
            cannot be jittered then, nor pictures be read at another size.
        features: folder or URL of the cached features.
        on_corrupt: `fail` stops at a corrupt sample; `skip_and_count` leaves its slot masked.
        read_ahead: batches built ahead of the training step.
        cache_dir: local folder that keeps what was fetched from a bucket, and how a set is split,
            shared by the processes of a machine; "" for none.
        cache_gb: how much it keeps, in 1e9 bytes.
    """

    shards: str
    num_points: int = 1024
    point_subset: Literal["prefix", "random"] = "prefix"
    rig: str = ALL_RIGS
    views: int = 0
    views_per_step: int = 1
    correspondences: int = 128
    holdout: HoldoutConfig = field(default_factory=HoldoutConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    image_features: Literal["live", "cached"] = "live"
    features: str = ""
    on_corrupt: Literal["fail", "skip_and_count"] = "fail"
    read_ahead: int = 2
    cache_dir: str = ""
    cache_gb: float = 100.0

    def __post_init__(self) -> None:
        for name in ("num_points", "correspondences", "views_per_step", "read_ahead"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name}={getattr(self, name)}: must be at least 1")
        if (self.image_features == "cached") != bool(self.features):
            raise ValueError(
                f"data.image_features={self.image_features}, data.features={self.features!r}: "
                "cached features need the folder that picpoint cache-features wrote, and live ones "
                "none"
            )
        if self.cache_gb <= 0:
            raise ValueError(f"data.cache_gb={self.cache_gb}: must be more than 0")
        if self.views < 0:
            raise ValueError(f"data.views={self.views}: must be 0 or more; 0 for all")
        if 0 < self.views < self.views_per_step:
            raise ValueError(
                f"data.views_per_step={self.views_per_step}: only data.views={self.views} are "
                "used; lower the one or raise the other"
            )

    @property
    def cache(self) -> CacheConfig | None:
        """Where the reader keeps what it fetches."""
        return CacheConfig(self.cache_dir, self.cache_gb) if self.cache_dir else None
