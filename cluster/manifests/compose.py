"""A cluster of one machine, as Docker Compose starts it."""

from cluster.manifests.kuberay import Object
from cluster.manifests.source import HOME, SHARED, USER_ID, ImageName, Site

_TOKEN = "ray_auth_token"


def compose_file(site: Site) -> Object:
    """Give one service for CPUs and one for GPUs; a profile chooses between them."""
    return {
        "name": "picpoint",
        "services": {
            "cpu": {"profiles": ["cpu"], **_head(site, "train-cpu")},
            "gpu": {
                "profiles": ["gpu"],
                **_head(site, "train-cuda"),
                "deploy": {
                    "resources": {
                        "reservations": {
                            "devices": [
                                {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
                            ]
                        }
                    }
                },
            },
        },
        "volumes": {"data": {}},
        # Made by: openssl rand -hex 32 > ray_auth_token, and chmod 444 where you are not user 1000.
        "secrets": {_TOKEN: {"file": "./ray_auth_token"}},
    }


def _head(site: Site, image: ImageName) -> Object:
    return {
        "image": site.image(image),
        "build": {"context": "../../..", "dockerfile": f"cluster/images/{image}.Dockerfile"},
        "command": [
            *("ray", "start", "--head", "--block", "--port=6379", "--dashboard-host=0.0.0.0"),
            "--disable-usage-stats",
        ],
        "user": f"{USER_ID}:{USER_ID}",
        "init": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "environment": {
            "HOME": HOME,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": f"/run/secrets/{_TOKEN}",
        },
        "secrets": [_TOKEN],
        # Keys of buckets, of the Hub, of trackers: for the cluster, not for a job's env_vars.
        "env_file": [{"path": "picpoint.env", "required": False}],
        # Of this machine alone; a remote one is reached through SSH.
        "ports": ["127.0.0.1:8265:8265"],
        "volumes": [f"data:{SHARED}"],
        "shm_size": "8gb",
        "ulimits": {"nofile": {"soft": 65536, "hard": 65536}},
        "restart": "unless-stopped",
        "stop_grace_period": "2m",
        "healthcheck": {
            "test": ["CMD", "ray", "health-check", "--address", "127.0.0.1:6379"],
            "interval": "30s",
            "timeout": "20s",
            "retries": 5,
            "start_period": "60s",
        },
    }
