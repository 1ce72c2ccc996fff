import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_sets import keys_of, make_set, publish_set

from shards.__main__ import main
from shards.columns import Reject, empty_shard
from shards.describe import inspect, stats
from shards.errors import MEND_MANIFEST, MEND_SHARD, ShardError
from shards.manifest import load_manifest, part_name, shard_name
from shards.reader import Request, ShardReader
from shards.store import LocalStore
from shards.verify import EXIT_DAMAGED, EXIT_MISSING, EXIT_WHOLE, verify
from shards.writer import write_shard


def _flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def test_a_whole_set_has_no_findings(shard_set, capsys):
    report = verify(shard_set.url)
    assert report.findings == ()
    assert (report.num_shards, report.num_samples) == (3, 12)
    assert report.num_bytes == sum(
        path.stat().st_size for path in Path(shard_set.url).glob("*.tar")
    )
    assert main(["verify", shard_set.url]) == EXIT_WHOLE
    assert "whole (3 shards, 12 samples" in capsys.readouterr().out


def test_every_flipped_byte_of_a_shard_is_found(tmp_path, make_set_in):
    url = make_set_in(tmp_path / "set", num_shards=1, per_shard=1).url
    path = Path(url) / shard_name(0)
    rng = np.random.default_rng(0)
    size = path.stat().st_size
    # The first header, the end of the padding, and a sample of all that lies between.
    for position in [*range(0, 512, 37), size - 1, *rng.integers(0, size, 60).tolist()]:
        _flip(path, position)
        report = verify(url)
        assert [(each.kind, each.name) for each in report.findings] == [("damaged", shard_name(0))]
        assert report.exit_code == EXIT_DAMAGED
        _flip(path, position)
    assert verify(url).exit_code == EXIT_WHOLE


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        "manifest/shards.parquet",
        part_name(shard_name(1)),
        "manifest/rejects.parquet",
    ],
)
def test_every_flipped_byte_of_the_manifest_is_found(shard_set, name):
    path = Path(shard_set.url) / name
    size = path.stat().st_size
    for position in range(0, size, max(1, size // 25)):
        _flip(path, position)
        assert verify(shard_set.url).exit_code == EXIT_DAMAGED, position
        _flip(path, position)
    assert verify(shard_set.url).exit_code == EXIT_WHOLE


def test_a_damaged_member_is_named(shard_set):
    row = shard_set.row(5)
    span = row.members[3]
    _flip(Path(shard_set.url) / shard_set.shard_of(5).name, span.offset)
    (finding,) = verify(shard_set.url).findings
    assert f"{row.key}.{span.name}" in finding.detail


def test_damage_outside_the_members_is_told_as_such(shard_set):
    _flip(Path(shard_set.url) / shard_name(0), 100)
    (finding,) = verify(shard_set.url).findings
    assert "headers or padding" in finding.detail


def test_every_truncation_is_found(tmp_path, make_set_in):
    url = make_set_in(tmp_path / "set", num_shards=1, per_shard=2).url
    path = Path(url) / shard_name(0)
    content = path.read_bytes()
    for length in range(0, len(content), 512):
        path.write_bytes(content[:length])
        report = verify(url)
        assert report.exit_code == EXIT_DAMAGED
        assert f"{length} bytes, but {len(content)} were written" in str(report)


def test_a_missing_shard_a_missing_table_and_a_missing_set_are_told_apart_from_damage(
    shard_set, tmp_path, capsys
):
    (Path(shard_set.url) / shard_name(1)).unlink()
    report = verify(shard_set.url)
    assert [(each.kind, each.name) for each in report.findings] == [("missing", shard_name(1))]
    assert main(["verify", shard_set.url]) == EXIT_MISSING
    (Path(shard_set.url) / part_name(shard_name(2))).unlink()
    assert verify(shard_set.url).exit_code == EXIT_MISSING
    (Path(shard_set.url) / "manifest.json").unlink()
    assert "not whole" in str(verify(shard_set.url))
    assert verify(shard_set.url).exit_code == EXIT_MISSING
    for command in ("verify", "stats", "inspect"):
        assert main([command, str(tmp_path / "nowhere")]) == EXIT_MISSING
    assert "no such folder; check the path" in capsys.readouterr().err


def test_what_a_remedy_says_mends_the_set(shard_set):
    """`remove it, then run the same rendering again`, for every file of the set."""
    root = Path(shard_set.url)
    for name in [shard_name(1), "manifest.json", *LocalStore(root).list_names("manifest")]:
        _flip(root / name, 500 if name.endswith(".tar") else 8)
        (finding,) = verify(root).findings
        if finding.name == shard_name(1):
            assert MEND_SHARD in finding.detail
            (root / name).unlink()
        else:
            assert MEND_MANIFEST in finding.detail
            shutil.rmtree(root / "manifest")
            (root / "manifest.json").unlink()
        make_set(root)
        assert verify(root).findings == ()


def test_exit_codes_are_those_of_the_command_line(shard_set, tmp_path, monkeypatch, capsys):
    url = shard_set.url
    assert main(["verify", url]) == 0
    assert main(["--help"]) == 0
    for wrong in ([], ["verify"], ["guess", url], ["verify", url, "--key", "k"]):
        assert main(wrong) == 2
    for command in ("verify", "stats", "inspect"):
        assert main([command, "ftp://host/folder"]) == 2
        assert main([command, ""]) == 2
        assert main([command, str(tmp_path / "nowhere")]) == 3
        assert main([command, str(tmp_path)]) == 3  # no manifest
    assert main(["inspect", url, "--key", "set/shape-99"]) == 3
    assert "no sample of this key" in capsys.readouterr().err
    (tmp_path / "file").write_bytes(b"")
    for command in ("verify", "stats", "inspect"):
        assert main([command, str(tmp_path / "file")]) == 5
    _flip(Path(url) / shard_set.shard_of(5).name, shard_set.row(5).members[3].offset)
    assert main(["verify", url]) == 4
    assert main(["inspect", url, "--key", "set/shape-5"]) == 4
    _flip(Path(url) / "manifest.json", 100)
    for command in ("verify", "stats", "inspect"):
        assert main([command, url]) == 4


def test_damage_weighs_more_than_what_is_missing(shard_set):
    (Path(shard_set.url) / shard_name(1)).unlink()
    _flip(Path(shard_set.url) / shard_name(0), 600)
    report = verify(shard_set.url)
    assert len(report.findings) == 2
    assert len(str(report).splitlines()) == 3  # a line per finding, and the verdict
    assert report.exit_code == EXIT_DAMAGED


def test_a_foreign_shard_is_found(shard_set, samples_of):
    write_shard(LocalStore(Path(shard_set.url)), "shard-000009.tar", samples_of(range(50, 51)))
    report = verify(shard_set.url)
    assert [(each.kind, each.name) for each in report.findings] == [("foreign", "shard-000009.tar")]
    assert report.exit_code == EXIT_DAMAGED


def test_two_shards_that_changed_places_are_found(shard_set):
    first, second = (Path(shard_set.url) / shard_name(number) for number in (0, 1))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    assert [each.name for each in verify(shard_set.url).findings] == [shard_name(0), shard_name(1)]


@pytest.mark.parametrize("column", ["offset", "length", "crc32"])
def test_a_member_table_that_does_not_match_the_tar_is_found(tmp_path, samples_of, column):
    """All hashes are right: the writer of the manifest told something else of the shard."""
    store = LocalStore(tmp_path)
    info = write_shard(store, shard_name(0), samples_of(range(2)))
    getattr(info.samples, column)[4] += 1
    publish_set(store, [info])
    (finding,) = verify(tmp_path).findings
    assert finding.name == part_name(shard_name(0))
    assert info.samples.keys[0] in finding.detail


def test_a_source_id_in_two_shards_is_found(tmp_path, samples_of):
    store = LocalStore(tmp_path)
    infos = [write_shard(store, shard_name(n), samples_of(range(n, n + 2))) for n in range(2)]
    publish_set(store, infos)
    (finding,) = verify(tmp_path).findings
    assert finding.name == "set/shape-1"


def test_a_shard_whose_shapes_were_all_rejected_is_no_missing_shard(tmp_path, samples_of):
    store = LocalStore(tmp_path)
    lost = empty_shard(shard_name(1), [Reject("set/lost", "no_faces", "it has no faces")])
    infos = [
        write_shard(store, shard_name(0), samples_of(range(2))),
        lost,
        write_shard(store, shard_name(2), samples_of(range(2, 4))),
    ]
    manifest = publish_set(store, infos)
    assert verify(tmp_path).findings == ()
    assert manifest.rejects == lost.rejects
    reader = ShardReader(manifest)
    ids = [reader.read(Request(index)).meta.source_id for index in range(4)]
    assert ids == [f"set/shape-{number}" for number in range(4)]


def test_stats_count_what_is_there(shard_set, capsys):
    counts = stats(shard_set.url)
    assert (counts.num_shards, counts.num_samples) == (3, 12)
    assert counts.labels == {"chair": 6, "table": 6}
    assert counts.rejects == {"no_faces": 1}
    assert counts.points == (61, 61)
    assert counts.views == (3, 3)
    assert counts.member_bytes["visibility.bin"] == 12 * 3 * 8
    assert counts.digest == load_manifest(shard_set.url).digest
    assert main(["stats", shard_set.url]) == EXIT_WHOLE
    assert "6 chair" in capsys.readouterr().out


def test_inspect_describes_the_set_and_a_sample_by_key_or_source_id(shard_set, capsys):
    assert len(inspect(shard_set.url).splitlines()) == 4
    by_key = inspect(shard_set.url, keys_of(shard_set)[5])
    assert by_key == inspect(shard_set.url, "set/shape-5")
    assert f"source_id = {json.dumps('set/shape-5')}" in by_key
    assert "view02.jpg" in by_key
    assert main(["inspect", shard_set.url, "--key", "set/shape-5"]) == EXIT_WHOLE
    assert by_key in capsys.readouterr().out
    with pytest.raises(ShardError, match="no sample of this key"):
        inspect(shard_set.url, "set/shape-99")


def test_the_package_imports_neither_torch_nor_ray_nor_webdataset():
    import subprocess
    import sys

    code = """
import sys, shards.__main__, shards.plan
print([name for name in ("torch", "ray", "picpoint", "webdataset") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
