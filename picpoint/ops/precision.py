"""In which number format should a device compute? In bfloat16 only where its hardware can."""

import platform

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 in hardware.

    torch emulates it elsewhere: on a CPU without AVX-512-BF16 or AMX, EfficientNet-Lite0 took 14
    times as long as in float32.
    """
    if device.type == "cuda":
        # Cards from Ampere on; older ones are said to support it too, by emulation.
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if platform.machine() in ("x86_64", "AMD64"):
        # oneDNN says yes to every AVX-512, also to those that only emulate it.
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
