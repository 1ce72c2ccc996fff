"""How is a run asked to save itself and end? By a file in its folder."""

from pathlib import Path

STOP_FILE = "STOP"


def stop_wanted(run_dir: Path, rank: int) -> bool:
    """Whether someone asked the run to save itself and end; rank 0 looks, all ranks obey."""
    return rank == 0 and (run_dir / STOP_FILE).exists()
