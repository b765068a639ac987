"""Kueue's own manifests, rendered offline from the kustomization in its Go module, cut to what this kit uses.

Kept: plain batch Jobs, certificates of its own making, one replica. Taken away: webhooks and roles of job kinds that
are switched off, since a webhook on every Pod would stop the store's pod from restarting whenever Kueue is down.
"""

from __future__ import annotations

import copy
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from sovereign import strict_yaml
from sovereign.errors import ToolError
from sovereign.files import write_atomic
from sovereign.resources import cache_dir

Object = dict[str, Any]

NAMESPACE = "kueue-system"
FRAMEWORKS = ["batch/job"]
_KEPT_WEBHOOKS = ("job", "clusterqueue", "cohort", "resourceflavor", "workload")
_DROPPED_ROLES = (
    "jaxjob",
    "jobset",
    "mpijob",
    "paddlejob",
    "pytorchjob",
    "raycluster",
    "rayjob",
    "tfjob",
    "trainjob",
    "xgboostjob",
)


def kueue_objects(kubectl: Path, config_dir: Path, *, image: str, pull_policy: str) -> list[Object]:
    """Kueue's objects with the given image.

    Args:
        kubectl: the program, for `kubectl kustomize`.
        config_dir: the folder `config` of Kueue's module.
        image: the manager's image.
        pull_policy: of that image.

    Raises:
        ToolError: kubectl cannot render the folder, or its content is of an unknown shape.
    """
    objects = [item for item in _rendered(kubectl, config_dir) if not _is_dropped(item)]
    for item in objects:
        if item["kind"] == "Namespace":
            levels = ("enforce", "audit", "warn")
            item["metadata"]["labels"] |= {f"pod-security.kubernetes.io/{level}": "restricted" for level in levels}
        elif item["kind"] in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
            item["webhooks"] = [hook for hook in item["webhooks"] if hook["name"].split(".")[0][1:] in _KEPT_WEBHOOKS]
    configuration = next(item for item in objects if item["kind"] == "ConfigMap")
    _configure(configuration)
    _adapt(next(item for item in objects if item["kind"] == "Deployment"), configuration, image, pull_policy)
    return objects


def _rendered(kubectl: Path, config_dir: Path) -> list[Object]:
    """All objects of the kustomization, kept by the digest of what goes in, since kustomize takes a second."""
    digest = hashlib.sha256()
    for path in sorted(config_dir.rglob("*.yaml")):
        digest.update(f"{path.relative_to(config_dir)}\0".encode() + path.read_bytes())
    cached = cache_dir() / "kueue" / f"{digest.hexdigest()[:16]}.json"
    if not cached.is_file():
        result = subprocess.run(
            [kubectl, "kustomize", config_dir / "default"], capture_output=True, text=True, check=False
        )
        if result.returncode != 0:
            raise ToolError(f"kubectl cannot render {config_dir}", got=result.stderr.strip()[-500:])
        objects = list(strict_yaml.load_all(result.stdout))
        kinds = {item["kind"] for item in objects}
        if missing := {"Deployment", "ConfigMap", "CustomResourceDefinition"} - kinds:
            raise ToolError(f"{config_dir} does not hold Kueue's manifests", got=f"no {', '.join(sorted(missing))}")
        write_atomic(cached, json.dumps(objects))
    result_objects: list[Object] = json.loads(cached.read_bytes())
    return result_objects


def _is_dropped(item: Object) -> bool:
    name = item["metadata"]["name"]
    return item["kind"] == "ClusterRole" and any(name.startswith(f"kueue-{role}-") for role in _DROPPED_ROLES)


def _configure(configuration: Object) -> None:
    """Only the frameworks in use; no election, since one replica with strategy Recreate is never two."""
    (key,) = configuration["data"]
    settings = strict_yaml.load(configuration["data"][key])
    settings["integrations"] = {"frameworks": FRAMEWORKS}
    settings["leaderElection"]["leaderElect"] = False
    configuration["data"][key] = yaml.safe_dump(settings, sort_keys=True)


def _adapt(deployment: Object, configuration: Object, image: str, pull_policy: str) -> None:
    text = json.dumps(configuration["data"], sort_keys=True).encode()
    spec = deployment["spec"]
    spec["strategy"] = {"type": "Recreate"}
    template = spec["template"]
    template["metadata"]["annotations"]["sovereign.local/configuration"] = hashlib.sha256(text).hexdigest()[:12]
    pod = template["spec"]
    pod["securityContext"] |= {"runAsUser": 65532, "runAsGroup": 65532}
    (manager,) = pod["containers"]
    manager |= {
        "image": image,
        "imagePullPolicy": pull_policy,
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "env": [{"name": "GOMAXPROCS", "value": "2"}],
    }
    manager["readinessProbe"] = copy.deepcopy(manager["readinessProbe"]) | {
        "initialDelaySeconds": 1,
        "periodSeconds": 2,
    }
