"""What `shards` offers as a library: its names, and the example of its first page."""

import subprocess
import sys
import textwrap

import pytest

import shards


def test_every_public_name_is_there_and_none_is_listed_twice():
    assert len(set(shards.__all__)) == len(shards.__all__)
    for name in shards.__all__:
        assert getattr(shards, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        _ = shards.nothing_of_ours


def test_the_example_runs_and_reads_every_sample_once(tmp_path):
    block = shards.__doc__.partition("    import numpy")[2].partition("\nShapes with pictures")[0]
    example = textwrap.dedent("    import numpy" + block)
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = sorted(done.stdout.splitlines())
    assert lines == [f"box/{number} (128, 3)" for number in range(6)]


def test_importing_the_package_loads_nothing_heavy():
    code = """
import sys
import shards
assert not {"numpy", "pyarrow", "obstore", "torch", "ray"} & set(sys.modules)
from shards import ReadPlan
assert not {"pyarrow", "obstore", "torch", "ray"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
