"""The shapes that come with picpoint; see CREDITS.md for who made them."""

from pathlib import Path

DEMO_SHAPES = Path(__file__).parent / "demo_shapes.zip"
