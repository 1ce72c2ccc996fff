"""How do the ranks of a run live on one machine? One process each, watched, and begun again.

They are forked off a server that has loaded everything, so that beginning again takes no seconds.
A rank that is killed, or that stops beating (a stopped process, a machine that thrashes), takes the
others with it: they wait for it in a collective. All are then ended, and a new set goes on from the
newest checkpoint. What is wrong with the settings or the data is not tried again.
"""

import ctypes
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait

import torch.distributed as dist

from cluster.exit_codes import would_fail_again
from cluster.fleet import WorkerDiedError
from picpoint.render.children import end_with_parent

# How often a rank shows that it lives, and for how long it may fail to.
BEAT_S = 1.0
SILENCE_S = 30.0
# The first rank waits for torch to load: 10 s of processor time, on a busy machine many times that.
_START_S = 300.0
# Loaded once, by the server that ranks are forked from; the last by an optimiser's first step.
_PRELOADED = ["cluster.jobs.pretrain", "cluster.jobs.finetune", "torch._dynamo"]
# When one rank has failed, the others fail soon; which of them is the cause shows only then.
_GRACE_S = 5.0

# What gloo and NCCL say to the ranks that waited for one that is gone.
_LOST_PEER = ("onnection closed by peer", "onnection reset", "imed out", "Broken pipe", "NCCL")

RankWork = Callable[[int], None]


class RankDiedError(WorkerDiedError):
    """A rank was killed from outside, or no longer shows that it lives."""


def run_ranks(
    work: RankWork, num_ranks: int, backend: str, timeout_s: float, max_failures: int
) -> None:
    """Run a function on every rank of a process group, anew where ranks were lost.

    Args:
        work: is given its rank, in a process of its own, and must go on from where it was; pickled.
        num_ranks: how many.
        backend: of torch.distributed.
        timeout_s: longest wait in a collective.
        max_failures: how many sets of ranks may be lost.

    Raises:
        RankDiedError: more were.
        Exception: what `work` raised, where it is no matter of lost ranks.
    """
    begin_anew(lambda: _run_once(work, num_ranks, backend, timeout_s), max_failures)


def begin_anew(attempt: Callable[[], BaseException | None], max_failures: int) -> None:
    """Run a set of ranks, and another one where it was lost.

    Args:
        attempt: runs a set from where the last one was; gives the failure that ended it, if one
            did.
        max_failures: how many sets may be lost.

    Raises:
        BaseException: the failure, where it is of the settings or the data, or one too many.
    """
    for num_failures in range(max_failures + 1):
        failure = attempt()
        if failure is None:
            return
        if would_fail_again(failure) or num_failures == max_failures:
            raise failure
        print(
            f"{failure}; begun again from the newest checkpoint "
            f"({num_failures + 1} of at most {max_failures} times)",
            file=sys.stderr,
            flush=True,
        )


def _run_once(
    work: RankWork, num_ranks: int, backend: str, timeout_s: float
) -> BaseException | None:
    """Run a set of ranks; give the failure that ended it, if one did."""
    port = _free_port()
    ranks: list[_Rank] = []
    try:
        for rank in range(num_ranks):
            place = _Place(rank, num_ranks, backend, timeout_s, port)
            ranks.append(_Rank(work, place))
        return _watch(ranks)
    finally:
        for rank in ranks:
            rank.close()


def _watch(ranks: "Sequence[_Rank]") -> BaseException | None:
    """Wait until all ranks are done or one has failed."""
    running = list(ranks)
    while running:
        wait([rank.process.sentinel for rank in running], timeout=BEAT_S)
        failures = [failure for rank in running if (failure := rank.failure()) is not None]
        if failures:
            return _cause(failures, running)
        running = [rank for rank in running if rank.process.exitcode is None]
    return None


