"""Pins what goes into the images: every package by version and by the hash of the file for Linux.

    pip install uv packaging && python cluster/images/lock.py

Asks PyPI. The versions of the environment that it runs in, which the tests have seen, are kept
where they fit together; what does not is in LOOSE.
"""

import importlib.metadata
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

HERE = Path(__file__).parent
PROJECT = HERE.parent.parent / "pyproject.toml"
PYTHON = "3.11"
GLIBC = range(36, 4, -1)  # Debian 12 has 2.36

# boto3 and the torch of Kaolin take older ones than we test with.
LOOSE = ("python-dateutil", "setuptools")
# Heads of `ray up` start and end machines.
LAUNCHER = ("boto3", "google-api-python-client")
# tools/requirements.txt and tools/viz_requirements.txt of Kaolin, but for what only builds it.
KAOLIN = (
    *("usd-core", "numpy", "pillow>=8", "tqdm>=4.51", "scipy", "plyfile", "pygltflib", "warp-lang"),
    *("ipython", "ipycanvas", "ipyevents", "jupyter_client", "flask", "tornado", "comm>=0.1.3"),
)
# Kaolin takes no newer torch (setup.py of the commit in render.Dockerfile).
KAOLIN_TORCH = ("torch==2.12.1",)
# Of torch for CUDA; a CPU has no use for them.
CUDA_ONLY = ("torch", "torchvision", "triton", "nvidia-", "cuda-", "numba-cuda")

_HEAD = "# Made by cluster/images/lock.py from pyproject.toml, for Linux on x86-64.\n"


def main() -> None:
    """Write the requirements of all images."""
    tested = sorted(
        f"{each.name}=={each.version.partition('+')[0]}"
        for each in importlib.metadata.distributions()
        if canonicalize_name(each.name) not in (*LOOSE, "picpoint", "pip")
    )
    train = locked(("encoders", "hub", "onnx", "tune", "cuda"), LAUNCHER, tested)
    write("requirements-train-cuda.txt", train)
    write("requirements-train-cpu.txt", [p for p in train if not p[0].startswith(CUDA_ONLY)])
    other_torch = [pin for pin in tested if not pin.startswith(("torch==", "torchvision=="))]
    write("requirements-render.txt", locked(("cuda",), KAOLIN, [*other_torch, *KAOLIN_TORCH]))


def locked(
    extras: Sequence[str], more: Sequence[str], constraints: Sequence[str]
) -> list[tuple[str, str, str]]:
    """Resolve the project with some extras; give name, version and SHA-256 of each package."""
    with tempfile.TemporaryDirectory() as scratch:
        wanted, limits = Path(scratch, "more.in"), Path(scratch, "tested.txt")
        wanted.write_text("\n".join(more))
        limits.write_text("\n".join(constraints))
        out = Path(scratch, "pylock.toml")
        subprocess.run(
            [
                *(sys.executable, "-m", "uv", "pip", "compile", "--no-config", "--quiet"),
                *("--index-url", "https://pypi.org/simple", "--python-version", PYTHON),
                *("--python-platform", "x86_64-manylinux_2_28", "-c", str(limits)),
                *(word for extra in extras for word in ("--extra", extra)),
                *(str(PROJECT), str(wanted), "-o", str(out)),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        packages = tomllib.loads(out.read_text())["packages"]
    return [(each["name"], each["version"], file_hash(each)) for each in packages]


def file_hash(package: dict[str, Any]) -> str:
    """Give the SHA-256 of the file that pip would take: the best wheel, or the source."""
    ranks = {tag: rank for rank, tag in enumerate(tags())}
    ranked = [
        (min((ranks[tag] for tag in wheel_tags(wheel) if tag in ranks), default=-1), wheel)
        for wheel in package.get("wheels", [])
    ]
    fitting = [(rank, wheel) for rank, wheel in ranked if rank >= 0]
    chosen = min(fitting, key=lambda each: each[0])[1] if fitting else package["sdist"]
    return chosen["hashes"]["sha256"]


def wheel_tags(wheel: dict[str, Any]) -> Iterator[object]:
    """Give the interpreters and platforms that a wheel is for."""
    name = wheel.get("name") or wheel["url"].rpartition("/")[2]
    yield from parse_wheel_filename(name)[3]


def tags() -> Iterator[object]:
    """Give what CPython on Debian takes, best first."""
    version = tuple(map(int, PYTHON.split(".")))
    old = ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]
    platforms = [*(f"manylinux_2_{minor}_x86_64" for minor in GLIBC), *old]
    yield from cpython_tags(version, platforms=platforms)
    yield from compatible_tags(version, "cp311", platforms)


def write(name: str, packages: Sequence[tuple[str, str, str]]) -> None:
    """Write requirements as pip reads them."""
    lines = (f"{package}=={version} --hash=sha256:{sha}\n" for package, version, sha in packages)
    (HERE / name).write_text(_HEAD + "".join(lines))


if __name__ == "__main__":
    main()
