import math
import platform
from pathlib import Path

import pytest
import torch

from picpoint.ops.precision import has_bfloat16
from picpoint.train.checkpoint import newest_checkpoint
from picpoint.train.precision import autocast, gradient_scaler, resolve_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("in_hardware", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bfloat16_where_the_hardware_has_it(monkeypatch, in_hardware, chosen):
    monkeypatch.setattr("picpoint.train.precision.has_bfloat16", lambda device: in_hardware)
    assert resolve_precision("auto", CPU) == chosen
    assert resolve_precision("fp16", CPU) == "fp16"


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists(),
    reason="only Linux tells a processor's flags in a file, and only x86 has these",
)
def test_a_cpu_says_itself_whether_it_has_bfloat16():
    flags = Path("/proc/cpuinfo").read_text().split()
    assert has_bfloat16(CPU) == ("avx512_bf16" in flags or "amx_tile" in flags)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_the_forward_pass_runs_in_the_precision_s_format(precision, dtype):
    with autocast(precision, CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert (gradient_scaler(precision, CPU) is None) == (precision != "fp16")


def test_ten_float16_steps_are_five_a_restart_and_five_bit_for_bit(train, tmp_path):
    settings = {"precision": "fp16", "epochs": 4, "checkpoint_every": 4}
    whole = train("whole", **settings)
    train("parts", steps=4, **settings)
    parts = train("parts", resume="auto", **settings)
    assert [report.loss for report in parts] == [report.loss for report in whole[4:]]
    assert all(torch.isfinite(torch.tensor([report.loss for report in whole])))


def test_a_float16_gradient_that_overflows_is_passed_over_and_scaled_down(
    train, tmp_path, monkeypatch
):
    """A loss scaled by 2^40 overflows; training goes on once the scale has fallen."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=1000)
    monkeypatch.setattr("picpoint.train.pretrain.gradient_scaler", lambda *a: scaler)
    reports = train("run", precision="fp16", epochs=16)
    overflowed = [report.step for report in reports if not math.isfinite(report.grad_norm)]
    assert overflowed[:20] == list(range(1, 21))
    assert len(overflowed) < 35
    assert scaler.get_scale() == 2.0 ** (40 - len(overflowed))
    state = newest_checkpoint(tmp_path / "run" / "checkpoints")[0].state
    assert all(value.isfinite().all() for value in state["model"].values())
    moments = state["optimizer"]["state"].values()
    assert {int(each["step"]) for each in moments} == {len(reports) - len(overflowed)}
