"""Where do the features that teach come from? A frozen network, or what it said before."""

from dataclasses import dataclass

import torch

from picpoint.batch import ImageFeatures, PairBatch
from picpoint.data.config import DataConfig
from picpoint.data.image_features import FeatureCodec, load_codec
from picpoint.encoders.image import ImageEncoder, ImageEncoderConfig
from picpoint.encoders.image_weights import MissingWeightsError, check_digest, find_weights
from picpoint.train.settings import ImageSource
from shards.errors import NotWholeError
from shards.manifest import Manifest


class OtherFeaturesError(ValueError):
    """Cached features are not those that the settings ask for."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """Who tells of pictures: a network that is asked, or what it said; one of the two is None.

    Attributes:
        source: which network.
        encoder: the network.
        codec: of the features that are read along with each shape.
    """

    source: ImageSource
    encoder: ImageEncoder | None
    codec: FeatureCodec | None

    def features(self, batch: PairBatch) -> ImageFeatures:
        """Give what is known of a batch's pictures, on the batch's device."""
        if self.encoder is not None:
            return self.encoder(batch.pictures)
        assert batch.image_features is not None
        return batch.image_features


def open_teacher(
    data: DataConfig, config: ImageEncoderConfig, manifest: Manifest, device: torch.device
) -> Teacher:
    """Load the network, or open what it said of a shard set's pictures.

    Raises:
        MissingWeightsError: the network's weights cannot be found.
        NotWholeError, OtherFeaturesError, ManifestError, StoreError: as `open_features`.
    """
    if data.image_features == "cached":
        codec = open_features(data.features, config, manifest)
        return Teacher(cached_source(codec), None, codec)
    encoder = ImageEncoder(config, device)
    return Teacher(live_source(encoder), encoder, None)


def live_source(encoder: ImageEncoder) -> ImageSource:
    """Describe a network that is asked at every step."""
    return ImageSource(
        local_width=encoder.local_width,
        pooled_width=encoder.pooled_width,
        weights_sha256=encoder.weights_sha256,
        precision=encoder.precision,
    )


def open_features(url: str, config: ImageEncoderConfig, manifest: Manifest) -> FeatureCodec:
    """Open cached features, and make sure that they are of this encoder and of these shards.

    Raises:
        NotWholeError: there are none, or they are not finished.
        OtherFeaturesError: they are others.
        ManifestError, StoreError: as `load_codec`.
    """
    codec = load_codec(url)
    if codec is None:
        raise NotWholeError(
            f"data.features={url}: no cached features; make them with picpoint cache-features"
        )
    info = codec.info
    wanted = {
        "image_encoder.name": (info.encoder, config.name),
        "image_encoder.stride": (info.stride, config.stride),
        "image_encoder.input_px": (info.input_px, config.input_px),
        "the shard set": (info.base_digest, manifest.digest),
    }
    found = [
        f"{name} was {was}, is {asked}" for name, (was, asked) in wanted.items() if was != asked
    ]
    if (weights := _wanted_weights(config)) not in (None, info.weights_sha256):
        found.append(f"the weights were {info.weights_sha256[:12]}..., are {weights[:12]}...")
    if config.precision not in ("auto", info.precision):
        found.append(f"image_encoder.precision was {info.precision}, is {config.precision}")
    if found:
        raise OtherFeaturesError(
            f"data.features={url}: made otherwise ({'; '.join(found)}); set it back, or make "
            "features anew with picpoint cache-features"
        )
    return codec


def _wanted_weights(config: ImageEncoderConfig) -> str | None:
    """Hash the weight file that the settings name; None where it is not on this machine.

    Raises:
        MissingWeightsError: a file is named, and it is not there.
    """
    try:
        return check_digest(find_weights(config.name, config.weights))
    except MissingWeightsError:
        if config.weights != "default":
            raise
        return None


def cached_source(codec: FeatureCodec) -> ImageSource:
    """Describe a network that was asked before."""
    info = codec.info
    return ImageSource(
        local_width=info.local_width,
        pooled_width=info.pooled_width,
        weights_sha256=info.weights_sha256,
        precision=info.precision,
        kept_as=f"{info.format} {info.basis_sha256[:12]}",
    )
