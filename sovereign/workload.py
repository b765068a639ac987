"""What the templates of stacks and jobs see of the platform: names, ports, the runtime, a server's sizes. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from sovereign.errors import PlanError, ProfileError
from sovereign.files import sqlite_uri
from sovereign.hardware import ACCELERATORS
from sovereign.job_inputs import JobInputs
from sovereign.plan import Plan, Quota
from sovereign.profile import POSTGRESQL, EmbeddedTarget, KubeconfigTarget, Profile
from sovereign.runtime import Runtime

NAMESPACES = ("training", "lake", "serving")
BUCKETS = ("raw", "curated", "catalog", "models", "mlflow")
PORTS: Mapping[str, int] = {"s3": 7070, "mlflow": 5000, "model": 8000, "engine": 8001, "rendezvous": 29500}
S3_ACCESS_KEY = "sovereign"
"""Name of the store's root key; the key itself is the site's (stacks.resolve.s3_secret_key)."""
QUEUE = "training"
"""Name of the ClusterQueue and of the LocalQueue in the namespace `training`."""
ENDPOINTS: Mapping[str, str] = {
    "s3": f"http://s3.lake.svc:{PORTS['s3']}",
    "mlflow": f"http://mlflow.lake.svc:{PORTS['mlflow']}",
    "model": f"http://model.serving.svc:{PORTS['model']}",
}
"""Addresses inside the cluster."""
_POSTGRESQL_PORT = 5432
HOST_IMAGE = "sovereign.local/host:1"
"""The embedded node's empty image, into which the host's folders are mounted."""
RUNTIME_PYTHON = "python"
"""The interpreter in a cluster's runtime image, on its PATH, with the kit installed."""


SERVER_SLOTS = 4
"""Answers that llama.cpp computes together; others wait."""
LLAMA_BATCH = 512
"""Tokens of prompts that it computes at a time."""
LLAMA_BASE_MB = 200
"""Its process without a model, measured: 60 MB with one of 1M parameters."""


@dataclass(frozen=True)
class ServedModel:
    """A registered model to serve."""

    digest: str
    """As registered."""
    gguf_digest: str | None = None
    """Digest of the folder with its GGUF file, which llama.cpp loads; None: it has none."""


@dataclass(frozen=True)
class PodRuntime:
    """How a pod gets its programs."""

    mode: str
    """`host`: mounted from the embedded node's host volume; `image`: they are in the image."""
    image: str
    pull_policy: str
    python: str
    binds: tuple[str, ...] = ()
    """Host folders, at the same place in the pod (mode host)."""
    host_volume: str = ""
    """Folder on the node that holds the binds (mode host)."""
    volumes_dir: str = ""
    """Folder on the node for data volumes (mode host)."""


def embedded_runtime(runtime: Runtime, host_volume: Path, volumes_dir: Path) -> PodRuntime:
    """The runtime of pods on the embedded node."""
    return PodRuntime(
        mode="host",
        image=HOST_IMAGE,
        pull_policy="Never",
        python=str(runtime.python),
        binds=tuple(str(path) for path in runtime.binds),
        host_volume=str(host_volume),
        volumes_dir=str(volumes_dir),
    )


def image_runtime(target: KubeconfigTarget) -> PodRuntime:
    """The runtime of pods on an existing cluster: the profile's image."""
    return PodRuntime(mode="image", image=target.image, pull_policy="IfNotPresent", python=RUNTIME_PYTHON)


def stage_folders(profile: Profile, stage: str) -> tuple[Path, ...]:
    """Folders and files of this machine that a stage reads because the profile names them; nothing beside a file."""
    tasks = profile.evaluation.task_folder
    opt_outs = profile.corpus.rights.opt_outs
    read: dict[str, list[str | Path | None]] = {
        "corpus": [
            *(source.path for source in profile.corpus.sources if source.path.startswith("/")),
            opt_outs.collected,
        ],
        "curate": [*profile.corpus.cleaning.files.values(), opt_outs.file],
        "evaluate": [tasks],
    }
    return _outermost(Path(path) for path in read.get(stage, ()) if path is not None)


def source_folders(profile: Profile) -> tuple[Path, ...]:
    """Folders and files of this machine that any stage reads, for pods of the embedded node."""
    return _outermost(folder for stage in ("corpus", "curate", "evaluate") for folder in stage_folders(profile, stage))


def _outermost(paths: Iterable[Path]) -> tuple[Path, ...]:
    """`paths` without those that lie in another of them, sorted."""
    folders = set(paths)
    return tuple(sorted(folder for folder in folders if not any(other in folder.parents for other in folders)))


