"""What can go wrong with a shard set? One class per kind; a message is value, rule, remedy."""

# Remedies: the same rendering, run again, leaves sound shards as they are and makes the others.
MEND_SHARD = "remove it, then run the same rendering again"
MEND_MANIFEST = "remove manifest.json and the folder manifest, then run the same rendering again"


class ShardError(Exception):
    """Anything a caller of this package can meet; catch this to catch all."""


class StoreError(ShardError):
    """The folder or bucket refused: it is missing, full, or not ours to touch."""


class TransientStoreError(StoreError):
    """The network or the server failed in passing, and went on failing while it was tried again."""


class UrlError(StoreError, ValueError):
    """A URL that names no store."""


class NotFoundInStoreError(StoreError):
    """No such object, folder or sample."""


class AlreadyInStoreError(StoreError):
    """The name is taken, and nothing that was published is ever overwritten."""


class CodecError(ShardError, ValueError):
    """The bytes of a member are not what its name promises."""


class ManifestError(ShardError):
    """The manifest is damaged, of another version, or contradicts itself."""


class NotWholeError(ManifestError):
    """There is no manifest (yet): rendering did not come to its end."""


class CorruptSampleError(ShardError):
    """The bytes read are not the bytes written; the message names shard, key and member."""


class PlanError(ShardError, ValueError):
    """Numbers of samples, batches and ranks that do not go together."""


def taken(url: str, name: str) -> AlreadyInStoreError:
    """Say that a name is taken."""
    return AlreadyInStoreError(
        f"{url}/{name}: the name is taken, and nothing is ever overwritten; remove it first, or "
        "write to another folder"
    )
