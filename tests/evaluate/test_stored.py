import zipfile
from pathlib import Path

import numpy as np
import pytest

from picpoint.evaluate.encode import EncodedPair
from picpoint.evaluate.encoded import EncodedShapes
from picpoint.evaluate.results import ResultsError
from picpoint.evaluate.stored import load_encoded, save_encoded


def encoded(seed: int) -> EncodedShapes:
    rng = np.random.default_rng(seed)
    return EncodedShapes(
        keys=("a", "b", "c"),
        class_names=("lamp",),
        labels=np.array([0, -1, 0]),
        features=rng.normal(size=(3, 5)).astype(np.float32),
        shape_embeddings=rng.normal(size=(3, 4)).astype(np.float32),
        picture_embeddings=rng.normal(size=(3, 2, 4)).astype(np.float32),
        held_out=np.array([True, False, False]),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_encoded(EncodedPair(encoded(0), encoded(1)), tmp_path / "new" / "encoded.npz")
    return tmp_path / "new" / "encoded.npz"


def test_what_is_saved_is_loaded_and_no_scrap_is_left(path: Path) -> None:
    loaded = load_encoded(path)
    for mine, other in ((loaded.pretrained, encoded(0)), (loaded.random_init, encoded(1))):
        assert (mine.keys, mine.class_names) == (other.keys, other.class_names)
        for name in ("labels", "features", "shape_embeddings", "picture_embeddings", "held_out"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(other, name))
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "flip", "text", "an array is gone"])
def test_a_broken_file_is_refused_with_its_name(path: Path, damage: str) -> None:
    content = path.read_bytes()
    match damage:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(content[:-30])
        case "flip":
            middle = content.index(encoded(0).features.tobytes())
            path.write_bytes(
                content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            )
        case "text":
            path.write_text("not an archive")
        case _:
            with zipfile.ZipFile(path) as whole, zipfile.ZipFile(path.parent / "b", "w") as less:
                for name in whole.namelist()[:-1]:
                    less.writestr(name, whole.read(name))
            (path.parent / "b").replace(path)
    with pytest.raises(ResultsError, match="run picpoint evaluate") as error:
        load_encoded(path)
    assert str(path) in str(error.value)
