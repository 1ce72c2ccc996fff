"""How do pictures travel inside the page? As JPEG in data addresses, with their marks as SVG."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image


@dataclass(frozen=True, slots=True)
class AnnotatedPicture:
    """A render and where the points that it shows are projected to.

    Attributes:
        picture: RGB, 0..255, row 0 on top.
        pixels: u right and v down, in px of that picture.
        caption: what it shows.
    """

    picture: UInt8[np.ndarray, "S S 3"]
    pixels: Float[np.ndarray, "k 2"]
    caption: str

    @property
    def dots(self) -> str:
        """An SVG path with a dot, drawn by its round cap, on every point."""
        return "".join(f"M{u:.1f} {v:.1f}h0" for u, v in self.pixels.tolist())


def data_address(picture: UInt8[np.ndarray, "S T 3"], largest_px: int) -> str:
    """Encode a picture as a `data:` address, scaled down where it is larger than asked."""
    image = Image.fromarray(picture)
    image.thumbnail((largest_px, largest_px), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()


def see_through_address(picture: UInt8[np.ndarray, "S T 4"]) -> str:
    """Encode a picture with transparency as a `data:` address."""
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "WEBP", quality=80, method=2)
    return "data:image/webp;base64," + base64.b64encode(encoded.getvalue()).decode()
