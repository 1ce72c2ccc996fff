"""Does a URL carry a secret? Such URLs would be written into configs, logs and messages."""

import re

# user:password@host, and what signed URLs of the clouds end with.
_SECRET = re.compile(
    r"[a-z][a-z0-9+.-]*://[^/\s@:]*:[^/\s@]+@"
    r"|[?&](X-Amz-(Signature|Credential|Security-Token)|X-Goog-(Signature|Credential)|AWSAccessKeyId"
    r"|Signature|sig|access_token|token|password|secret)=",
    re.IGNORECASE,
)

REFUSAL = (
    "holds a password or a signature, which would be written into configs and logs; credentials "
    "come from the environment or the machine's role"
)


def holds_secret(text: str) -> bool:
    """Tell whether a text has a URL in it with a password or a signature."""
    return _SECRET.search(text) is not None


def without_secrets(text: str) -> str:
    """Give a text with what looks so taken out of it, as for an error of some library."""
    return re.sub(r"(://)[^/\s@]*@|\?[^\s\"']*=[^\s\"']*", r"\1", text)
