import threading
from collections.abc import Iterator
from itertools import count, islice

import pytest
import torch

from picpoint.batch import CloudBatch, move_batch, pinned
from picpoint.data.prefetch import prefetch


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_items_arrive_whole_and_in_order() -> None:
    assert list(prefetch(iter(range(100)), 3)) == list(range(100))


def test_none_is_an_item_like_any_other() -> None:
    assert list(prefetch(iter([None, 1, None]), 1)) == [None, 1, None]


def test_an_error_is_raised_after_the_items_before_it() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("lost")

    items = prefetch(broken(), 2)
    assert next(items) == 1
    with pytest.raises(KeyError, match="lost"):
        next(items)
    assert not prefetch_threads()


def test_it_runs_ahead_by_no_more_than_its_depth() -> None:
    made: list[int] = []
    items = prefetch((made.append(n) or n for n in count()), 2)
    assert list(islice(items, 5)) == [0, 1, 2, 3, 4]
    items.close()
    # Five consumed, two queued, one in the maker's hand.
    assert len(made) <= 8


def test_a_depth_below_one_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="depth=0"):
        prefetch(iter([1]), 0)


def test_closing_ends_the_thread() -> None:
    items = prefetch(count(), 2)
    next(items)
    assert prefetch_threads()
    items.close()
    assert not prefetch_threads()


@pytest.mark.gpu
def test_batches_for_a_gpu_are_pinned() -> None:
    batch = CloudBatch(
        keys=("a",),
        points=torch.rand(1, 8, 3),
        features=torch.empty(1, 8, 0),
        labels=torch.zeros(1, dtype=torch.int64),
        point_labels=torch.empty(1, 0, dtype=torch.int64),
        valid=torch.ones(1, dtype=torch.bool),
    )
    (found,) = pinned(iter([batch]), torch.device("cuda"))
    assert found.points.is_pinned()
    assert torch.equal(move_batch(found, torch.device("cuda")).points.cpu(), batch.points)


def test_batches_for_a_cpu_are_handed_on_as_they_are() -> None:
    batches = iter([])
    assert pinned(batches, torch.device("cpu")) is batches
