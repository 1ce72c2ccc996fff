"""Is a process still there?"""

from pathlib import Path


def is_running(pid: int) -> bool:
    """Tell whether a process lives; one that has ended and waits for its parent does not."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
