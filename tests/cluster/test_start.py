"""What a command loads before it begins; ranks and Ray's workers wait for it, too."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("job", ["pretrain", "finetune"])
def test_training_does_not_wait_for_what_it_may_never_use(job):
    code = f"import sys, cluster.jobs.{job}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "torch" in loaded
    needless = {"sklearn", "trimesh", "scipy.stats", "pandas", "ray", "matplotlib", "torch._dynamo"}
    assert needless.isdisjoint(loaded)
