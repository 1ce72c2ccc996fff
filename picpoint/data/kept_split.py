"""Is a set's split known from an earlier start? Kept as bits: reading all labels takes long.

A split is a function of the set's content and the config, so a file named by their hash holds it:
the hash of what follows, then a bit per shape for the test and one for the validation part.
"""

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np

from picpoint.data.split import HoldoutConfig, Split, split_shapes
from shards.errors import StoreError
from shards.manifest import Manifest
from shards.store import LocalStore, put_once

logger = logging.getLogger(__name__)

# Of the rule by which split.py deals shapes to folds; another rule needs another number.
_RULE = 1
_HASH_BYTES = 32


def kept_split(manifest: Manifest, config: HoldoutConfig, cache_dir: str) -> Split:
    """Split the shapes of a set as `split_shapes` does, or as it did before.

    Args:
        manifest: of the shapes.
        config: number of folds, and which ones.
        cache_dir: local folder where splits are kept; "" for none. What is damaged there, or of
            other shapes, is made anew; what the disk refuses to keep is not kept.
    """
    if not cache_dir or config.num_folds == 0:
        return split_shapes(manifest, config)
    store, name = LocalStore(Path(cache_dir)), f"split-{_name(manifest, config)}"
    split = _read(store, name, manifest.num_samples)
    if split is None:
        split = split_shapes(manifest, config)
        try:
            store.remove(name)
            put_once(store, name, _encode(split))
        except StoreError as error:
            logger.warning("the split is not kept: %s", error)
    return split


def _name(manifest: Manifest, config: HoldoutConfig) -> str:
    told = json.dumps([_RULE, manifest.digest, asdict(config)], sort_keys=True)
    parts = "".join(shard.part_sha256 for shard in manifest.shards)
    return hashlib.sha256((told + parts).encode()).hexdigest()


def _encode(split: Split) -> bytes:
    bits = np.packbits(split.test).tobytes() + np.packbits(split.validation).tobytes()
    return hashlib.sha256(bits).digest() + bits


def _read(store: LocalStore, name: str, num_samples: int) -> Split | None:
    try:
        content = store.get(name)
    except StoreError:
        return None
    digest, bits = content[:_HASH_BYTES], content[_HASH_BYTES:]
    if hashlib.sha256(bits).digest() != digest or len(bits) != 2 * (-(-num_samples // 8)):
        return None
    rows = np.frombuffer(bits, np.uint8).reshape(2, -1)
    test, validation = np.unpackbits(rows, axis=1, count=num_samples).astype(bool)
    return Split(test=test, validation=validation)
