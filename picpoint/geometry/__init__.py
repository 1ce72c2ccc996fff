"""Geometry without learning: cameras, clouds, visibility. NumPy and numba; no torch needed."""
