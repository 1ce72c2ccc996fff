"""Which cluster is meant, which addresses are refused, and where a token is found."""

import os
from pathlib import Path

import pytest

from cluster.cluster_address import find_address, find_token, is_loopback
from cluster.compose import ConfigError


@pytest.fixture(autouse=True)
def no_cluster_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("RAY_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_the_environment_names_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_address("", insecure=False).url == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_ADDRESS", "https://one")
    assert find_address("", insecure=False).url == "https://one"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "https://two/ray/")
    assert find_address("", insecure=False).url == "https://two/ray"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
        ("head-svc", False),
    ],
)
def test_only_this_machine_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    "address", ["auto", "10.0.0.1:6379", "ray://host:10001", "http://", "http://u:p@host", "[::1"]
)
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(ConfigError) as raised:
        find_address(address, insecure=True)
    assert "p@host" not in str(raised.value)


def test_a_token_is_found_where_ray_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_token() is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of home\n")
    assert find_token() == "of home"
    (tmp_path / "token").write_text("of a file\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert find_token() == "of a file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the environment")
    assert find_token() == "of the environment"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert find_token() is None
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="no token in that file"):
        find_token()


def test_headers_of_a_proxy_are_sent_and_malformed_ones_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t0ken")
    monkeypatch.setenv("RAY_JOB_HEADERS", '{"X-Proxy": "me"}')
    address = find_address("", insecure=False)
    assert address.headers == {"X-Proxy": "me", "Authorization": "Bearer t0ken"}
    assert "t0ken" not in repr(address)
    monkeypatch.setenv("RAY_JOB_HEADERS", '{"authorization": "Bearer other"}')
    assert find_address("", insecure=False).headers == {"authorization": "Bearer other"}
    for malformed in ("X-Proxy: me", "[]", '{"X-Proxy": 1}'):
        monkeypatch.setenv("RAY_JOB_HEADERS", malformed)
        with pytest.raises(ConfigError, match="RAY_JOB_HEADERS"):
            find_address("", insecure=False)
