"""Which cluster is meant, and may anything be sent there? Whoever reaches one runs code there."""

import ipaddress
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cluster.compose import ConfigError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
# In this order; Ray lets them win over an address that a program gives it.
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


@dataclass(frozen=True, slots=True)
class ClusterAddress:
    """A job API, and how to show oneself there.

    Attributes:
        url: of the dashboard, without a slash at its end.
        headers: sent with every request; never printed.
        insecure: sent to even where anyone may send.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    insecure: bool = False

    @property
    def is_encrypted(self) -> bool:
        """Nobody on the way can read along: TLS, or no way at all."""
        parts = urlsplit(self.url)
        return parts.scheme == "https" or is_loopback(parts.hostname or "")

    @property
    def has_token(self) -> bool:
        """Requests say who asks."""
        return any(
            name.lower() in ("authorization", "x-ray-authorization") for name in self.headers
        )


def find_address(given: str, insecure: bool) -> ClusterAddress:
    """Find the cluster: what is given, else RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or this machine's.

    Raises:
        ConfigError: not an address of a job API, or plain http to another machine without a token.
    """
    named = {name: os.environ[name] for name in ADDRESS_VARIABLES if os.environ.get(name)}
    told, url = ("--address", given) if given else next(iter(named.items()), ("", DEFAULT_ADDRESS))
    _check_url(told, url)
    address = ClusterAddress(url.rstrip("/"), _headers(), insecure)
    if not (address.is_encrypted or address.has_token or insecure):
        raise ConfigError(
            f"{url}: plain http to another machine, and there is no token, so whoever reaches it "
            "runs code there; use https or a forwarded port (http://127.0.0.1:8265), or give the "
            "cluster's token in RAY_AUTH_TOKEN_PATH (--insecure sends all the same)"
        )
    return address


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine for certain; other names are not looked up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def find_token() -> str | None:
    """Find the cluster's token where Ray looks for it.

    Unlike Ray, it is sent also where RAY_AUTH_MODE is not set: `disabled` keeps it back.

    Raises:
        ConfigError: RAY_AUTH_TOKEN_PATH names no file with a token.
    """
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return None
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    if path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        token = _read(Path(path))
        if not token:
            raise ConfigError(f"RAY_AUTH_TOKEN_PATH={path}: there is no token in that file")
        return token
    return _read(Path.home() / ".ray" / "auth_token") or None


def _check_url(told: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname)
        has_name = parts.username is not None
    except ValueError:
        is_url = has_name = False
    if not is_url:
        raise ConfigError(
            f"{told} {url}: must be the URL of the cluster's dashboard, as {DEFAULT_ADDRESS}"
        )
    if has_name:
        raise ConfigError(
            f"{told}: holds a user's name or password, which is shown; put it into RAY_JOB_HEADERS"
        )


def _headers() -> dict[str, str]:
    given = os.environ.get("RAY_JOB_HEADERS", "")
    try:
        headers = json.loads(given) if given else {}
    except json.JSONDecodeError:
        headers = None
    if not isinstance(headers, dict) or not all(isinstance(one, str) for one in headers.values()):
        raise ConfigError('RAY_JOB_HEADERS: must be JSON, as {"X-Header": "value"}')
    token = find_token()
    if token and not ClusterAddress("", headers).has_token:
        headers["Authorization"] = f"Bearer {token}"
    return headers


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
