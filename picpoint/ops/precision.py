"""In which number format should a device compute? In bfloat16 only where its hardware can."""

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 in hardware.

    torch emulates it elsewhere: on a CPU without AVX-512-BF16 or AMX, EfficientNet-Lite0 took 14
    times as long as in float32.
    """
    if device.type == "cuda":
        # Cards from Ampere on; older ones are said to support it too, by emulation.
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
