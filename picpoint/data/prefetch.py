"""Builds batches ahead of the step that needs them, in one thread that ends with its consumer."""

import queue
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class _Failed:
    error: BaseException


@dataclass(frozen=True, slots=True)
class _Ready(Generic[Item]):
    item: Item


_END = object()


def prefetch(items: Iterator[Item], depth: int) -> Generator[Item]:
    """Run an iterator at most `depth` items ahead of its consumer.

    Close the result (or exhaust it) to end the thread; an error in `items` is raised here.

    Raises:
        ValueError: the depth is less than 1.
    """
    if depth < 1:
        raise ValueError(f"depth={depth}: at least 1 item must be made ahead")
    return _prefetch(items, depth)


def _prefetch(items: Iterator[Item], depth: int) -> Generator[Item]:
    handed: queue.Queue[object] = queue.Queue(maxsize=depth)
    stop = threading.Event()
    thread = threading.Thread(
        target=_produce, args=(items, handed, stop), name="prefetch", daemon=True
    )
    thread.start()
    try:
        while True:
            match handed.get():
                case _Ready(item):
                    yield item
                case _Failed(error):
                    raise error
                case _:
                    return
    finally:
        stop.set()
        thread.join()


def _produce(items: Iterator[object], handed: queue.Queue[object], stop: threading.Event) -> None:
    try:
        for item in items:
            _offer(_Ready(item), handed, stop)
            if stop.is_set():
                return
        _offer(_END, handed, stop)
    except BaseException as error:  # raised again in the consumer
        _offer(_Failed(error), handed, stop)


def _offer(thing: object, handed: queue.Queue[object], stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            handed.put(thing, timeout=0.1)
        except queue.Full:
            continue
        return
