"""Clusters of virtual machines, as `ray up` starts them on AWS and GCP."""

from collections.abc import Mapping

from cluster.manifests.kuberay import Object
from cluster.manifests.source import HOME, SHARED, USER_ID, CloudTypes, Cluster, Machine, Site
from cluster.submission import NOT_ON_SPOT

_HEAD = "head"
_DISK_GIB = 200


def aws(cluster: Cluster, site: Site, types: CloudTypes) -> Object:
    """Give a cluster on EC2."""
    provider: Object = {
        "type": "aws",
        "region": site.aws_region,
        "cache_stopped_nodes": False,
        "security_group": {
            "GroupName": "picpoint-ray",
            "IpPermissions": [
                {
                    "FromPort": 22,
                    "ToPort": 22,
                    "IpProtocol": "TCP",
                    "IpRanges": [{"CidrIp": site.ssh_from}],
                }
            ],
        },
    }
    nodes = {
        _HEAD: _ec2(types.aws[_HEAD], site, is_spot=False),
        **{
            group.name: _ec2(types.aws[group.name], site, group.is_spot) for group in cluster.groups
        },
    }
    return _config(cluster, site, provider, nodes)


def gcp(cluster: Cluster, site: Site, types: CloudTypes) -> Object:
    """Give a cluster on Compute Engine."""
    provider: Object = {
        "type": "gcp",
        "region": site.gcp_region,
        "availability_zone": f"{site.gcp_region}-a",
        "project_id": site.gcp_project,
    }
    nodes = {
        _HEAD: _gce(types.gcp[_HEAD], cluster.head, is_spot=False),
        **{
            group.name: _gce(types.gcp[group.name], group.machine, group.is_spot)
            for group in cluster.groups
        },
    }
    return _config(cluster, site, provider, nodes)


def _config(cluster: Cluster, site: Site, provider: Object, nodes: Mapping[str, Object]) -> Object:
    return {
        "cluster_name": cluster.name,
        "max_workers": sum(group.max_workers for group in cluster.groups),
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": cluster.idle_timeout_s // 60,
        "provider": provider,
        "auth": {"ssh_user": "ubuntu"},
        "docker": {
            "image": site.image(cluster.image),
            "container_name": "picpoint",
            "pull_before_run": True,
            "run_options": [
                f"--user={USER_ID}:{USER_ID}",
                "--cap-drop=ALL",
                "--security-opt=no-new-privileges",
                "--ulimit=nofile=65536:65536",
                "--env=RAY_AUTH_MODE=token",
                f"--env=HOME={HOME}",
                f"--volume={SHARED}:{SHARED}",
            ],
        },
        "head_node_type": _HEAD,
        "available_node_types": {
            _HEAD: {
                "resources": {"CPU": 0, "GPU": 0},
                "min_workers": 0,
                "max_workers": 0,
                "node_config": nodes[_HEAD],
            },
            **{
                group.name: {
                    "resources": _resources(group.machine),
                    "min_workers": 0,
                    "max_workers": group.max_workers,
                    "priority": group.priority,
                    "node_config": nodes[group.name],
                    "docker": {"worker_image": site.image(group.image)},
                    **({"labels": _spot_labels()} if group.is_spot else {}),
                }
                for group in cluster.groups
            },
        },
        # The same token on every machine; `ray get-auth-token --generate` makes it.
        "file_mounts": {"~/.ray/auth_token": "~/.ray/auth_token"},
        "initialization_commands": [
            "command -v mount.nfs4 || sudo apt-get install -y nfs-common",
            f"sudo mkdir -p {SHARED}",
            f"mountpoint -q {SHARED} || sudo mount -t nfs4 -o nfsvers=4.1,hard {site.nfs} {SHARED}",
        ],
        # All that is needed is in the image.
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [
            "ray stop",
            # The dashboard is reached through SSH: `ray dashboard CONFIG`.
            "ray start --head --port=6379 --object-manager-port=8076 --num-cpus=0 --num-gpus=0 "
            "--dashboard-host=127.0.0.1 --autoscaling-config=~/ray_bootstrap_config.yaml",
        ],
        "worker_start_ray_commands": [
            "ray stop",
            "ray start --address=$RAY_HEAD_IP:6379 --object-manager-port=8076",
        ],
    }


def _resources(machine: Machine) -> Object:
    amounts: Object = {"CPU": machine.cpus}
    return amounts | {"GPU": machine.gpus} if machine.gpus else amounts


def _spot_labels() -> Object:
    return {key: value.removeprefix("!") for key, value in NOT_ON_SPOT.items()}


def _ec2(instance_type: str, site: Site, is_spot: bool) -> Object:
    config: Object = {
        "InstanceType": instance_type,
        "ImageId": "latest_dlami",
        "BlockDeviceMappings": [
            {
                "DeviceName": "/dev/sda1",
                "Ebs": {"VolumeSize": _DISK_GIB, "VolumeType": "gp3", "Encrypted": True},
            }
        ],
        # Rights on buckets come from the machine; two hops, because Ray runs in a container.
        "IamInstanceProfile": {"Arn": site.aws_instance_profile},
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
    }
    if is_spot:
        config["InstanceMarketOptions"] = {"MarketType": "spot"}
    return config


def _gce(machine_type: str, machine: Machine, is_spot: bool) -> Object:
    family = "common-cu128" if machine.gpus else "common-cpu"
    config: Object = {
        "machineType": machine_type,
        "disks": [
            {
                "boot": True,
                "autoDelete": True,
                "type": "PERSISTENT",
                "initializeParams": {
                    "diskSizeGb": _DISK_GIB,
                    "sourceImage": "projects/deeplearning-platform-release/global/images/family/"
                    + family,
                },
            }
        ],
    }
    if machine.gpus:
        config["scheduling"] = [{"onHostMaintenance": "TERMINATE"}]
    elif is_spot:
        config["scheduling"] = [{"preemptible": True}]
    return config
