"""How does a child process end with its parent?"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(parent_pid: int | None = None) -> None:
    """Leave Ctrl-C to the parent, and ask the kernel to kill this process when the parent ends.

    Linux only: elsewhere an orphan goes on until it finds its pipe closed. The kernel counts the
    *thread* that started this process as its parent.

    Args:
        parent_pid: process that started this one, if it could have ended before this call.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent_pid is not None and os.getppid() != parent_pid:
        os._exit(1)
