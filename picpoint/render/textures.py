"""How does a picture file become a texture? Pillow, with limits on what is decoded."""

import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

# What materials name in practice. Formats that Pillow hands to other programs are not among them.
_FORMATS = ("JPEG", "PNG", "BMP", "TGA", "GIF", "TIFF", "WEBP", "DDS")


@dataclass(frozen=True, slots=True)
class TextureLimits:
    """What a texture may cost.

    Attributes:
        max_px: pixels that a file may hold; larger ones are not decoded.
        max_side_px: larger pictures are reduced to this side, far above what a render shows.
    """

    max_px: int = 64_000_000
    max_side_px: int = 1024


class TextureError(ValueError):
    """A texture that cannot be used.

    Attributes:
        warning: reason code for the mesh's warnings.
    """

    def __init__(self, warning: str, detail: str) -> None:
        super().__init__(f"{warning}: {detail}")
        self.warning = warning


def decode_texture(
    source: bytes | Image.Image, limits: TextureLimits
) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a picture to sRGB, row 0 on top; transparency is left out.

    Args:
        source: the bytes of a picture file, or a picture that Pillow opened but did not decode.
        limits: what it may cost.

    Raises:
        TextureError: `texture_too_large` or `unreadable_texture`.
    """
    try:
        image = source
        if isinstance(image, bytes):
            image = Image.open(io.BytesIO(image), formats=_FORMATS)
        if image.format not in _FORMATS:
            raise TextureError("unreadable_texture", f"format {image.format} is not for textures")
        num_px = image.width * image.height
        if num_px > limits.max_px:
            raise TextureError("texture_too_large", f"{num_px} px, at most {limits.max_px}")
        image.thumbnail((limits.max_side_px, limits.max_side_px))
        # Through RGBA, because a palette may carry transparency.
        return np.ascontiguousarray(image.convert("RGBA").convert("RGB"), dtype=np.uint8)
    except TextureError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TextureError("texture_too_large", str(error)) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise TextureError("unreadable_texture", str(error)) from error
