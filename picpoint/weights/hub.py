"""How does an exported encoder come onto the Hugging Face Hub?"""

from pathlib import Path

from picpoint.optional import import_optional
from picpoint.weights.encoder_file import CONFIG_FILE, TENSORS_FILE

CARD_FILE = "README.md"
ONNX_FILE = "model.onnx"


class HubError(RuntimeError):
    """The Hub refused; the message says why."""


def push(folder: Path, repository: str, *, private: bool) -> str:
    """Upload an exported encoder, its files and no others; the repository is made if need be.

    Args:
        folder: that an export wrote.
        repository: owner/name.
        private: whether a repository that is made is for its owner's eyes alone.

    Returns:
        URL of the commit.

    Raises:
        MissingPackageError: huggingface_hub is not installed.
        HubError: there is no token, no network, or no right to write.
    """
    hub = import_optional("huggingface_hub", "hub", "push")
    api = hub.HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=[CONFIG_FILE, TENSORS_FILE, CARD_FILE, ONNX_FILE],
            commit_message="An encoder pre-trained by picpoint",
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise HubError(
            f"push={repository}: {reason}; log in with `hf auth login` or set HF_TOKEN"
        ) from error
    return str(commit.commit_url)
