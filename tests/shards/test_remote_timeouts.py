"""Servers that accept a request and then fall silent: nothing waits for them for ever."""

import itertools
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import timedelta

import pytest

from shards import remote
from shards.errors import TransientStoreError
from shards.store import RemoteStore, get_range

CONTENT = bytes(range(256)) * 8
HEAD = (
    f'HTTP/1.1 206 Partial Content\r\nContent-Length: {len(CONTENT)}\r\nETag: "a"\r\n'
    "Last-Modified: Thu, 26 Nov 2026 00:00:00 GMT\r\n"
    f"Content-Range: bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}\r\nConnection: close\r\n\r\n"
).encode()

# What a server sends before it falls silent; all that is asked for, or less.
ANSWERS = {"nothing": b"", "a head": HEAD, "half a body": HEAD + CONTENT[: len(CONTENT) // 2]}
WHOLE = HEAD + CONTENT


@contextmanager
def answering(answer_to: Callable[[int], bytes]) -> Generator[tuple[int, list[int]]]:
    """Run a server that sends what it is told to the nth request; give its port and who asked."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked: list[int] = []
    numbers, held = itertools.count(), []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # the test is over
                return
            held.append(connection)
            with suppress(ConnectionError):  # a client that has given up
                connection.recv(1 << 16)
                asked.append(next(numbers))
                connection.sendall(answer_to(asked[-1]))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for connection in held:
            connection.close()


@pytest.fixture
def open_bucket(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], RemoteStore]:
    """A bucket on some port, with little patience."""
    monkeypatch.setattr(remote, "_SILENCE", timedelta(seconds=0.2))
    monkeypatch.setattr(remote, "_RETRIES_OF_A_REQUEST", 1)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    def opened(port: int) -> RemoteStore:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        return RemoteStore("s3://bucket/set")

    return opened


@pytest.mark.parametrize("sent", ANSWERS.values(), ids=ANSWERS)
def test_a_server_that_falls_silent_for_a_while_is_asked_again(
    open_bucket: Callable[[int], RemoteStore], sent: bytes
) -> None:
    with answering(lambda number: sent if number < 3 else WHOLE) as (port, asked):
        assert get_range(open_bucket(port), "shard.tar", 0, len(CONTENT)) == CONTENT
    assert len(asked) >= 4


@pytest.mark.parametrize("sent", ANSWERS.values(), ids=ANSWERS)
def test_a_server_that_stays_silent_is_given_up(
    open_bucket: Callable[[int], RemoteStore], sent: bytes
) -> None:
    with (
        answering(lambda _: sent) as (port, asked),
        pytest.raises(TransientStoreError, match="check the endpoint and the network"),
    ):
        get_range(open_bucket(port), "shard.tar", 0, len(CONTENT))
    assert 4 <= len(asked) <= 8  # four tries, each of one request or two
