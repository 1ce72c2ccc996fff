"""Starts the ranks of a test, forked off a server that has loaded torch and the model once."""

from collections.abc import Callable

import torch


def start_ranks(run_rank: Callable[..., None], arguments: tuple[object, ...], count: int) -> None:
    """Run `run_rank(rank, *arguments)` in processes; what one raises is raised here."""
    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["picpoint.train.pretrain"])
    torch.multiprocessing.start_processes(
        run_rank, arguments, nprocs=count, start_method="forkserver"
    )
