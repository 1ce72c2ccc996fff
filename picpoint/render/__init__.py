"""Meshes in, samples out. NumPy and numba only: rendering on a CPU needs no torch."""