def _cause(failures: list[BaseException], running: "Sequence[_Rank]") -> BaseException:
    """Find what began it: a lost peer looks like a broken connection to the others."""
    deadline = time.monotonic() + _GRACE_S
    while len(failures) < len(running) and time.monotonic() < deadline:
        time.sleep(0.1)
        failures = [failure for rank in running if (failure := rank.failure()) is not None]
    return min(failures, key=rank_of_cause)


def rank_of_cause(failure: BaseException) -> int:
    """Order failures, causes first.

    What is wrong, who was killed, what else went wrong, who lost a peer.
    """
    if would_fail_again(failure):
        return 0
    if isinstance(failure, RankDiedError):
        return 1
    return 3 if any(words in str(failure) for words in _LOST_PEER) else 2


class _Place:
    """Where a rank stands in its group."""

    def __init__(
        self, rank: int, num_ranks: int, backend: str, timeout_s: float, port: int
    ) -> None:
        self.rank, self.num_ranks, self.backend = rank, num_ranks, backend
        self.timeout_s, self.port = timeout_s, port

    def join(self) -> None:
        """Enter the process group."""
        dist.init_process_group(
            self.backend,
            init_method=f"tcp://127.0.0.1:{self.port}",
            rank=self.rank,
            world_size=self.num_ranks,
            timeout=timedelta(seconds=self.timeout_s),
        )


class _Rank:
    """A rank's process, its last word and its pulse."""

    def __init__(self, work: RankWork, place: _Place) -> None:
        context = get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        self.number = place.rank
        self._told, theirs = context.Pipe(duplex=False)
        self._started_s = time.monotonic()
        # Without a lock, which a stopped rank could hold.
        self._pulse: ctypes.c_double = context.Value(ctypes.c_double, 0.0, lock=False)  # pyright: ignore[reportAttributeAccessIssue]
        self._failure: BaseException | None = None
        self.process = context.Process(target=_live, args=(work, place, theirs, self._pulse))
        # Ctrl-C is the parent's business, also while the server loads.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def failure(self) -> BaseException | None:
        """Tell what went wrong, if it did."""
        if self._failure is None:
            self._failure = self._look()
        return self._failure

    def _look(self) -> BaseException | None:
        code = self.process.exitcode  # before the pipe: what it told last is there by then
        with suppress(EOFError, OSError):
            if self._told.poll():
                return self._told.recv()
        if code is None:
            return self._silence()
        if code == 0:
            return None
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return RankDiedError(f"rank {self.number} was killed ({how})")

    def _silence(self) -> RankDiedError | None:
        last_s = self._pulse.value
        silent_s = time.monotonic() - (last_s or self._started_s)
        if silent_s > (SILENCE_S if last_s else _START_S):
            return RankDiedError(f"rank {self.number} has shown no life for {silent_s:.0f} s")
        return None

    def close(self) -> None:
        """End the process; by force, because a stopped one heeds nothing else."""
        self.process.kill()
        self.process.join()
        self.process.close()
        self._told.close()


def _live(work: RankWork, place: _Place, parent: Connection, pulse: "ctypes.c_double") -> None:
    """Be a rank; runs in its process."""
    end_with_parent()
    threading.Thread(target=_end_with_driver, daemon=True).start()
    threading.Thread(target=_beat, args=(pulse,), daemon=True).start()
    try:
        place.join()
        work(place.rank)
        dist.destroy_process_group()
    except BaseException as error:
        error.add_note(traceback.format_exc())  # what the parent could not know
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # of those that cannot be sent, tell at least what they say
            error = RuntimeError(f"{type(error).__name__}: {error}")
        parent.send(error)
        # Without the others no group can be left in order.
        parent.close()
        os._exit(1)


def _end_with_driver() -> None:
    """End when the driver does; the kernel tells only of the server that this is forked off."""
    driver = parent_process()
    assert driver is not None
    wait([driver.sentinel])
    os._exit(1)


def _beat(pulse: "ctypes.c_double") -> None:
    while True:
        pulse.value = time.monotonic()  # the same clock in every process of a machine
        time.sleep(BEAT_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
