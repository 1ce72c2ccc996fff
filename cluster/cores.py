"""How many cores may this process keep busy?"""

import os


def usable_cores() -> int:
    """Count the cores of this machine that this process may run on; all, where none are told."""
    told = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(told(0)) if told else os.cpu_count() or 1
