"""The page shows the shapes that it names."""

import numpy as np
import torch

from cluster.report_evaluation import _contact_sheet
from picpoint.data.config import DataConfig
from picpoint.encoders.dgcnn import DgcnnConfig
from picpoint.encoders.image import ImageEncoderConfig
from picpoint.evaluate.encoded import EncodedShapes
from picpoint.heads.projection import ProjectionConfig
from picpoint.losses.info_nce import LossConfig
from picpoint.train.settings import PretrainConfig
from picpoint.train.state import OptimConfig
from shards.codec import decode_picture
from shards.reader import Request, ShardReader


def test_shapes_are_shown_by_key_also_where_an_evaluation_left_some_out(shard_set):
    reader = ShardReader(shard_set)
    keys, labels = reader.manifest.read_texts("key", "label")
    told_of = np.array([row for row in range(len(keys)) if row not in (0, 1, 4, 9)])
    names = tuple(sorted(set(labels)))
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(told_of), 4)).astype(np.float32)
    shapes = EncodedShapes(
        keys=tuple(keys[row] for row in told_of),
        class_names=names,
        labels=np.array([names.index(labels[row]) for row in told_of]),
        features=vectors,
        shape_embeddings=vectors,
        picture_embeddings=vectors[:, None],
        held_out=np.arange(len(told_of)) % 3 == 1,
    )
    config = PretrainConfig(
        data=DataConfig(str(shard_set), num_points=48, correspondences=8),
        point_encoder=DgcnnConfig(),
        image_encoder=ImageEncoderConfig(),
        heads=ProjectionConfig(),
        loss=LossConfig(),
        optim=OptimConfig(),
    )
    shown = _contact_sheet(reader, config, shapes, num_shapes=3)
    first_of_class = [
        next(row for row in shapes.probe_test if shapes.labels[row] == label) for label in range(3)
    ]
    for annotated, row in zip(shown[::4], sorted(first_of_class), strict=True):
        view = int(annotated.caption.rpartition(" ")[2])
        assert annotated.caption.startswith(names[shapes.labels[row]])
        sample = reader.read(Request(int(told_of[row]), (view,)))
        assert sample is not None
        expected = torch.from_numpy(decode_picture(sample.pictures[view]))
        assert torch.equal(torch.from_numpy(annotated.picture), expected)
