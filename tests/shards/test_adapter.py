import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_sets import keys_of, make_sample

from shards.adapter import as_webdataset, plan_requests
from shards.codec import encode_sample
from shards.errors import CorruptSampleError
from shards.manifest import shard_name
from shards.plan import ReadPlan
from shards.reader import Request, ShardReader


def test_a_stock_pipeline_gets_the_samples_of_the_plan_in_its_order(shard_set):
    plan = ReadPlan(shard_set.digest, 12, 4, 7, "drop_last")
    requests = list(plan_requests(plan, epoch=1, views=(0, 2)))
    found = list(as_webdataset(ShardReader(shard_set), requests))
    order = plan.positions_to_samples(1, np.arange(12)).tolist()
    assert [each["__key__"] for each in found] == [keys_of(shard_set)[i] for i in order]
    for index, each in zip(order, found, strict=True):
        written = encode_sample(make_sample(index))
        members = {name: each[name] for name in each if not name.startswith("__")}
        assert members == {name: c for name, c in written.items() if name != "view01.jpg"}
        assert each["__url__"].endswith(f"/{shard_name(index // 4)}")


def test_stages_of_webdataset_go_on_from_there(shard_set):
    pipeline = as_webdataset(ShardReader(shard_set), [Request(i, (1,)) for i in range(6)])
    pairs = list(pipeline.to_tuple("__key__", "view01.jpg").batched(3))
    assert [len(keys) for keys, _ in pairs] == [3, 3]
    assert pairs[1][1][2] == make_sample(5).pictures[1]


def test_workers_share_an_epoch_without_loss_or_repetition(shard_set):
    plan = ReadPlan(shard_set.digest, 12, 5, 7, "pad")
    read = [
        request.sample_index
        for worker in range(3)
        for request in plan_requests(plan, 0, (), worker, num_workers=3)
    ]
    assert sorted(read) == list(range(12))


def test_a_damaged_sample_is_skipped_and_counted_or_ends_the_pipeline(shard_set):
    span = shard_set.row(3).members[2]
    path = Path(shard_set.url) / shard_name(0)
    content = bytearray(path.read_bytes())
    content[span.offset] ^= 1
    path.write_bytes(content)
    reader = ShardReader(shard_set, "skip_and_count")
    requests = [Request(index) for index in range(12)]
    assert len(list(as_webdataset(reader, requests))) == 11
    assert [each.sample_index for each in reader.corrupt] == [3]
    with pytest.raises(CorruptSampleError):
        list(as_webdataset(ShardReader(shard_set), requests))


def test_importing_the_adapter_imports_neither_webdataset_nor_torch():
    code = "import sys, shards.adapter; print({'torch', 'webdataset'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
