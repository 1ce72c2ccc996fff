import os
import subprocess
import sys
import time

from processes import is_running

CHILD = (
    "import os, sys, time\n"
    "from picpoint.render.children import end_with_parent\n"
    "end_with_parent(int(sys.argv[1]))\n"
    "print(os.getpid(), flush=True)\n"
    "time.sleep(600)\n"
)
PARENT = (
    "import os, subprocess, sys, time\n"
    "subprocess.Popen([sys.executable, '-c', sys.argv[1], str(os.getpid())])\n"
    "time.sleep(600)\n"
)


def ends_soon(pid):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not is_running(pid):
            return True
        time.sleep(0.02)
    return False


def test_a_child_ends_with_a_parent_that_is_killed():
    command = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        assert ends_soon(pid)


def test_a_child_whose_parent_ended_before_it_could_ask_ends_at_once():
    done = subprocess.run([sys.executable, "-c", CHILD, str(os.getpid() + 1)], timeout=60)
    assert done.returncode == 1
