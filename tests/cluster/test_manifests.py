"""The committed manifests are those of the source, and what each platform takes."""

import json
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft7Validator, Draft202012Validator
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.app import load_command
from cluster.compose import compose_config
from cluster.manifests import source
from cluster.manifests.__main__ import HERE, main, manifests
from cluster.manifests.source import HOME, RENDERING, TRAINING, USER_ID, Site

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "tests" / "assets" / "schemas"
KUBERAY = json.loads((SCHEMAS / "kuberay-1.7.0.json").read_text())
KUEUE = json.loads((SCHEMAS / "kueue-0.19.2.json").read_text())
COMPOSE = json.loads((SCHEMAS / "compose-170098ba07d9.json").read_text())

TEXTS = manifests(Site())
KUBERNETES = [path for path in TEXTS if path.startswith(("kuberay/", "kueue/"))]
RAY_UP = [path for path in TEXTS if path.startswith("ray-up/")]


def documents(path: str) -> list[dict]:
    return list(yaml.safe_load_all(TEXTS[path]))


def of_kind(kind: str) -> list[dict]:
    return [each for path in KUBERNETES for each in documents(path) if each["kind"] == kind]


def cluster_specs() -> Iterator[dict]:
    yield from (each["spec"] for each in of_kind("RayCluster"))
    yield from (each["spec"]["rayClusterSpec"] for each in of_kind("RayJob"))


def pods() -> Iterator[dict]:
    """Every pod that the manifests describe themselves."""
    for spec in cluster_specs():
        yield spec["headGroupSpec"]["template"]["spec"]
        yield from (group["template"]["spec"] for group in spec["workerGroupSpecs"])
    yield from (each["spec"]["submitterPodTemplate"]["spec"] for each in of_kind("RayJob"))


def complaints(schema: object, value: object) -> list[str]:
    """What a schema of Kubernetes says of an object; a part of it may refer to $defs."""
    assert isinstance(schema, dict)
    whole = {"$defs": KUBERAY["$defs"]} | schema
    errors = Draft202012Validator(whole).iter_errors(value)
    return [f"{error.json_path}: {error.message}" for error in errors]


@pytest.mark.parametrize("path", TEXTS)
def test_the_committed_file_is_the_one_that_the_source_makes(path: str) -> None:
    assert (HERE / path).read_text() == TEXTS[path], "run python -m cluster.manifests"


def test_no_other_manifest_lies_there() -> None:
    assert {
        str(path.relative_to(HERE))
        for pattern in ("*.yaml", "*.json")
        for path in HERE.rglob(pattern)
    } == set(TEXTS)


@pytest.mark.parametrize("path", KUBERNETES)
def test_kubernetes_takes_every_object(path: str) -> None:
    schemas = KUBERAY | KUEUE
    for each in documents(path):
        if each["kind"] in schemas:
            assert complaints(schemas[each["kind"]], each) == []
        else:
            assert each["kind"] in _WITHOUT_SCHEMA


# Of these, the parts that KubeRay's definitions contain are checked below.
_WITHOUT_SCHEMA = {"Namespace", "ServiceAccount", "PersistentVolumeClaim", "NetworkPolicy"}


def test_kubernetes_takes_the_claim_and_the_rules_of_the_network() -> None:
    (claim,) = of_kind("PersistentVolumeClaim")
    assert complaints(KUBERAY["$defs"]["claimSpec"], claim["spec"]) == []
    (policy,) = of_kind("NetworkPolicy")
    assert complaints(KUBERAY["$defs"]["ingressRules"], policy["spec"]["ingress"]) == []


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (("spec", "rayVersoin"), "2.60.0"),
        (("spec", "authOptions", "mode"), "password"),
        (("spec", "headGroupSpec", "template", "spec", "containers", 0, "nmae"), "x"),
        (("spec", "workerGroupSpecs", 0, "maxReplicas"), "many"),
        (("spec", "workerGroupSpecs", 0, "template", "spec", "volumes", 0, "hostPath"), {}),
    ],
)
def test_the_schemas_refuse_slips(place: tuple, wrong: object) -> None:
    (cluster,) = documents("kuberay/raycluster.yaml")
    inner = cluster
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = wrong
    assert complaints(KUBERAY["RayCluster"], cluster)


