"""Which data sets can be read, in which of their layouts and variants?"""

from typing import Literal, get_args

DatasetName = Literal[
    "modelnet40_h5",
    "modelnet40_resampled",
    "modelnet10_resampled",
    "modelnet40_off",
    "modelnet10_off",
    "shapenetcore",
    "sweethome3d",
    "kicad",
    "scanobjectnn_obj_bg",
    "scanobjectnn_obj_only",
    "scanobjectnn_pb_t50_rs",
    "shapenetpart_h5",
    "shapenetpart_text",
    "s3dis_blocks",
    "s3dis_rooms",
    "folder",
    "rendered",
]
DATASET_NAMES: tuple[DatasetName, ...] = get_args(DatasetName)

CLOUDS_PER_SHARD = 1024
