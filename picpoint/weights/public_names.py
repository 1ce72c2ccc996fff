"""What are our parameters called in the public code of DGCNN and PointNeXt?

    DGCNN      https://github.com/antao97/dgcnn.pytorch, `DGCNN_cls`
    PointNeXt  https://github.com/guochengqian/openpoints, `PointNextEncoder`

Values are the same but for the 1s that a convolution's weight ends in.
"""

from picpoint.encoders.dgcnn import DgcnnConfig
from picpoint.encoders.pointnext import PointNextConfig

_NORM = ("weight", "bias", "running_mean", "running_var")


def public_names(config: DgcnnConfig | PointNextConfig) -> dict[str, str]:
    """Map each parameter and buffer of an encoder to its name in the public code."""
    match config:
        case DgcnnConfig():
            return _dgcnn_names(config)
        case PointNextConfig():
            return _pointnext_names(config)


def _dgcnn_names(config: DgcnnConfig) -> dict[str, str]:
    names: dict[str, str] = {}
    for layer in range(len(config.widths)):
        ours = f"edge_convs.{layer}"
        names |= _linear_and_norm(f"{ours}.linear", f"{ours}.norm", f"conv{layer + 1}")
    return names | _linear_and_norm("linear", "norm", f"conv{len(config.widths) + 1}")


def _pointnext_names(config: PointNextConfig) -> dict[str, str]:
    names = {f"stem.{kind}": f"encoder.0.0.convs.0.0.{kind}" for kind in ("weight", "bias")}
    inner = range(config.abstraction_layers - 1)
    for stage, num_blocks in enumerate(config.blocks):
        ours, theirs = f"stages.{stage}.abstraction", f"encoder.{stage + 1}.0"
        edges = (f"{ours}.edge_linear.linear", f"{ours}.edge_norm")
        names |= _linear_and_norm(*edges, f"{theirs}.convs.0")
        for layer in inner:
            maps = (f"{ours}.linears.{layer}", f"{ours}.norms.{layer}")
            names |= _linear_and_norm(*maps, f"{theirs}.convs.{layer + 1}")
        if inner:
            for kind in ("weight", "bias"):
                names[f"{ours}.skip.{kind}"] = f"{theirs}.skipconv.0.{kind}"
        for block in range(num_blocks):
            ours, theirs = f"stages.{stage}.blocks.{block}", f"encoder.{stage + 1}.{block + 1}"
            edges = (f"{ours}.edge_linear.linear", f"{ours}.edge_norm")
            names |= _linear_and_norm(*edges, f"{theirs}.convs.convs.0")
            for number, name in enumerate(("expand", "project")):
                maps = (f"{ours}.{name}", f"{ours}.{name}_norm")
                names |= _linear_and_norm(*maps, f"{theirs}.pwconv.{number}")
    for layer in range(config.abstraction_layers):
        maps = (f"pool.linears.{layer}", f"pool.norms.{layer}")
        names |= _linear_and_norm(*maps, f"encoder.{len(config.blocks) + 1}.0.convs.{layer}")
    return names


def _linear_and_norm(linear: str, norm: str, theirs: str) -> dict[str, str]:
    """Map a linear map without bias and the BatchNorm after it, together one block of theirs."""
    names = {f"{linear}.weight": f"{theirs}.0.weight"}
    return names | {f"{norm}.{kind}": f"{theirs}.1.{kind}" for kind in _NORM}
