"""Who reads which sample when? Arithmetic only: no lists, no files, no random state.

    samples seen -> (epoch, place in the epoch) -> keyed permutations -> sample index
                                                -> ghost batches      -> rank

The order of an epoch is a function of (digest of the set, seed, epoch); how many ranks there are
decides only who takes which part of a batch. One integer, the samples seen, is the whole position:
resuming is asking for the next batch.

A set of fewer than two blocks is shuffled as a whole. A larger one in three steps, so that what is
read at a time comes from few shards, whose rows of the manifest fit in memory:

    the set is turned by a random number of samples, and cut into chunks of neighbours
    the chunks are shuffled over the whole epoch
    each block of 64 of them is shuffled, sample by sample
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from shards.errors import PlanError

# Four rounds suffice in theory if the round function is ideal; a multiply-shift hash is not.
FEISTEL_ROUNDS = 10

CHUNK_SAMPLES = 1024
CHUNKS_PER_BLOCK = 64


@dataclass(frozen=True, slots=True)
class BatchSlots:
    """One global batch: which sample goes into which slot.

    Attributes:
        epoch: counted from 0.
        sample_index: row in the manifest; -1 where the slot is padding.
        valid: False where the slot is padding.
    """

    epoch: int
    sample_index: Int64[np.ndarray, " B"]
    valid: Bool[np.ndarray, " B"]

    @property
    def num_samples(self) -> int:
        """How many slots hold a sample: what the samples seen grow by."""
        return int(np.count_nonzero(self.valid))


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """The order of all epochs over one shard set.

    Attributes:
        digest: of the shard set (`Manifest.digest`).
        num_samples: in the shard set.
        global_batch: slots of one step, over all ranks.
        seed: of the order.
        remainder: what becomes of an epoch's last samples that do not fill a batch: left out (other
            ones in each epoch), or given a batch whose other slots are padding.
        chunk_samples: neighbours in the set that stay in one block of the order.
        chunks_per_block: how many of those are shuffled together.
    """

    digest: str
    num_samples: int
    global_batch: int
    seed: int
    remainder: Literal["drop_last", "pad"]
    chunk_samples: int = CHUNK_SAMPLES
    chunks_per_block: int = CHUNKS_PER_BLOCK

    def __post_init__(self) -> None:
        if self.chunk_samples < 1 or self.chunks_per_block < 1:
            raise PlanError(
                f"blocks of {self.chunks_per_block} chunks of {self.chunk_samples} samples: both "
                "must be at least 1"
            )
        if self.num_samples < 1 or self.global_batch < 1:
            raise PlanError(
                f"{self.num_samples} samples in batches of {self.global_batch}: both must be at "
                "least 1; is the shard set empty?"
            )
        if self.batches_per_epoch == 0:
            raise PlanError(
                f"{self.num_samples} samples do not fill one batch of {self.global_batch}, and "
                "remainder is drop_last: take a smaller batch or remainder=pad"
            )

    @property
    def batches_per_epoch(self) -> int:
        """How many steps make an epoch, the same on every rank."""
        whole, left = divmod(self.num_samples, self.global_batch)
        return whole + (self.remainder == "pad" and left > 0)

    @property
    def samples_per_epoch(self) -> int:
        """How many samples are seen in an epoch; padding is not counted."""
        return min(self.num_samples, self.batches_per_epoch * self.global_batch)

    def batch_at(self, samples_seen: int) -> BatchSlots:
        """Tell the next batch, after so many samples.

        Args:
            samples_seen: since the start of training, over all ranks: 0, or the last position plus
                that batch's `num_samples`.

        Raises:
            PlanError: no batch begins there.
        """
        epoch, start = divmod(samples_seen, self.samples_per_epoch)
        if samples_seen < 0 or start % self.global_batch:
            raise PlanError(
                f"samples seen = {samples_seen}: no batch of {self.global_batch} begins there in "
                f"epochs of {self.samples_per_epoch}; resume with the checkpoint's batch size"
            )
        slots = np.arange(start, start + self.global_batch, dtype=np.int64)
        valid = slots < self.samples_per_epoch
        sample_index = np.full(self.global_batch, -1, np.int64)
        sample_index[valid] = self.positions_to_samples(epoch, slots[valid])
        return BatchSlots(epoch=epoch, sample_index=sample_index, valid=valid)

    def positions_to_samples(
        self, epoch: int, positions: Int64[np.ndarray, " P"]
    ) -> Int64[np.ndarray, " P"]:
        """Tell which sample stands at a position of an epoch's order.

        Args:
            epoch: counted from 0.
            positions: 0 to num_samples - 1.

        Raises:
            PlanError: a position lies outside the epoch.
        """
        if ((positions < 0) | (positions >= self.num_samples)).any():
            raise PlanError(
                f"positions {positions.min()} to {positions.max()}: an epoch has the positions 0 "
                f"to {self.num_samples - 1}"
            )
        places = positions.astype(np.uint64)
        if self.num_samples < 2 * self.block_samples:
            return self._permute(places, self.num_samples, f"{epoch}").astype(np.int64)
        num_chunks = self.num_samples // self.chunk_samples
        chunks, within = np.divmod(self._shuffle_blocks(epoch, places), self.chunk_samples)
        # The samples that fill no chunk, other ones in each epoch, are those of the last block.
        full = chunks < num_chunks
        chunks[full] = self._permute(chunks[full], num_chunks, f"{epoch}/chunks")
        turned = (chunks * np.uint64(self.chunk_samples) + within).astype(np.int64)
        return (turned + self._turn(epoch)) % self.num_samples

    @property
    def block_samples(self) -> int:
        """How many samples are shuffled together."""
        return self.chunk_samples * self.chunks_per_block

    def _shuffle_blocks(
        self, epoch: int, places: UInt64[np.ndarray, " P"]
    ) -> UInt64[np.ndarray, " P"]:
        """Permute every block in itself; the last one takes what is left, less than two blocks."""
        size, last = self.block_samples, self.num_samples // self.block_samples - 1
        blocks = np.minimum(places // np.uint64(size), last).astype(np.int64)
        shuffled = np.empty_like(places)
        for block in np.unique(blocks).tolist():
            here, start = blocks == block, np.uint64(block * size)
            length = size if block < last else self.num_samples - block * size
            inside = self._permute(places[here] - start, length, f"{epoch}/{block}")
            shuffled[here] = start + inside
        return shuffled

    def _permute(
        self, values: UInt64[np.ndarray, " P"], size: int, of: str
    ) -> UInt64[np.ndarray, " P"]:
        return permute(values, size, _round_keys(f"{self.digest}/{self.seed}/{of}"))

    def _turn(self, epoch: int) -> int:
        content = hashlib.sha256(f"{self.digest}/{self.seed}/{epoch}/turn".encode()).digest()
        return int.from_bytes(content) % self.num_samples

    def rank_slice(self, ghost_batch: int, rank: int, num_ranks: int) -> slice:
        """Tell which slots of every global batch belong to a rank.

        Ranks take whole ghost batches, one after the other; shares differ by at most one of them.

        Args:
            ghost_batch: slots that are normalised together, on one rank.
            rank: from 0.
            num_ranks: how many ranks share the batch.

        Raises:
            PlanError: the global batch is not made of ghost batches, or there are fewer ghost
                batches than ranks.
        """
        num_ghosts, left = divmod(self.global_batch, max(ghost_batch, 1))
        if ghost_batch < 1 or left:
            raise PlanError(
                f"a global batch of {self.global_batch} in ghost batches of {ghost_batch}: it must "
                "be a multiple; change one of the two"
            )
        if not 1 <= num_ranks <= num_ghosts or not 0 <= rank < num_ranks:
            raise PlanError(
                f"rank {rank} of {num_ranks} ranks over {num_ghosts} ghost batches: every rank "
                "needs at least one; use fewer ranks, or a larger global batch"
            )
        share, extra = divmod(num_ghosts, num_ranks)
        start = rank * share + min(rank, extra)
        stop = start + share + (rank < extra)
        return slice(start * ghost_batch, stop * ghost_batch)


def permute(
    values: UInt64[np.ndarray, " P"], size: int, round_keys: UInt64[np.ndarray, " R"]
) -> UInt64[np.ndarray, " P"]:
    """Map 0 ... size - 1 onto itself, one to one, by a keyed Feistel network.

    The network permutes a rectangle of a x b >= size cells. A value that lands outside `size` is
    sent through again until it is inside (cycle walking), which keeps the map one to one. Since
    a x b exceeds `size` by less than a, about the root of `size`, few values walk.

    Args:
        values: below `size`.
        size: of the set, at least 1.
        round_keys: one per round, an even number of them.

    Source: Black and Rogaway, Ciphers with arbitrary finite domains (CT-RSA 2002), section 5.
    """
    height = int(np.ceil(np.sqrt(size)))
    width = -(-size // height)
    walked = _feistel(values, height, width, round_keys)
    while (outside := walked >= size).any():
        walked[outside] = _feistel(walked[outside], height, width, round_keys)
    return walked


def _feistel(
    values: UInt64[np.ndarray, " P"], height: int, width: int, round_keys: UInt64[np.ndarray, " R"]
) -> UInt64[np.ndarray, " P"]:
    """Permute the cells of a rectangle; every round changes one coordinate and swaps the two."""
    rows, columns = np.divmod(values, np.uint64(width))
    num_rows, num_columns = np.uint64(height), np.uint64(width)
    for key in round_keys:
        rows, columns = columns, (rows + _mix(columns + key) % num_rows) % num_rows
        num_rows, num_columns = num_columns, num_rows
    return rows * num_columns + columns


def _mix(values: UInt64[np.ndarray, " P"]) -> UInt64[np.ndarray, " P"]:
    """Hash 64 bits to 64 bits.

    Source: Stafford's variant 13 of the MurmurHash3 finaliser, as in SplitMix64.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _round_keys(text: str) -> UInt64[np.ndarray, " R"]:
    """Derive the keys of a permutation from what it is of."""
    content = hashlib.shake_256(text.encode()).digest(8 * FEISTEL_ROUNDS)
    return np.frombuffer(content, "<u8").astype(np.uint64)
