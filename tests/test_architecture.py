"""The directions of import and the fences, read from the source."""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("picpoint", "shards", "cluster", "configs", "benchmarks")

# Room -> rooms that it may import. A room is a folder of picpoint, or one of its top-level files.
MAY_IMPORT = {
    "batch": set(),
    "geometry": {"batch"},
    "ops": {"batch"},
    "render": {"geometry", "ops", "shards"},
    "assets": {"render"},
    "data": {"batch", "geometry", "ops", "shards"},
    "datasets": {"data", "geometry", "ops", "render", "shards"},
    "encoders": {"batch", "geometry", "ops", "optional"},
    "features": {"batch", "data", "encoders", "ops", "shards"},
    "heads": {"batch", "geometry", "ops"},
    "losses": {"batch"},
    "model": {"batch", "encoders", "heads", "ops"},
    "linear_probe": set(),
    "metrics": {"batch"},
    "scores": set(),
    "task_model": {"batch", "encoders", "heads", "model"},
    "publish": set(),
    "optional": set(),
    "train": {
        "batch",
        "data",
        "encoders",
        "heads",
        "linear_probe",
        "losses",
        "metrics",
        "model",
        "ops",
        "publish",
        "scores",
        "shards",
        "task_model",
        "weights",
    },
    "evaluate": {
        "batch",
        "data",
        "encoders",
        "linear_probe",
        "model",
        "ops",
        "publish",
        "shards",
        "task_model",
        "train",
        "weights",
    },
    "weights": {"batch", "encoders", "heads", "model", "ops", "optional", "publish"},
    "report": {"batch", "data", "evaluate", "geometry", "publish", "scores", "shards", "train"},
}
ONLY_IN_CLUSTER = {"ray", "hydra", "omegaconf"}
KAOLIN_FILE = Path("picpoint/render/kaolin_renderer.py")


def sources(package: str) -> Iterator[Path]:
    return (ROOT / package).rglob("*.py")


def imports(path: Path) -> set[str]:
    """All modules that a file imports, at any depth of its code."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def top_levels(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "picpoint").parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = {
        name.split(".")[1]
        for name in imports(path)
        if name.startswith("picpoint.") and name.split(".")[1] in {*MAY_IMPORT}
    }
    return rooms | (top_levels(path) & {"shards", "cluster", "configs", "benchmarks"})


def test_every_room_of_picpoint_is_in_the_table() -> None:
    rooms = {room_of(path) for path in sources("picpoint")} - {"__init__"}
    assert rooms <= set(MAY_IMPORT)


@pytest.mark.parametrize("path", sorted(sources("picpoint")), ids=str)
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    room = room_of(path)
    if room != "__init__":
        assert imported_rooms(path) - {room} <= MAY_IMPORT[room]


def test_shards_know_neither_learning_nor_ray() -> None:
    for path in sources("shards"):
        assert not top_levels(path) & {"torch", "ray", "hydra", "omegaconf", "picpoint", "cluster"}


def test_ray_and_hydra_stay_in_cluster() -> None:
    for package in ("picpoint", "shards", "benchmarks"):
        for path in sources(package):
            assert not top_levels(path) & ONLY_IN_CLUSTER, path


def test_kaolin_is_imported_in_one_file() -> None:
    # cluster/doctor.py asks by name whether it is there, which is no import statement.
    for package in PACKAGES:
        for path in sources(package):
            assert "kaolin" not in top_levels(path) or path == ROOT / KAOLIN_FILE, path


def test_nothing_imports_the_tests() -> None:
    for package in PACKAGES:
        for path in sources(package):
            assert "tests" not in top_levels(path), path


def test_rendering_on_a_cpu_loads_neither_torch_nor_ray() -> None:
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, picpoint.render.limited, shards.writer;"
            "print(*sorted({'torch', 'ray', 'hydra'} & set(sys.modules)))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.split() == []


def test_the_guard_itself_sees_nested_imports(tmp_path: Path) -> None:
    source = tmp_path / "nested.py"
    source.write_text("def f():\n    import ray.train\n    from picpoint import model\n")
    assert imports(source) == {"ray.train", "picpoint", "picpoint.model"}
    assert importlib.util.find_spec("picpoint") is not None
