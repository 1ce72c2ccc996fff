"""Write the manifests, for this place or another.

python -m cluster.manifests                      # those of this folder
python -m cluster.manifests --out mine --registry ghcr.io/acme/picpoint --namespace ml
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from cluster.manifests.compose import compose_file
from cluster.manifests.grafana import dashboard
from cluster.manifests.kuberay import Object, namespace, pretrain_job, ray_cluster
from cluster.manifests.kueue import queued_pretrain_job, queues
from cluster.manifests.ray_up import aws, gcp
from cluster.manifests.source import (
    CPU_GROUP,
    GPU_GROUP,
    HEAD,
    RENDERING,
    TRAINING,
    CloudTypes,
    Cluster,
    Site,
)

HERE = Path(__file__).parent
_FIRST_LINE = "# Made by `python -m cluster.manifests`; change cluster/manifests/source.py.\n"


class _Dumper(yaml.SafeDumper):
    """Writes what occurs twice twice, without anchors."""

    def ignore_aliases(self, data: object) -> bool:
        del data
        return True


def manifests(site: Site) -> Mapping[str, str]:
    """Give the text of every manifest, by its path in this folder."""
    types = CloudTypes()
    # A run of its own needs no machines for rendering.
    own = Cluster("picpoint", "train-cpu", HEAD, (CPU_GROUP, GPU_GROUP))
    documents: dict[str, list[Object]] = {
        "kuberay/namespace.yaml": namespace(site),
        "kuberay/raycluster.yaml": [ray_cluster(TRAINING, site)],
        "kuberay/raycluster-render.yaml": [ray_cluster(RENDERING, site)],
        "kuberay/rayjob-pretrain.yaml": [pretrain_job("pretrain", own, site, num_gpus=2)],
        "kueue/queues.yaml": queues(site),
        "kueue/rayjob-pretrain.yaml": [
            queued_pretrain_job("pretrain-queued", own, site, num_gpus=2)
        ],
        "ray-up/aws.yaml": [aws(TRAINING, site, types)],
        "ray-up/gcp.yaml": [gcp(TRAINING, site, types)],
        "compose/compose.yaml": [compose_file(site)],
    }
    texts = {path: _FIRST_LINE + _to_yaml(each) for path, each in documents.items()}
    return texts | {"grafana/picpoint.json": dashboard()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write all manifests."""
    parser = argparse.ArgumentParser(prog="python -m cluster.manifests", description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIR")
    for each in dataclasses.fields(Site):
        option = f"--{each.name.replace('_', '-')}"
        kind = int if each.name == "data_gib" else str
        parser.add_argument(option, default=each.default, type=kind, help=f"now {each.default}")
    options = vars(parser.parse_args(arguments))
    out: Path = options.pop("out")
    for path, text in manifests(Site(**options)).items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_text(text)
        print(out / path)
    return 0


def _to_yaml(documents: Sequence[Object]) -> str:
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=100)


if __name__ == "__main__":
    sys.exit(main())
