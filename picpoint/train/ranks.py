"""How does a model train on several ranks?"""

from typing import TypeVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

Model = TypeVar("Model", bound=nn.Module)


def distributed(model: Model, ranks: int, device: torch.device) -> Model | DistributedDataParallel:
    """Have the gradients of all ranks added up; a single rank keeps its model as it is."""
    if ranks == 1:
        return model
    # BatchNorm's running statistics are kept equal by update_running_statistics.
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        broadcast_buffers=False,
        # Every parameter is used. But only so are buckets never built anew after the first step:
        # after a restart three ranks or more would add the same gradients in another order.
        find_unused_parameters=True,
        gradient_as_bucket_view=True,
    )
