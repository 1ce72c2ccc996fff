"""Shard sets of format 1 are read as they were: tests/assets/shards_v1, written by picpoint 0.1.0.

Two shapes of 61 points and 20 views at 16 px. Its meta named one rig, without its views' number.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from shards.errors import ManifestError
from shards.manifest import load_manifest
from shards.reader import PAIRING, Request, ShardReader
from shards.schema import META, RigViews, check_sample
from shards.verify import verify

OLD_SET = Path(__file__).parent.parent / "assets" / "shards_v1"
# The digest that its runs were made with: a checkpoint fits no other.
DIGEST = "7b9aba40ee7afe361fb04cb1f5534589c0f4469463ff84297954e5d5736e8f14"


def test_it_is_whole_and_keeps_its_digest() -> None:
    assert json.loads((OLD_SET / "manifest.json").read_text())["schema_version"] == 1
    report = verify(OLD_SET)
    assert report.findings == ()
    assert report.num_samples == 2
    assert load_manifest(OLD_SET).digest == DIGEST


@pytest.mark.parametrize("index", [0, 1])
def test_its_one_rig_has_all_its_views(index: int) -> None:
    sample = ShardReader(OLD_SET).read(Request(index, tuple(range(20))))
    assert sample is not None
    assert sample.meta.rigs == (RigViews("dodecahedron", 20),)
    check_sample(sample, whole=True)
    assert sample.meta.source_id == ("box/cube", "wedge/tetra")[index]
    assert sample.num_points == 61
    np.testing.assert_allclose(np.linalg.norm(sample.points.astype(float), axis=1).max(), 1, 0.1)


def test_its_parts_are_read_alone_too() -> None:
    pairing = ShardReader(OLD_SET, members=PAIRING).read(Request(1, (19,)))
    assert pairing is not None
    assert pairing.meta.rigs == (RigViews("dodecahedron", 20),)
    cloud = ShardReader(OLD_SET, members=(META,)).read(Request(1))
    assert cloud is not None
    assert cloud.meta.rigs == (RigViews("dodecahedron", 0),)  # not known without the cameras


def test_a_set_cannot_pass_for_one_of_another_version(tmp_path: Path) -> None:
    copy = shutil.copytree(OLD_SET, tmp_path / "copy")
    record = json.loads((copy / "manifest.json").read_text()) | {"schema_version": 2}
    (copy / "manifest.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    with pytest.raises(ManifestError, match="says other things"):
        load_manifest(copy)
