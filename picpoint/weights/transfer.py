"""How does a pre-trained point encoder get into the network of a task? By the names of its tensors.

Every tensor of both is accounted for. What has no partner in the task's network is left over, what
has none in the pre-trained encoder keeps its initial values, and so does what is said to begin
anew; a partner of another shape is refused.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from picpoint.weights.table import Line


class TransferRefusedError(ValueError):
    """Pre-trained weights do not fit a network; the message says what differs."""


def transfer_weights(
    network: nn.Module, state: Mapping[str, Tensor], initialise: tuple[str, ...] = ()
) -> list[Line]:
    """Copy the tensors of a pre-trained encoder into the part of a network that is like it.

    Args:
        network: takes them; unchanged if they are refused.
        state: of the encoder, by its names.
        initialise: beginnings of names that keep their initial values, all of them: the bias of a
            layer is of no use without its weights.

    Returns:
        What became of every tensor.

    Raises:
        TransferRefusedError: a tensor has another shape or is not finite, no map fits, or nothing
            is named as what should begin anew.
    """
    own = network.state_dict()
    for prefix in initialise:
        if not any(name.startswith(prefix) for name in own):
            raise TransferRefusedError(
                f"initialise=[{prefix}]: no tensor's name begins so; there are "
                + ", ".join(sorted({name.partition(".")[0] for name in own}))
            )
    lines = [_match(name, value, state, initialise) for name, value in own.items()]
    lines += [
        Line("left over", "", name, "the network has no such tensor")
        for name in state
        if name not in own
    ]
    refused = [line for line in lines if line.fate == "refused"]
    if refused:
        raise TransferRefusedError(
            f"{len(refused)} of {len(lines)} tensors do not fit, as {refused[0].ours}: "
            f"{refused[0].note}; build the network in the encoder's shape (point_encoder=...), or "
            f"name what begins anew: initialise=[{refused[0].ours}]"
        )
    # Norms of other layers may have the same name and width: only maps tell that it is the encoder.
    if not any(line.fate == "used" and state[line.theirs].ndim > 1 for line in lines):
        raise TransferRefusedError(
            "no tensor of the pre-trained encoder has a place in this network, or only norms have; "
            "take another point_encoder, or train from scratch with weights=''"
        )
    with torch.no_grad():
        for line in lines:
            if line.fate == "used":
                own[line.ours].copy_(state[line.theirs])
    return lines


def _match(
    name: str, value: Tensor, state: Mapping[str, Tensor], initialise: tuple[str, ...]
) -> Line:
    """Say what becomes of a tensor of the network."""
    if name not in state:
        return Line("initialised", name, "", "not in the encoder")
    theirs = state[name]
    told = f"{tuple(theirs.shape)} in the encoder, {tuple(value.shape)} here"
    if name.startswith(initialise):
        return Line("initialised", name, name, told)
    if theirs.shape != value.shape:
        return Line("refused", name, name, told)
    if not bool(torch.isfinite(theirs).all()):
        return Line("refused", name, name, "not finite")
    return Line("used", name, name, str(tuple(value.shape)))