def database_ports(profile: Profile) -> tuple[int, ...]:
    """TCP ports of the databases that stage `corpus` reads, sorted; none where no source is a database.

    Raises:
        ProfileError: libpq does not take a source's path for an address.
    """
    ports: set[int] = set()
    for source in profile.corpus.sources:
        if source.path.startswith(POSTGRESQL):
            from psycopg import ProgrammingError
            from psycopg.conninfo import conninfo_to_dict

            try:
                named = str(conninfo_to_dict(source.path).get("port") or _POSTGRESQL_PORT)
                ports |= {int(port or _POSTGRESQL_PORT) for port in named.split(",")}
            except (ProgrammingError, ValueError) as error:
                raise ProfileError(
                    f"source {source.name} has no address of a database",
                    got=source.path,
                    expected="postgresql://user@host:port/database",
                ) from error
    return tuple(sorted(ports))


def platform_context(
    profile: Profile, plan: Plan, runtime: PodRuntime, model: ServedModel | None = None
) -> dict[str, Any]:
    """Variables of every template."""
    return {
        "profile": profile,
        "plan": plan,
        "runtime": runtime,
        "namespaces": NAMESPACES,
        "buckets": list(BUCKETS),
        "ports": PORTS,
        "endpoints": ENDPOINTS,
        "mlflow_address": mlflow_address(profile),
        "queue": QUEUE,
        "storage": {"objects_gb": max(10, math.ceil(plan.estimates.storage_gb * 1.2)), "mlflow_gb": 10},
        "server": server_context(profile, plan, model),
    }


def mlflow_address(profile: Profile) -> str | None:
    """Fixed address of MLflow's Service on the embedded node, by which this machine reaches it; None elsewhere.

    MLflow answers to hosts that it knows only. Kubernetes gives the low addresses of a range to Services that ask for
    one; DNS has the tenth.
    """
    target = profile.target
    return str(IPv4Network(target.service_cidr)[11]) if isinstance(target, EmbeddedTarget) else None


def server_context(profile: Profile, plan: Plan, model: ServedModel | None) -> dict[str, Any]:
    """Engine and sizes of one model server: memory in MB, disk in GB, GPUs, context in tokens, answers at a time."""
    engine = profile.serving.engine
    if engine == "llama.cpp" and model is not None and model.gguf_digest is None:
        engine = "transformers"
    sizes = {"context": plan.model.sequence_length, "slots": SERVER_SLOTS, **_server_sizes(profile, plan, engine)}
    return {"engine": engine, **sizes}


def _server_sizes(profile: Profile, plan: Plan, engine: str) -> dict[str, int]:
    weights_gb = plan.num_parameters * 2 / 1e9
    if engine == "vllm":
        usable_gb = ACCELERATORS[profile.hardware.accelerator].memory_bytes / 1e9 * 0.7  # the rest holds the KV cache
        gpus = 2 ** max(0, math.ceil(math.log2(weights_gb / usable_gb)))
        return {"gpus": gpus, "memory_mb": 1000 * math.ceil(16 + weights_gb), "disk_gb": math.ceil(2 + weights_gb)}
    if engine == "transformers":
        return {"gpus": 0, "memory_mb": math.ceil(2500 + 3000 * weights_gb), "disk_gb": math.ceil(1 + 2 * weights_gb)}
    shape, place_bytes = plan.model, 4  # llama.cpp has weights, keys and values in float32, as what was evaluated
    cache_bytes = 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * place_bytes * shape.sequence_length
    logits_bytes = LLAMA_BATCH * shape.vocab_size * place_bytes
    total_bytes = place_bytes * plan.num_parameters + SERVER_SLOTS * cache_bytes + 2 * logits_bytes
    return {
        "gpus": 0,
        "memory_mb": LLAMA_BASE_MB + math.ceil(1.1 * total_bytes / 1e6),
        "disk_gb": math.ceil(1 + place_bytes * plan.num_parameters / 1e9),
    }


def stop_grace_s(plan: Plan) -> int:
    """How long training may take to end after SIGTERM, seconds.

    Two steps; its checkpoint to disk and to the store, at 0.5 GB/s from each rank; a minute for MLflow
    (training/tracking.py waits so long), and half of one for the rest.
    """
    step_s = plan.recipe.batch_tokens / plan.estimates.tokens_per_s
    return 90 + math.ceil(2 * step_s + 2 * 2 * plan.estimates.checkpoint_gb / plan.recipe.world_size)


_LARGEST_SIGNAL_S = 65_535
"""Longest notice that sbatch's --signal takes."""


