import json
from pathlib import Path

import pytest

from shards.errors import ManifestError
from shards.sealed import SEALED_FILES, seal, unseal
from shards.store import LocalStore, put_once, sha256
from shards.verify import verify

RECORD = {"name": "solids", "class_names": ["cone", "wedge"], "parts_of_class": {}, "note": "é\n"}


def test_a_record_comes_back_with_the_hashes_of_its_files():
    assert unseal(seal(RECORD), "x") == (RECORD, {})
    files = {"basis.npy": sha256(b"basis")}
    assert unseal(seal(RECORD, files), "x") == (RECORD, files)


def test_every_flipped_bit_and_every_cut_of_a_record_is_noticed():
    content = seal(RECORD, {"basis.npy": sha256(b"basis")})
    for position in range(len(content)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            with pytest.raises(ManifestError, match=r"^x: .*make the set again"):
                unseal(bytes(flipped), "x")
        with pytest.raises(ManifestError):
            unseal(content[:position], "x")


@pytest.mark.parametrize("content", [b"[]", b"null", b"{}", b'{"files": [], "sha256": ""}', b"["])
def test_what_was_never_sealed_is_refused(content):
    with pytest.raises(ManifestError, match="no sealed record"):
        unseal(content, "x")


def test_a_record_seals_no_file_outside_its_set_and_nothing_under_its_own_names():
    with pytest.raises(ManifestError, match="not as it was written"):
        unseal(seal(RECORD, {"../secret": sha256(b"")}), "x")
    with pytest.raises(ValueError, match="'sha256'"):
        seal({"sha256": "of mine"})


@pytest.mark.parametrize("name", SEALED_FILES)
def test_verify_reads_the_records_beside_a_manifest_and_what_belongs_to_them(shard_set, name):
    folder = Path(shard_set.url)
    put_once(LocalStore(folder), name, seal(RECORD, {"basis.npy": sha256(b"basis")}))
    assert [(each.kind, each.name) for each in verify(folder).findings] == [
        ("missing", "basis.npy")
    ]
    (folder / "basis.npy").write_bytes(b"basis")
    assert verify(folder).findings == ()
    (folder / "basis.npy").write_bytes(b"Basis")
    assert [(each.kind, each.name) for each in verify(folder).findings] == [
        ("damaged", "basis.npy")
    ]
    record = json.loads((folder / name).read_bytes())
    record["class_names"] = ["cone", "sledge"]
    (folder / name).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    assert [(each.kind, each.name) for each in verify(folder).findings] == [("damaged", name)]
