"""What was measured, where, and with what? Machine-readable records of benchmark results."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cluster.record import commit

RESULTS = Path(__file__).parent / "results"

# What a result may hold.
Json = bool | int | float | str | None | Sequence["Json"] | Mapping[str, "Json"]


def write_record(name: str, results: Json, packages: Sequence[str], folder: Path = RESULTS) -> Path:
    """Write a result with its circumstances to `folder/NAME.json`, replacing an older one.

    Args:
        name: of the benchmark; the file's stem.
        results: what was measured, units in the names.
        packages: distributions whose versions matter to it.
        folder: where records lie.
    """
    record = {
        "benchmark": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": {"python": platform.python_version()} | versions(packages),
        "results": results,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    unfinished = path.with_suffix(".json.part")
    unfinished.write_text(json.dumps(record, indent=2) + "\n")
    return unfinished.replace(path)


def machine() -> dict[str, str | int | None]:
    """Give the processor's model, and how many of its cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": _cpu_model(), "cores": cores, "system": platform.system()}


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Give the versions of installed distributions; None for one that is not installed."""

    def installed(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return {package: installed(package) for package in packages}


def _cpu_model() -> str:
    """Read the processor's model where Linux tells it, or ask Python."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
