"""States as public training code saves them: true names and shapes, made-up values.

Read off antao97/dgcnn.pytorch (model.py), MohamedAfham/CrossPoint (models/dgcnn.py) and
guochengqian/openpoints with PointNeXt's cfgs; no weight of theirs is here.
"""

import torch
from torch import Tensor

State = dict[str, Tensor]


def dgcnn_classification(num_classes: int = 40) -> State:
    """`DGCNN_cls`."""
    shapes = [(64, 6, 1, 1), (64, 128, 1, 1), (128, 128, 1, 1), (256, 256, 1, 1), (1024, 512, 1)]
    return _dgcnn_blocks(shapes) | _classifier(num_classes)


def crosspoint() -> State:
    """CrossPoint's `DGCNN`: no classifier, but a projection head."""
    shapes = [(64, 6, 1, 1), (64, 128, 1, 1), (128, 128, 1, 1), (256, 256, 1, 1), (1024, 512, 1)]
    head = _map("inv_head.0", (1024, 2048), True) | _norm("inv_head.1", 1024)
    return _dgcnn_blocks(shapes) | head | _map("inv_head.3", (256, 1024), True)


def dgcnn_parts() -> State:
    """`DGCNN_partseg`."""
    edges = [(64, 6, 1, 1), (64, 64, 1, 1), (64, 128, 1, 1), (64, 64, 1, 1), (64, 128, 1, 1)]
    points = [(1024, 192, 1), (64, 16, 1), (256, 1280, 1), (256, 256, 1), (128, 256, 1)]
    turning = _dgcnn_blocks([(64, 6, 1, 1), (128, 64, 1, 1), (1024, 128, 1)])
    turning |= _map("linear1", (512, 1024)) | _norm("bn3", 512)
    turning |= _map("linear2", (256, 512)) | _norm("bn4", 256) | _map("transform", (9, 256), True)
    turning = {f"transform_net.{name}": value for name, value in turning.items()}
    return turning | _dgcnn_blocks(edges + points) | _map("conv11", (50, 128, 1))


def dgcnn_scenes() -> State:
    """`DGCNN_semseg_s3dis`."""
    edges = [(64, 18, 1, 1), (64, 64, 1, 1), (64, 128, 1, 1), (64, 64, 1, 1), (64, 128, 1, 1)]
    points = [(1024, 192, 1), (512, 1216, 1), (256, 512, 1)]
    return _dgcnn_blocks(edges + points) | _map("conv9", (13, 256, 1))


def pointnext_classification(in_channels: int = 3, num_classes: int = 40) -> State:
    """`BaseCls` of PointNeXt-S."""
    encoder = _pointnext_encoder(in_channels, 2, (0, 0, 0, 0))
    for layer, width_in in enumerate((515, 512)):
        encoder |= _block(f"encoder.5.0.convs.{layer}", (512, width_in, 1, 1))
    head = _block("prediction.head.0", (512, 512)) | _block("prediction.head.2", (256, 512))
    head |= _map("prediction.head.4.0", (num_classes, 256), True)
    return _prefixed(encoder) | head


def pointnext_parts() -> State:
    """`BasePartSeg` of PointNeXt-S: three layers in an abstraction, positions, normals, heights."""
    decoder = _pointnext_decoder(64 + 128 + 16)
    for number, (width_in, width) in enumerate(((256, 64), (512, 128)), start=1):
        decoder |= _map(f"decoder.global_conv{number}.0.0", (width, width_in, 1), True)
    encoder = _pointnext_encoder(7, 3, (0, 0, 0, 0))
    return _prefixed(encoder) | decoder | _pointnext_head(96, 50)


def pointnext_scenes(blocks: tuple[int, ...]) -> State:
    """`BaseSeg` of PointNeXt-S (no residual blocks) or a larger one: colours, heights."""
    encoder = _pointnext_encoder(4, 1 if any(blocks) else 2, blocks)
    return _prefixed(encoder) | _pointnext_decoder(0) | _pointnext_head(32, 13)


def _pointnext_encoder(in_channels: int, layers: int, blocks: tuple[int, ...]) -> State:
    state = _map("encoder.0.0.convs.0.0", (32, in_channels, 1), True)
    width = 32
    for stage, num_blocks in enumerate(blocks, start=1):
        after = 2 * width
        # The inner maps are half as wide as the last.
        widths = [width + 3, *[after // 2] * (layers - 1), after]
        for layer in range(layers):
            shape = (widths[layer + 1], widths[layer], 1, 1)
            state |= _block(f"encoder.{stage}.0.convs.{layer}", shape)
        if layers > 1:
            state |= _map(f"encoder.{stage}.0.skipconv.0", (after, width, 1), True)
        for block in range(1, num_blocks + 1):
            name = f"encoder.{stage}.{block}"
            state |= _block(f"{name}.convs.convs.0", (after, after + 3, 1, 1))
            state |= _block(f"{name}.pwconv.0", (4 * after, after, 1))
            state |= _block(f"{name}.pwconv.1", (after, 4 * after, 1))
        width = after
    return state


def _pointnext_decoder(beside: int) -> State:
    state: State = {}
    for level, fine in enumerate((32, 64, 128, 256)):
        width_in = 3 * fine + (beside if level == 0 else 0)
        state |= _block(f"decoder.decoder.{level}.0.convs.0", (fine, width_in, 1))
        state |= _block(f"decoder.decoder.{level}.0.convs.1", (fine, fine, 1))
    return state


def _pointnext_head(width: int, num_classes: int) -> State:
    last = _map("head.head.2.0", (num_classes, width, 1), True)
    return _block("head.head.0", (width, width, 1)) | last


def _dgcnn_blocks(shapes: list[tuple[int, ...]]) -> State:
    """conv1, conv2, ...; the norm of each stands in the file twice."""
    state: State = {}
    for number, shape in enumerate(shapes, start=1):
        block = _block(f"conv{number}", shape)
        again = {
            name.replace(f"conv{number}.1.", f"bn{number}."): value
            for name, value in block.items()
            if f"conv{number}.1." in name
        }
        state |= again | block
    return state


def _classifier(num_classes: int) -> State:
    state = _map("linear1", (512, 2048)) | _norm("bn6", 512)
    state |= _map("linear2", (256, 512), True) | _norm("bn7", 256)
    return state | _map("linear3", (num_classes, 256), True)


def _block(name: str, shape: tuple[int, ...]) -> State:
    return _map(f"{name}.0", shape) | _norm(f"{name}.1", shape[0])


def _map(name: str, shape: tuple[int, ...], biased: bool = False) -> State:
    weight = {f"{name}.weight": torch.randn(shape) / shape[1] ** 0.5}
    return weight | ({f"{name}.bias": torch.randn(shape[0])} if biased else {})


def _norm(name: str, width: int) -> State:
    state = {f"{name}.{kind}": torch.randn(width) for kind in ("weight", "bias", "running_mean")}
    state[f"{name}.running_var"] = torch.rand(width) + 0.5
    return state | {f"{name}.num_batches_tracked": torch.tensor(7)}


def _prefixed(state: State) -> State:
    return {f"encoder.{name}": value for name, value in state.items()}
