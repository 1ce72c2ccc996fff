"""The arithmetic of steps on many GPUs: what must hold whatever is assumed."""

import dataclasses

import pytest

from benchmarks.simulated_ranks import Fabric, RankStep, all_reduce_s, simulate

STEP = RankStep(
    compute_s=0.1,
    shapes=64,
    views=1,
    latent_width=512,
    gradient_bytes=20_000_000,
    statistics_bytes=80_000,
)
FABRIC = Fabric()


def test_one_rank_talks_to_nobody_and_is_the_measure():
    alone = simulate(STEP, FABRIC, 1)
    assert alone["efficiency"] == 1
    assert alone["gradients_s"] == alone["rows_s"] == alone["statistics_s"] == 0


def test_more_ranks_are_never_more_efficient():
    found = [simulate(STEP, FABRIC, number)["efficiency"] for number in (1, 2, 8, 9, 64, 512)]
    assert found == sorted(found, reverse=True)
    assert 0 < found[-1] < 1


def test_two_ranks_send_all_bytes_once_each_way():
    expected = 1e9 / FABRIC.within_node_bytes_per_s + 2 * FABRIC.hop_s
    assert all_reduce_s(10**9, FABRIC, 2) == pytest.approx(expected)


def test_past_a_node_the_slow_link_sets_the_pace():
    without_hops = dataclasses.replace(FABRIC, hop_s=0.0)
    in_node, between = (all_reduce_s(10**9, without_hops, number) for number in (8, 9))
    ratio = (8 / 9) / (7 / 8) * FABRIC.within_node_bytes_per_s / FABRIC.between_nodes_bytes_per_s
    assert between / in_node == pytest.approx(ratio)


def test_a_faster_gpu_makes_the_same_messages_weigh_more():
    slow, fast = (
        simulate(STEP, dataclasses.replace(FABRIC, speedup=speedup), 64) for speedup in (1, 10)
    )
    assert slow["gradients_s"] == fast["gradients_s"]
    assert fast["efficiency"] < slow["efficiency"]
    assert fast["samples_per_s"] > slow["samples_per_s"]
