"""What of a submission may everyone see? Ray shows its environment and entry point in clear."""

import re
from collections.abc import Mapping, Sequence

from cluster.compose import ConfigError
from shards.secret_urls import holds_secret

REMEDY = (
    "take it from the cluster's secret store instead (on Kubernetes the Secret picpoint-secrets; "
    "see docs/operations.md)"
)

# Words of a variable's name: HF_TOKEN holds a secret, TOKENIZERS_PARALLELISM none.
_SECRET_WORDS = frozenset(
    {
        *("KEY", "APIKEY", "SECRET", "SECRETS", "TOKEN", "PASSWORD", "PASSWD", "PASSPHRASE", "PWD"),
        *("CREDENTIAL", "CREDENTIALS", "AUTHORIZATION", "COOKIE", "DSN"),
    }
)
# A file's name is no secret; what the file holds is not sent.
_NAMES_A_FILE = ("_FILE", "_PATH", "_DIR")
# How keys of the services that picpoint meets begin, whatever they are called.
_SECRET_VALUES = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|\b(AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bhf_[A-Za-z0-9]{20,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}"
    r"|\bglpat-[\w-]{20,}"
    r"|\bsk-[\w-]{20,}"
    r"|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\."
)


def refuse_secrets(env_vars: Mapping[str, str], arguments: Sequence[str]) -> None:
    """Refuse what looks like a secret, before anything is sent.

    Args:
        env_vars: environment of the job.
        arguments: words of its entry point.

    Raises:
        ConfigError: one of them looks like a secret; the message does not repeat it.
    """
    for name, value in env_vars.items():
        if _is_called_secret(name) or _holds_secret(value):
            raise ConfigError(
                f"--env {name}=...: looks like a secret, and Ray shows env_vars in clear; {REMEDY}"
            )
    for argument in arguments:
        key, _, value = argument.partition("=")
        if _holds_secret(value or key):
            shown = f"{key}=..." if value else "an argument"
            raise ConfigError(
                f"{shown}: holds what looks like a secret, and Ray shows entry points in clear; "
                f"{REMEDY}"
            )


def _is_called_secret(name: str) -> bool:
    upper = name.upper()
    is_file = upper.endswith(_NAMES_A_FILE) or upper == "GOOGLE_APPLICATION_CREDENTIALS"
    return not is_file and not _SECRET_WORDS.isdisjoint(upper.split("_"))


def _holds_secret(value: str) -> bool:
    return bool(_SECRET_VALUES.search(value)) or holds_secret(value)
