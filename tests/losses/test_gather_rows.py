"""Collectives without a process group; with one: tests/distributed/test_objective_ranks.py."""

import pytest
import torch

from picpoint.losses.gather import ddp_loss, gather_rows, global_sum, num_ranks, this_rank


def test_one_process_is_the_only_rank():
    rows = torch.arange(6.0).reshape(3, 2).requires_grad_()
    assert (num_ranks(), this_rank()) == (1, 0)
    assert gather_rows(rows, (3,)) is rows
    assert global_sum(rows).equal(rows.detach())
    assert not global_sum(rows).requires_grad
    assert ddp_loss(rows.sum()).equal(rows.sum())


@pytest.mark.parametrize("rows_per_rank", [(2,), (3, 3), ()])
def test_shares_that_do_not_fit_are_refused(rows_per_rank):
    with pytest.raises(ValueError, match="each rank's number of rows"):
        gather_rows(torch.zeros(3, 2), rows_per_rank)


def test_global_sum_leaves_its_argument_alone():
    tensor = torch.ones(2)
    global_sum(tensor).add_(1)
    assert tensor.tolist() == [1, 1]
