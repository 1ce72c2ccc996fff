"""Speed, measured: each benchmark is run by `python -m benchmarks.NAME`."""
