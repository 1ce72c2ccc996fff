"""Weights that leave picpoint or come into it."""
