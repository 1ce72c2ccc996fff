"""The reckoning of data sets on many GPUs: what must hold whatever is assumed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.record import RESULTS
from benchmarks.scale_model import (
    OBJAVERSE,
    OBJAVERSE_XL,
    SHAPENET,
    Assumed,
    Measured,
    cache_features,
    pretrain,
    render,
)
from benchmarks.scale_page import PAGE, with_tables
from benchmarks.simulated_ranks import Fabric

MEASURED = Measured(
    render_cpu_s=0.3,
    render_views=20,
    render_faces=10_000,
    view_ms_by_faces=((5_000, 3.0), (50_000, 7.0), (500_000, 25.0)),
    shard_bytes=350e3,
    picture_cpu_s=250e-6,
    encode_cpu_s=0.04,
    feature_bytes=300e3,
    encode_requests=1.0,
    step_cpu_s=0.16,
    data_cpu_s=0.002,
    read_requests=2.0,
    read_bytes=350e3,
    request_cpu_s=700e-6,
    latent_width=512,
    views_per_step=1,
    gradient_bytes=17_000_000,
    statistics_bytes=65_000,
)
ASSUMED = Assumed()


def all_stages(data, assumed, num_gpus):
    return (
        render(data, MEASURED, assumed, num_gpus),
        cache_features(data, MEASURED, assumed, num_gpus),
        pretrain(data, MEASURED, assumed, Fabric(), num_gpus),
    )


def test_the_slowest_cause_is_the_bottleneck_and_the_time():
    for data in (SHAPENET, OBJAVERSE, OBJAVERSE_XL):
        for stage in all_stages(data, ASSUMED, 64):
            causes = stage["hours_by_cause"]
            assert stage["hours"] == max(causes.values()) == causes[stage["bottleneck"]]


def test_more_gpus_are_never_slower_and_more_shapes_never_faster():
    for data in (SHAPENET, OBJAVERSE, OBJAVERSE_XL):
        for few, many in ((1, 8), (8, 64), (64, 512)):
            pairs = zip(
                all_stages(data, ASSUMED, few), all_stages(data, ASSUMED, many), strict=True
            )
            assert all(more["hours"] <= less["hours"] for less, more in pairs)
    larger = replace(SHAPENET, num_shapes=2 * SHAPENET.num_shapes)
    for one, two in zip(
        all_stages(SHAPENET, ASSUMED, 8), all_stages(larger, ASSUMED, 8), strict=True
    ):
        assert two["hours"] == pytest.approx(2 * one["hours"])
        assert two["usd"] == pytest.approx(2 * one["usd"])


def test_a_stage_by_hand():
    # 52,000 x 20 pictures of 40 ms on a hundredth of that; one GPU for 2.5 USD.
    stage = cache_features(SHAPENET, MEASURED, ASSUMED, 1)
    hours = 52_000 * 20 * 0.04 / 100 / 3600
    requests_usd = 52_000 * 0.0004 / 1000 + 2 * 52_000 / 1_500 * 0.005 / 1000
    assert stage["bottleneck"] == "image encoder"
    assert stage["hours"] == pytest.approx(hours)
    assert stage["usd"] == pytest.approx(2.5 * hours + requests_usd)


def test_what_is_made_faster_stops_being_the_bottleneck():
    slow = pretrain(OBJAVERSE, MEASURED, ASSUMED, Fabric(), 64)
    assert slow["bottleneck"] == "requests"
    quick_store = replace(ASSUMED, store_gets_per_s=1e9)
    fast = pretrain(OBJAVERSE, MEASURED, quick_store, Fabric(), 64)
    assert fast["bottleneck"] != "requests"
    assert fast["hours"] < slow["hours"]


def test_gpus_that_the_largest_batch_leaves_without_work_are_told_and_paid():
    stage = pretrain(SHAPENET, MEASURED, ASSUMED, Fabric(), 512)
    assert stage["working_gpus"] == SHAPENET.max_global_batch // ASSUMED.ghost_batch == 128
    assert stage["global_batch"] <= SHAPENET.max_global_batch
    fewer = pretrain(SHAPENET, MEASURED, ASSUMED, Fabric(), 128)
    assert stage["hours"] == fewer["hours"]
    machines = stage["usd"] - stage["usd_of_requests"]
    assert machines == pytest.approx(4 * (fewer["usd"] - fewer["usd_of_requests"]))


def test_a_view_costs_what_lies_between_the_measured_sizes():
    assert MEASURED.view_ms(1) == MEASURED.view_ms(5_000) == 3.0
    assert MEASURED.view_ms(27_500) == pytest.approx(5.0)
    assert MEASURED.view_ms(10**9) == 25.0


@pytest.mark.parametrize(
    "given", [{"gpu_sped": "1"}, {"usd_per_gpu_h": "0"}, {"cores_per_gpu": "x"}]
)
def test_wrong_assumptions_are_refused(given):
    with pytest.raises(ValueError, match=r"try|above 0|convert"):
        ASSUMED.replaced(given)


def test_an_assumption_given_by_name_is_taken():
    assert ASSUMED.replaced({"gpus_per_node": "4", "usd_per_gpu_h": "1.5"}) == replace(
        ASSUMED, gpus_per_node=4, usd_per_gpu_h=1.5
    )


def test_the_page_shows_the_record():
    page = Path(PAGE).read_text()
    record = json.loads((RESULTS / "scale.json").read_text())
    assert with_tables(page, record["results"]) == page
    assert "Objaverse-XL" in page
