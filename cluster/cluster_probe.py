"""What does a cluster look like from inside? Run on its head by `picpoint doctor --cluster`.

Sent as a lone file: picpoint may be absent there, so what is imported at the top is Python's own.
The last line of stdout is one JSON object.
"""

import importlib
import importlib.metadata
import json
import platform
import sys
from typing import Any

_ANSWER_S = 90.0


def main() -> None:
    """Ask every node, and print what they say."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    url = sys.argv[1] if len(sys.argv) > 1 else ""
    ray.init(address="auto", log_to_driver=False)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = [
        ray.remote(look_around)
        .options(
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        )
        .remote(url)
        for node in nodes
    ]
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=_ANSWER_S)
    told = [
        {
            "name": node["NodeManagerHostname"],
            "resources": node["Resources"],
            "told": _outcome(ray, ref) if ref in answered else {"error": "does not answer"},
        }
        for node, ref in zip(nodes, asked, strict=True)
    ]
    whole = {"total": ray.cluster_resources(), "free": ray.available_resources(), "nodes": told}
    print(json.dumps(whole))


def look_around(url: str) -> dict[str, Any]:
    """Say what this machine has.

    Args:
        url: of an object store that it should reach; "" for none.
    """
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in ("ray", "picpoint", "torch")},
        "gpus": _num_gpus(),
        "store": _reach(url) if url else None,
    }


def _outcome(ray: Any, ref: Any) -> dict[str, Any]:  # noqa: ANN401  (a module, a reference)
    try:
        return ray.get(ref)
    except Exception as error:  # a node that fails is a finding
        return {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _num_gpus() -> int:
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return 0
    return torch.cuda.device_count()


def _reach(url: str) -> str:
    """Ask a store for what it cannot have; "" where it says so, else what is wrong."""
    try:
        errors = importlib.import_module("shards.errors")
        store = importlib.import_module("shards.store").open_store(url)
    except ImportError as error:
        return f"cannot be tried, as picpoint is not installed there ({error})"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    try:
        store.size("picpoint-doctor-asks-for-nothing")
    except errors.NotFoundInStoreError:
        return ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    main()