def slurm_context(profile: Profile, plan: Plan, *, python: str, profile_path: Path, data_dir: Path) -> dict[str, Any]:
    """Variables of `training/slurm.sbatch.j2`; asks for nothing that a machine of the plan does not have.

    Args:
        python: the interpreter with the kit, the same on every machine.
        profile_path: what the stage reads.
        data_dir: the lake, a folder that every machine sees.

    Raises:
        PlanError: a machine has fewer cores than ranks.
        ProfileError: Slurm cannot write its log below `data_dir`.
    """
    hardware, world_size = profile.hardware, plan.recipe.world_size
    ranks = math.ceil(world_size / hardware.nodes)
    if ranks > hardware.cpus_per_node:
        raise PlanError(
            "Slurm gives each training process a core of its own",
            got=f"{ranks} processes on a machine of {hardware.cpus_per_node} cores",
            expected=f"training.pods of at most {hardware.cpus_per_node * hardware.nodes}",
        )
    log = str(data_dir / "logs")
    if "\\" in log or "\n" in log:
        raise ProfileError("Slurm cannot write to a path with a backslash or a line break", got=log)
    cores = hardware.cpus_per_node // ranks
    stage = ["run", "train", "--profile", str(profile_path), "--store", f"file://{data_dir}"]
    slurm = {
        "nodes": math.ceil(world_size / ranks),
        "ranks": world_size,
        "ranks_per_node": ranks,
        "gpus_per_node": hardware.gpus_per_node,
        "cpus_per_rank": min(plan.recipe.threads or cores, cores),
        "memory_mib_per_node": max(1, math.floor(hardware.memory_gb_per_node * 0.9 * 1e9 / 2**20)),
        "minutes": 30 + math.ceil(plan.estimates.days * 24 * 60 * 1.5),  # the estimate assumes the speed
        "grace_s": min(stop_grace_s(plan), _LARGEST_SIGNAL_S),
        "log": log.replace("%", "%%") + "/train-%j.log",
        "tracking_uri": sqlite_uri(data_dir / "mlflow.db"),
        "command": [python, "-m", "training.launch", "slurm", "--", *stage],
    }
    return {"profile": profile, "plan": plan, "slurm": slurm}


def _memory_gb(quota: Quota, stage: str, gpus: int) -> int:
    """Memory of a pod of the stage."""
    if stage == "preflight" and not gpus:
        return min(3 * quota.pod_memory_gb, quota.memory_gb)
    return quota.curation_memory_gb if stage == "curate" else quota.pod_memory_gb


def job_context(
    profile: Profile,
    plan: Plan,
    runtime: PodRuntime,
    *,
    name: str,
    stage: str,
    key: str,
    inputs: JobInputs,
    num_pods: int | None = None,
    priority: str = "normal",
) -> dict[str, Any]:
    """Variables of `training/job.yaml.j2`.

    Args:
        name: name of the Job, its ConfigMap and its Service; a DNS label of at most 50 characters.
        stage: stage to run; only `train` and `curate` run on several pods, only `train` and `preflight` on GPUs.
        key: what the stage makes, see `sovereign.receipts.stage_key`.
        inputs: objects of the store that the pod reads before the stage.
        num_pods: pods of the Job, each one rank on CPU, `plan.quota.pod_gpus` ranks on GPUs; by default the plan's for
            training and for curation, else one.
        priority: a WorkloadPriorityClass, `normal` or `urgent`.
    """
    quota = plan.quota
    gpus = {"train": quota.pod_gpus, "preflight": min(2, quota.pod_gpus)}.get(stage, 0)
    models_gb = plan.num_parameters * 8 / 1e9 if plan.base else 0  # the base and what is made of it
    sources = stage_folders(profile, stage) if runtime.mode == "host" else ()
    job = {
        "name": name,
        "sources": [str(path) for path in sources],
        "stage": stage,
        "asks_databases": stage == "corpus" and bool(database_ports(profile)),
        "key": key,
        "inputs": inputs.arguments(),
        "num_pods": num_pods or {"train": quota.num_pods, "curate": quota.curation_pods}.get(stage, 1),
        "priority": priority,
        "gpus": gpus,
        "ranks": gpus if stage == "train" else 0,  # preflight starts its own
        "cpu_m": quota.curation_cpu_m if stage == "curate" else quota.pod_cpu_m,
        "memory_gb": _memory_gb(quota, stage, gpus),
        "threads": max(1, plan.recipe.threads),
        "grace_s": stop_grace_s(plan) if stage == "train" else 30,
        "disk_gb": math.ceil(10 + 3 * plan.estimates.checkpoint_gb + 4e-9 * plan.recipe.num_tokens + models_gb),
    }
    return {**platform_context(profile, plan, runtime), "job": job}
