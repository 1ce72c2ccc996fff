"""Overrides of `picpoint pretrain` that make a run of seconds on the conftest's shard set."""

TINY_RUN = [
    "runtime=local",
    "data.num_points=48",
    "data.correspondences=8",
    "point_encoder.widths=[8,8,8,16]",
    "point_encoder.pooled_width=16",
    "point_encoder.num_neighbours=4",
    "image_encoder.input_px=64",
    "image_encoder.precision=float32",
    "precision=fp32",
    "heads.latent_width=16",
    "heads.hidden_width=16",
]
