"""What looks like a secret is not sent; what does not, is."""

import pytest

from cluster.clear_text import refuse_secrets
from cluster.compose import ConfigError

# Put together here, so that nobody's scanner takes them for real.
AWS_KEY = "AKIA" + "ABCDEFGHIJKLMNOP"
HF_KEY = "hf_" + "abcdefghijklmnopqrstuvwx"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("AWS_SESSION_TOKEN", "x"),
        ("WANDB_API_KEY", "x"),
        ("HF_TOKEN", "x"),
        ("db_password", "x"),
        ("HARMLESS", AWS_KEY),
        ("HARMLESS", HF_KEY),
        ("HARMLESS", "-----BEGIN RSA PRIVATE KEY-----"),
        ("MLFLOW_TRACKING_URI", "https://me:hunter2@mlflow.example.com"),
    ],
)
def test_secrets_are_refused_and_not_repeated(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as raised:
        refuse_secrets({name: value}, [])
    assert value == "x" or value not in str(raised.value)


@pytest.mark.parametrize(
    "override",
    [
        "out=s3://key:hunter2@bucket/o",
        "runs=[/a,https://me:hunter2@host/b]",
        f"checkpoints={HF_KEY}",
        "source=https://b.s3.amazonaws.com/m.csv?X-Amz-Signature=0",
    ],
)
def test_secrets_in_overrides_are_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="entry points in clear"):
        refuse_secrets({}, ["python", override])


def test_what_is_no_secret_is_let_through() -> None:
    refuse_secrets(
        {
            "TOKENIZERS_PARALLELISM": "false",
            "GOOGLE_APPLICATION_CREDENTIALS": "/var/run/secrets/key.json",
            "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/secrets/token",
            "AWS_REGION": "eu-west-1",
            "MLFLOW_TRACKING_URI": "https://mlflow.example.com",
            "KEYBOARD": "us",
        },
        ["python", "-m", "cluster.app", "pretrain", "out=s3://bucket/hf_run", "data.rig=file:a@0"],
    )
