"""Makes the schemas of this folder from those of KubeRay, Kueue and Compose, all Apache-2.0.

    python tests/assets/schemas/trim.py KUBERAY_CHECKOUT KUEUE_CHECKOUT COMPOSE_SPEC_CHECKOUT

Descriptions and all fields that picpoint's manifests do not use are left out, and no other field is
let through: what is refused here in excess shows, what is let through in excess would not.
"""

import json
import subprocess
import sys
from pathlib import Path

import yaml

KUBERAY, KUEUE, COMPOSE = "v1.7.0", "v0.19.2", "170098ba07d9"
KUBERAY_CRDS = "ray-operator/config/crd/bases/ray.io_{}.yaml"
KUEUE_CRDS = "config/components/crd/bases/kueue.x-k8s.io_{}.yaml"
KUEUE_KINDS = ("clusterqueues", "localqueues", "resourceflavors", "workloadpriorityclasses")

# Of what is long, all that is kept.
POD_SPEC = (
    *("automountServiceAccountToken", "containers", "enableServiceLinks", "nodeSelector"),
    *("priorityClassName", "restartPolicy", "securityContext", "serviceAccountName"),
    *("terminationGracePeriodSeconds", "tolerations", "volumes"),
)
CONTAINER = (
    *("args", "command", "env", "envFrom", "image", "imagePullPolicy", "lifecycle", "name"),
    *("ports", "resources", "securityContext", "volumeMounts"),
)
VOLUME = ("configMap", "emptyDir", "name", "persistentVolumeClaim", "secret")


def main() -> None:
    """Write all files."""
    kuberay, kueue, compose = map(Path, sys.argv[1:])
    cluster = schema_of(kuberay, KUBERAY, KUBERAY_CRDS.format("rayclusters"), "v1")
    job = schema_of(kuberay, KUBERAY, KUBERAY_CRDS.format("rayjobs"), "v1")
    spec = cluster["properties"]["spec"]
    assert job["properties"]["spec"]["properties"]["rayClusterSpec"] == spec
    template = spec["properties"]["headGroupSpec"]["properties"]["template"]
    workers = spec["properties"]["workerGroupSpecs"]["items"]["properties"]
    submitter = job["properties"]["spec"]["properties"]["submitterPodTemplate"]
    assert workers["template"] == template == submitter
    volume = template["properties"]["spec"]["properties"]["volumes"]["items"]["properties"]
    claim = volume["ephemeral"]["properties"]["volumeClaimTemplate"]["properties"]["spec"]
    ingress = spec["properties"]["networkPolicy"]["properties"]["head"]["properties"]
    definitions = {
        "pod": strict(trimmed_pod(template)),
        "claimSpec": strict(claim),
        "ingressRules": strict(ingress["ingressRules"]),
    }
    for place in (spec["properties"]["headGroupSpec"]["properties"], workers):
        place["template"] = {"$ref": "#/$defs/pod"}
    job["properties"]["spec"]["properties"]["submitterPodTemplate"] = {"$ref": "#/$defs/pod"}
    del spec["properties"]["networkPolicy"], spec["properties"]["historyServerOptions"]
    definitions["rayCluster"] = strict(spec)
    job["properties"]["spec"]["properties"]["rayClusterSpec"] = {"$ref": "#/$defs/rayCluster"}
    cluster["properties"]["spec"] = {"$ref": "#/$defs/rayCluster"}
    kinds = {"RayCluster": strict(without_status(cluster)), "RayJob": strict(without_status(job))}
    write("kuberay", KUBERAY, "ray-project/kuberay", {"$defs": definitions} | kinds)
    queues = {}
    for name in KUEUE_KINDS:
        kind, version = kind_of(kueue, KUEUE, KUEUE_CRDS.format(name))
        schema = schema_of(kueue, KUEUE, KUEUE_CRDS.format(name), version)
        queues[kind] = strict(without_status(schema))
    write("kueue", KUEUE, "kubernetes-sigs/kueue", queues)
    spec = read(compose, COMPOSE, "schema/compose-spec.json")  # JSON is YAML
    write("compose", COMPOSE, "compose-spec/compose-spec", strict(spec))


def read(checkout: Path, tag: str, path: str) -> dict:
    """Read a definition as it was at a tag."""
    shown = subprocess.run(
        ["git", "show", f"{tag}:{path}"], cwd=checkout, capture_output=True, text=True, check=True
    )
    return yaml.safe_load(shown.stdout)


def schema_of(checkout: Path, tag: str, path: str, version: str) -> dict:
    """Give the schema of one version of a definition."""
    versions = read(checkout, tag, path)["spec"]["versions"]
    return next(v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == version)


def kind_of(checkout: Path, tag: str, path: str) -> tuple[str, str]:
    """Give a definition's kind, and the version in which objects are stored."""
    spec = read(checkout, tag, path)["spec"]
    return spec["names"]["kind"], next(v["name"] for v in spec["versions"] if v["storage"])


def trimmed_pod(template: dict) -> dict:
    """Leave out of a pod's template what no manifest of ours has."""
    template = json.loads(json.dumps(template))
    spec = template["properties"]["spec"]["properties"]
    keep(spec, POD_SPEC)
    keep(spec["containers"]["items"]["properties"], CONTAINER)
    keep(spec["volumes"]["items"]["properties"], VOLUME)
    return template


def keep(properties: dict, names: tuple[str, ...]) -> None:
    """Leave out all properties but some."""
    for name in set(properties) - set(names):
        del properties[name]


def without_status(schema: dict) -> dict:
    """Leave out what only the cluster writes."""
    properties = {key: value for key, value in schema["properties"].items() if key != "status"}
    return schema | {"properties": properties, "required": ["apiVersion", "kind", "metadata"]}


def strict(schema: object) -> object:
    """Leave out descriptions, and let no unknown field through, as `kubectl --validate=strict`."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    described = isinstance(schema.get("description"), str)
    kept = {k: strict(v) for k, v in schema.items() if not (k == "description" and described)}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        kept.setdefault("additionalProperties", False)
    return kept


def write(name: str, tag: str, repository: str, schemas: dict) -> None:
    """Write a file that says where it comes from."""
    about = (
        f"Trimmed from the CRDs of https://github.com/{repository} {tag}, Apache-2.0; see trim.py."
    )
    text = json.dumps({"$comment": about} | schemas, sort_keys=True, separators=(",", ":"))
    path = Path(__file__).parent / f"{name}-{tag.removeprefix('v')}.json"
    path.write_text(text + "\n")
    print(path.name, len(text))


if __name__ == "__main__":
    main()
