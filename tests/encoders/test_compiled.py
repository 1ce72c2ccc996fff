"""Under torch.compile the point encoders say what they say by their own kernels."""

import subprocess
import sys

import pytest

COMPILED = """
import sys
import torch
from picpoint.encoders.dgcnn import Dgcnn, DgcnnConfig
from picpoint.encoders.pointnext import PointNext, PointNextConfig

torch.manual_seed(0)
encoder = {
    "dgcnn": lambda: Dgcnn(DgcnnConfig(widths=(8, 8, 8, 16), pooled_width=16, num_neighbours=4), 2),
    "pointnext": lambda: PointNext(PointNextConfig(width=8, strides=(2, 2), blocks=(1, 0)), 2),
}[sys.argv[1]]().double()
points = torch.randn(2, 64, 3, dtype=torch.float64)
points /= points.norm(dim=-1, keepdim=True)
compiled = torch.compile(encoder, backend="aot_eager")
gradients = []
for form in (encoder, compiled):
    encoder.zero_grad()
    features = form(points)
    (features.pooled.square().sum() + features.local.square().sum()).backward()
    gradients.append((features.pooled, features.local, *(p.grad for p in encoder.parameters())))
torch.testing.assert_close(gradients[1], gradients[0])
print(torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dgcnn", "pointnext"])
def test_a_compiled_encoder_says_the_same(name):
    # In a process of its own: what checks shapes in tests stands in the compiler's way.
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
