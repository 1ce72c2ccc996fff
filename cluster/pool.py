"""Worker processes that end with their parent, and with the job that asked for them."""

from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context

from picpoint.render.children import end_with_parent


class WorkerDiedError(RuntimeError):
    """A worker process was killed from outside, most often for want of memory."""


@contextmanager
def worker_pool(num_workers: int) -> Generator[ProcessPoolExecutor]:
    """Run a pool of fresh processes; an error or Ctrl-C drops the tasks that have not begun.

    Raises:
        WorkerDiedError: a worker was killed.
    """
    pool = ProcessPoolExecutor(
        num_workers, mp_context=get_context("spawn"), initializer=end_with_parent
    )
    try:
        yield pool
    except BrokenProcessPool as error:
        raise WorkerDiedError(
            "a worker process was killed, probably for want of memory; run the same command again "
            "with a smaller num_workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
