"""What do time and memory of the global loss grow with?

    python -m benchmarks.info_nce            4,096 to 65,536 rows of 512 numbers, a record
    python -m benchmarks.info_nce --quick    2,048 rows

Forward and backward of both directions, float32: by tiles, as training does it, and with the whole
matrix of similarities, where that fits 2 GB. Memory is what the peak of the resident set rose by.
The last line of stdout is one JSON object.
"""

import argparse
import json
import time
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from benchmarks.memory import reset_peak, status_bytes
from benchmarks.record import Json, write_record
from picpoint.losses.tiled import contrast_rows

WIDTH = 512
_WHOLE_FITS = 16_384

Contrast = Callable[[Float[Tensor, "n D"], Float[Tensor, "n D"]], Float[Tensor, ""]]


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="2,048 rows, in seconds")
    quick = parser.parse_args().quick
    counts = (2048,) if quick else (4096, 16_384, 65_536)
    results: dict[str, Json] = {str(count): measure(count) for count in counts}
    if not quick:
        print(f"wrote {write_record('info_nce', results, ('torch',))}")
    print(json.dumps(results))


def measure(count: int) -> dict[str, Json]:
    """Measure both forms at one number of rows."""
    costs: dict[str, Json] = {}
    forms: dict[str, Contrast] = {"tiled": _tiled}
    if count <= _WHOLE_FITS:
        forms["whole"] = _whole
    for name, contrast in forms.items():
        generator = torch.Generator().manual_seed(0)
        rows = [
            functional.normalize(torch.randn(count, WIDTH, generator=generator)).requires_grad_()
            for _ in range(2)
        ]
        base_bytes, started = reset_peak(), time.process_time()
        contrast(*rows).backward()
        costs[f"{name}_cpu_s"] = round(time.process_time() - started, 2)
        costs[f"{name}_mb"] = round((status_bytes("VmHWM") - base_bytes) / 1e6)
        print(f"{count} rows, {name}: {costs[f'{name}_cpu_s']} CPU-s, {costs[f'{name}_mb']} MB")
    return costs


def _tiled(a: Float[Tensor, "n D"], b: Float[Tensor, "n D"]) -> Float[Tensor, ""]:
    own, allowed = torch.arange(len(a)), torch.ones(len(a), dtype=torch.bool)
    forth, _ = contrast_rows(a / 0.1, b, own, allowed)
    back, _ = contrast_rows(b / 0.1, a, own, allowed)
    return (forth + back).mean()


def _whole(a: Float[Tensor, "n D"], b: Float[Tensor, "n D"]) -> Float[Tensor, ""]:
    logits, own = a @ b.mT / 0.1, torch.arange(len(a))
    return functional.cross_entropy(logits, own) + functional.cross_entropy(logits.mT, own)


if __name__ == "__main__":
    main()
