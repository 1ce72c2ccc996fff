"""Is a process still there, and what did this one need?"""

from pathlib import Path


def is_running(pid: int) -> bool:
    """Tell whether a process lives; one that has ended and waits for its parent does not."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def peak_memory_mb() -> float:
    """Tell the most memory that this process has held since it began.

    getrusage would also count what its parent held when it was forked.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000