@pytest.mark.parametrize("path", RAY_UP)
def test_ray_up_takes_the_config(path: str) -> None:
    (config,) = documents(path)
    prepared = prepare_config(config)
    validate_config(prepared)
    # Nothing of Ray's defaults comes in: they would install other versions.
    assert prepared["setup_commands"] == prepared["head_setup_commands"] == []
    head = prepared["available_node_types"][prepared["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert head["max_workers"] == 0


def test_compose_takes_the_file() -> None:
    (compose,) = documents("compose/compose.yaml")
    assert not list(Draft7Validator(COMPOSE).iter_errors(compose))
    compose["services"]["cpu"]["prots"] = []
    assert list(Draft7Validator(COMPOSE).iter_errors(compose))


def test_every_pod_may_run_where_only_restricted_ones_may() -> None:
    """The rules of the pod security standard `restricted`, on all containers that we describe."""
    (namespace,) = of_kind("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    autoscalers = [
        spec["autoscalerOptions"] for spec in cluster_specs() if "autoscalerOptions" in spec
    ]
    containers = [container for pod in pods() for container in pod["containers"]]
    for container in [*containers, *autoscalers]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["runAsNonRoot"] is True
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for pod in pods():
        assert pod["securityContext"]["runAsUser"] == USER_ID
        for volume in pod.get("volumes", []):
            assert set(volume) - {"name"} <= {"emptyDir", "persistentVolumeClaim"}


def test_every_container_has_limits_and_asks_for_all_of_them() -> None:
    for pod in pods():
        for container in pod["containers"]:
            resources = container["resources"]
            assert resources["requests"] == resources["limits"]
            assert {"cpu", "memory", "ephemeral-storage"} <= set(resources["limits"])


def test_the_head_does_no_work_and_holds_no_secrets() -> None:
    for spec in cluster_specs():
        head = spec["headGroupSpec"]
        assert head["rayStartParams"]["num-cpus"] == "0"
        assert "envFrom" not in head["template"]["spec"]["containers"][0]
        for group in spec["workerGroupSpecs"]:
            assert group["template"]["spec"]["automountServiceAccountToken"] is False


def test_every_cluster_asks_for_a_token() -> None:
    for spec in cluster_specs():
        assert spec["authOptions"] == {"mode": "token"}
        assert spec["rayVersion"] == source.RAY_VERSION
    for path in RAY_UP:
        (config,) = documents(path)
        assert "--env=RAY_AUTH_MODE=token" in config["docker"]["run_options"]
        assert "~/.ray/auth_token" in config["file_mounts"]
        assert any("--dashboard-host=127.0.0.1" in c for c in config["head_start_ray_commands"])
    (compose,) = documents("compose/compose.yaml")
    for service in compose["services"].values():
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["ports"] == ["127.0.0.1:8265:8265"]


def test_only_ray_and_kuberay_reach_ray() -> None:
    (policy,) = of_kind("NetworkPolicy")
    spec = policy["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    among_themselves, sending = spec["ingress"]
    assert among_themselves == {"from": [{"podSelector": spec["podSelector"]}]}
    assert [port["port"] for port in sending["ports"]] == [8265]
    # An empty selector would let everyone in.
    for peer in [*among_themselves["from"], *sending["from"]]:
        ((_, selector),) = peer.items()
        assert selector.get("matchLabels") or selector.get("matchExpressions")


def test_objects_of_ray_fit_into_shared_memory() -> None:
    for spec in cluster_specs():
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            volumes = {each["name"]: each for each in group["template"]["spec"]["volumes"]}
            shm_gib = int(volumes["shm"]["emptyDir"]["sizeLimit"].removesuffix("Gi"))
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            assert int(group["rayStartParams"]["object-store-memory"]) < shm_gib * 2**30
            assert shm_gib < int(limits["memory"].removesuffix("Gi")) / 2


def test_spot_machines_carry_the_label_that_entry_points_shun() -> None:
    from cluster.submission import NOT_ON_SPOT

    ((key, shunned),) = NOT_ON_SPOT.items()
    for spec in cluster_specs():
        for group in spec["workerGroupSpecs"]:
            is_spot = group["template"]["spec"]["nodeSelector"]["pool"].startswith("spot")
            assert (group.get("labels", {}).get(key) == shunned.removeprefix("!")) is is_spot
        # An entry point finds a place.
        assert any("labels" not in group for group in spec["workerGroupSpecs"])


@pytest.mark.parametrize("job", of_kind("RayJob"), ids=lambda job: job["metadata"]["name"])
def test_a_jobs_entry_point_composes(job: dict) -> None:
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:4] == ["python", "-m", "cluster.app", "pretrain"]
    config = compose_config("pretrain", words[4:])
    _, loaded = load_command("pretrain", config)
    assert loaded.runtime.address == "auto"
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    gpus = next(group for group in groups if group["groupName"] == "gpu")
    assert loaded.runtime.num_workers <= gpus["maxReplicas"]
    assert "env_vars" in yaml.safe_load(job["spec"]["runtimeEnvYAML"])


def test_kueue_admits_the_queued_job() -> None:
    """The rules of Kueue's webhooks for RayJobs."""
    (job,) = documents("kueue/rayjob-pretrain.yaml")
    (local_queue,) = of_kind("LocalQueue")
    classes = {each["metadata"]["name"] for each in of_kind("WorkloadPriorityClass")}
    labels = job["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == local_queue["metadata"]["name"]
    assert labels["kueue.x-k8s.io/priority-class"] in classes
    spec = job["spec"]["rayClusterSpec"]
    assert not spec.get("enableInTreeAutoscaling", False)
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert "clusterSelector" not in job["spec"]
    assert len(spec["workerGroupSpecs"]) <= 7
    assert "head" not in {group["groupName"] for group in spec["workerGroupSpecs"]}
    flavors = {each["metadata"]["name"] for each in of_kind("ResourceFlavor")}
    (queue,) = of_kind("ClusterQueue")
    (group,) = queue["spec"]["resourceGroups"]
    assert {each["name"] for each in group["flavors"]} == flavors


def test_the_queue_has_room_for_the_queued_job() -> None:
    (job,) = documents("kueue/rayjob-pretrain.yaml")
    (queue,) = of_kind("ClusterQueue")
    (group,) = queue["spec"]["resourceGroups"]
    quotas = {
        each["name"].removeprefix("picpoint-"): {
            resource["name"]: int(str(resource["nominalQuota"]).removesuffix("Gi"))
            for resource in each["resources"]
        }
        for each in group["flavors"]
    }
    spec = job["spec"]["rayClusterSpec"]
    needs = [(1, spec["headGroupSpec"])]
    needs += [(each["replicas"], each) for each in spec["workerGroupSpecs"]]
    for number, each in needs:
        pod = each["template"]["spec"]
        limits = pod["containers"][0]["resources"]["limits"]
        quota = quotas[pod["nodeSelector"]["pool"]]
        quota["cpu"] -= number * int(limits["cpu"])
        quota["memory"] -= number * int(limits["memory"].removesuffix("Gi"))
        quota["nvidia.com/gpu"] -= number * int(limits.get("nvidia.com/gpu", 0))
    assert min(amount for quota in quotas.values() for amount in quota.values()) >= 0


def test_rendering_and_training_share_no_image() -> None:
    training = {TRAINING.image, *(group.image for group in TRAINING.groups)}
    rendering = {RENDERING.image, *(group.image for group in RENDERING.groups)}
    assert training == {"train-cpu", "train-cuda"}
    assert rendering == {"render"}


def test_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == source.PICPOINT_VERSION
    assert f"ray=={source.RAY_VERSION}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_another_place_gets_its_own_names(tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path), "--registry", "ghcr.io/acme", "--namespace", "ml"]
    assert main([*arguments, "--data-gib", "7", "--bucket", "gs://acme"]) == 0
    text = "".join((tmp_path / path).read_text() for path in TEXTS)
    assert "registry.example.com" not in text
    assert "picpoint-example/" not in text
    assert "ghcr.io/acme/train-cuda:" in text
    assert "storage: 7Gi" in text
    assert "gs://acme/shards" in text


@pytest.mark.parametrize("path", TEXTS)
def test_no_manifest_holds_a_secret_or_a_floating_image(path: str) -> None:
    assert ":latest" not in TEXTS[path]
    for word in ("password", "AKIA", "PRIVATE KEY"):
        assert word not in TEXTS[path]
    assert HOME.startswith("/home/")
