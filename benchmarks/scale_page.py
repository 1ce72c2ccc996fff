"""How are the figures of scale shown? As the tables of docs/scale.md, made of the record."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
_BEGIN, _END = "<!-- made by benchmarks/scale.py -->", "<!-- end -->"
_STAGES = {
    "render": "render",
    "cache_features": "cache features",
    "pretrain": "pre-train",
}


def with_tables(page: str, results: Mapping[str, Any]) -> str:
    """Put the tables of a record in the place of those that the page has."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    if not rest or not after:
        raise ValueError(f"{PAGE}: lacks the lines {_BEGIN} and {_END}")
    return f"{before}{_BEGIN}\n\n{tables(results)}\n{_END}{after}"


def tables(results: Mapping[str, Any]) -> str:
    """Give all tables as Markdown."""
    simulated = results["simulated"]
    parts = [_planning(results)]
    parts += [_of_data_set(name, each) for name, each in simulated["data_sets"].items()]
    assumed = dict(simulated["assumed"])
    fabric = dict(assumed.pop("fabric"))
    del fabric["speedup"]  # it is gpu_speedup_training
    parts.append(_values("assumed", assumed | {f"fabric.{k}": v for k, v in fabric.items()}))
    parts.append(_values("measured, on one core", simulated["measured"]))
    return "\n".join(parts)


def _planning(results: Mapping[str, Any]) -> str:
    return _table(
        ("manifest and planner, really run", "figure"),
        [
            ("samples, shards", f"{results['num_samples']:,}, {results['num_shards']:,}"),
            ("publishing the manifest", f"{results['publish_s']:.1f} CPU-s"),
            ("from opening to a rank's share of a batch", f"{results['plan_s']:.3f} CPU-s"),
            ("to its first decoded batch", f"{results['first_batch_s']:.2f} CPU-s"),
            ("memory that this takes", f"{results['plan_mb']:.0f} MB"),
        ],
    )


def _of_data_set(name: str, data: Mapping[str, Any]) -> str:
    title = (
        f"### {name}: {data['num_shapes']:,} shapes x {data['views']} views, {data['epochs']} "
        f"epochs\n\nShards {_short(data['shards_gb'])} GB, features {_short(data['features_gb'])} "
        f"GB: {_short(data['storage_usd_per_month'])} USD a month. Assumed: "
        f"{data['mean_faces']:,} triangles and {data['mesh_bytes'] / 1e6:g} MB a mesh, global "
        f"batches of {data['max_global_batch']:,} at most.\n\n"
    )
    rows: list[tuple[str, ...]] = []
    for number, stages in data["on_gpus"].items():
        for stage, label in _STAGES.items():
            each = stages[stage]
            rows.append(
                (
                    number,
                    label,
                    _time(each["hours"]),
                    f"{_short(each['usd'])} ({_short(each['usd_of_requests'])})",
                    _bottleneck(each, int(number)),
                    _next(each),
                )
            )
    return title + _table(
        ("GPUs", "stage", "time", "USD (requests)", "bottleneck", "the next"), rows
    )


def _bottleneck(stage: Mapping[str, Any], num_gpus: int) -> str:
    idle = num_gpus - stage.get("working_gpus", num_gpus)
    return stage["bottleneck"] + (f"; {idle} GPUs without work" if idle else "")


def _next(stage: Mapping[str, Any]) -> str:
    """Tell what the time would be if the bottleneck were none."""
    causes: dict[str, float] = stage["hours_by_cause"]
    others = {name: hours for name, hours in causes.items() if name != stage["bottleneck"]}
    name = max(others, key=lambda name: others[name])
    return f"{name}, {_time(others[name])}"


def _values(title: str, values: Mapping[str, Any]) -> str:
    return _table((title, "value"), [(f"`{name}`", _value(each)) for name, each in values.items()])


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_value(each) for each in value)  # pyright: ignore[reportUnknownVariableType]
    return f"{value:,.6g}" if isinstance(value, float) else f"{value:,}"


def _time(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.1f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
