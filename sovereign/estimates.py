"""What a run will take: time, energy, cost, emissions, storage; and what the queue gives to its pods."""

from __future__ import annotations

import math
from collections.abc import Iterator

from sovereign.goodput import (
    CHECKPOINT_BYTES_PER_PARAMETER,
    INTERRUPTIONS_PER_GPU_DAY,
    checkpoint_times,
    goodput,
    time_between_interruptions_s,
)
from sovereign.hardware import ACCELERATORS, CPU_RUNTIME_BYTES, GB
from sovereign.layout import MOST_MEMORY_GB, Layout
from sovereign.obstacles import Changes, Obstacle
from sovereign.profile import EmbeddedTarget, Profile
from sovereign.recipe import Recipe
from sovereign.section import Section
from sovereign.shapes import ModelShape
from sovereign.speed import training_speed

HOURS_PER_DAY = 24
SERVICE_CPU_M = 850 + 550
"""CPU requests of the node's system pods (850m measured) and of the kit's services (550m), millicores."""
RANK_CPU_M, RANK_MEMORY_GB = 1000, 4
"""Request of one of several ranks of curation, millicores and GB; docs/corpus.md says what it needs."""
_MOST_CPUS, _MOST_STORAGE_TB = 4096, 1e7
"""What a profile can ask for."""
SHARED_CPU_M, SHARED_MEMORY_GB = 100, 2
"""The same on the embedded node, where ranks share what the services leave."""


class Estimates(Section):
    """What the run will take."""

    num_nodes: int
    """Machines."""
    num_gpus: int
    """GPUs in use."""
    memory_per_device_gb: float
    """Highest use of one GPU (of one process on CPU), GB."""
    memory_limit_gb: float
    """What it may use, GB."""
    tokens_per_s: float
    """Over all ranks."""
    mfu: float
    """Assumed model FLOP utilisation."""
    mfu_source: str
    """Where the assumption comes from."""
    days: float
    """Training without interruptions."""
    energy_kwh: float
    """Energy of the training machines, PUE included."""
    cost: float
    """Energy and GPU hours, in `currency`."""
    currency: str
    """ISO 4217 code."""
    co2_kg: float
    """Emissions."""
    checkpoint_gb: float
    """One checkpoint (weights fp32 and optimizer states)."""
    checkpoint_s: float
    """Time for which training stands still at each checkpoint, seconds."""
    interruptions_per_day: float
    """Expected of so many GPUs; 0 on CPU, where nothing is published."""
    goodput: float
    """Training time as a part of all time, with checkpoints and interruptions."""
    storage_gb: float
    """Text, token shards, the checkpoints that stay and the one being written, the exported model and the base."""
    storage_limit_gb: float
    """What the hardware section gives."""


class Quota(Section):
    """What the training queue may use at a time."""

    cpu_m: int
    """Millicores."""
    memory_gb: int
    """GB."""
    gpus: int
    """GPUs."""
    pod_cpu_m: int
    """Request of one training pod, millicores."""
    pod_memory_gb: int
    """Request and limit of one training pod, GB."""
    pod_gpus: int
    """GPUs of one training pod."""
    num_pods: int
    """Pods of the training job."""
    curation_pods: int
    """Pods of stage `curate`, one rank each: as many as the profile asks for and the queue has room for."""
    curation_cpu_m: int
    """Request of one of them, millicores."""
    curation_memory_gb: int
    """Request and limit of one of them, GB."""


def estimate(profile: Profile, shape: ModelShape, layout: Layout, recipe: Recipe) -> Estimates:
    """What the run will take: the steps of the recipe, whatever the profile asked for."""
    hardware, economics = profile.hardware, profile.economics
    device = ACCELERATORS[hardware.accelerator]
    gpus = hardware.nodes * hardware.gpus_per_node
    speed = training_speed(profile, shape, layout)
    hours = recipe.num_tokens / speed.tokens_per_s / 3600
    energy = hours * speed.devices * (device.power_w + device.host_power_w) / 1000 * economics.pue
    cost = energy * economics.electricity_price_per_kwh + hours * (gpus or hardware.nodes) * economics.gpu_hour_price
    checkpoint = shape.num_trained_parameters * CHECKPOINT_BYTES_PER_PARAMETER
    storage = _storage_bytes(profile, shape, recipe)
    times = checkpoint_times(
        shape.num_trained_parameters, recipe.world_size, math.ceil(recipe.world_size / hardware.nodes)
    )
    interval_s = recipe.checkpoint_every_steps * recipe.batch_tokens / speed.tokens_per_s
    return Estimates(
        num_nodes=hardware.nodes,
        num_gpus=gpus,
        memory_per_device_gb=layout.memory_bytes / GB,
        memory_limit_gb=layout.limit_bytes / GB,
        tokens_per_s=speed.tokens_per_s,
        mfu=speed.mfu,
        mfu_source=device.mfu_source,
        days=hours / HOURS_PER_DAY,
        energy_kwh=energy,
        cost=cost,
        currency=economics.currency,
        co2_kg=energy * economics.co2_g_per_kwh / 1000,
        checkpoint_gb=checkpoint / GB,
        checkpoint_s=times.stall_s,
        interruptions_per_day=gpus * INTERRUPTIONS_PER_GPU_DAY,
        goodput=goodput(interval_s, times, time_between_interruptions_s(gpus))
        if gpus
        else interval_s / (interval_s + times.stall_s),
        storage_gb=storage / GB,
        storage_limit_gb=hardware.storage_tb * 1e3,
    )


def _storage_bytes(profile: Profile, shape: ModelShape, recipe: Recipe) -> float:
    corpus_tokens = profile.corpus.tokens or recipe.num_tokens
    models = shape.num_parameters * 4 * (2 if profile.base else 1)
    num_checkpoints = recipe.keep_checkpoints + 1  # one is being written
    if recipe.keep_every_steps:
        num_checkpoints += recipe.num_steps // recipe.keep_every_steps
    checkpoints = num_checkpoints * shape.num_trained_parameters * CHECKPOINT_BYTES_PER_PARAMETER
    return corpus_tokens * (4.5 * 2 + 4) + checkpoints + models  # text raw and curated, shards


def check_storage(profile: Profile, shape: ModelShape, recipe: Recipe) -> None:
    """Raises: Obstacle where data and checkpoints do not fit in the storage."""
    storage, given_tb = _storage_bytes(profile, shape, recipe), profile.hardware.storage_tb
    if storage > given_tb * 1e12:
        raise Obstacle(
            "data and checkpoints do not fit in the storage",
            got=f"{storage / GB:,.1f} GB needed, {given_tb * 1e3:,.1f} GB given",
            fixes=lambda: _storage_fixes(profile, storage),
        )


def _storage_fixes(profile: Profile, storage: float) -> Iterator[Changes]:
    given = profile.hardware.storage_tb * 1e12
    if storage <= _MOST_STORAGE_TB * 1e12:
        yield {"hardware.storage_tb": math.ceil(storage / 1e8) / 1e4}
    if profile.training.keep_every_steps:
        yield {"training.keep_every_steps": None}
    if profile.corpus.tokens is None and not profile.training.phases:
        yield {"training.tokens": float(f"{profile.training.tokens * given / storage / 2:.2g}")}


def check_target(profile: Profile) -> None:
    """Raises: Obstacle where the embedded target is to be several machines."""
    if isinstance(profile.target, EmbeddedTarget) and profile.hardware.nodes > 1:
        raise Obstacle(
            "the embedded target is this one machine (several need target.kind kubeconfig)",
            got=f"hardware.nodes of {profile.hardware.nodes}",
            fixes=lambda: [{"hardware.nodes": 1}],
        )


def _training_share(profile: Profile, layout: Layout) -> tuple[int, int, int, int, int]:
    """Pods; millicores and GB for all of them; millicores and GB of one."""
    hardware = profile.hardware
    gpus = hardware.gpus_per_node
    num_pods = hardware.nodes if gpus else profile.training.pods
    embedded = isinstance(profile.target, EmbeddedTarget)
    left_m = hardware.cpus_per_node * 1000 - SERVICE_CPU_M
    cpu_m = left_m if embedded else hardware.nodes * hardware.cpus_per_node * 900
    memory_gb = int(hardware.nodes * hardware.memory_gb_per_node * (0.6 if embedded else 0.9))
    if gpus:  # a pod takes its machine
        pod_cpu_m = left_m if embedded else hardware.cpus_per_node * 900
        return num_pods, cpu_m, memory_gb, pod_cpu_m, memory_gb // hardware.nodes
    return num_pods, cpu_m, memory_gb, 250, max(2, math.ceil((layout.memory_bytes + CPU_RUNTIME_BYTES) / GB))


def check_quota(profile: Profile, layout: Layout) -> None:
    """Raises: Obstacle where the training pods do not fit."""
    num_pods, cpu_m, memory_gb, pod_cpu_m, pod_memory_gb = _training_share(profile, layout)
    if cpu_m >= max(1, num_pods * pod_cpu_m) and memory_gb >= max(1, num_pods * pod_memory_gb):
        return
    embedded = isinstance(profile.target, EmbeddedTarget)
    raise Obstacle(
        f"{num_pods} training pods do not fit" + (" on the embedded node beside its services" if embedded else ""),
        got=f"{max(cpu_m, 0)}m CPU and {memory_gb} GB for training, "
        f"{num_pods} times {max(pod_cpu_m, 250)}m and {max(pod_memory_gb, 2)} GB needed",
        fixes=lambda: _quota_fixes(profile, layout),
    )


def _quota_fixes(profile: Profile, layout: Layout) -> Iterator[Changes]:
    """More cores and memory in a machine; else fewer pods."""
    hardware = profile.hardware
    num_pods, cpu_m, memory_gb, pod_cpu_m, pod_memory_gb = _training_share(profile, layout)
    embedded = isinstance(profile.target, EmbeddedTarget)
    larger: dict[str, float] = {}
    if cpu_m < max(1, num_pods * pod_cpu_m):
        needed_m = (num_pods * pod_cpu_m if not hardware.gpus_per_node else 1) + (SERVICE_CPU_M if embedded else 0)
        larger["hardware.cpus_per_node"] = math.ceil(needed_m / (1000 if embedded else 900 * hardware.nodes))
    if memory_gb < max(1, num_pods * pod_memory_gb):
        needed_gb = max(1, num_pods * pod_memory_gb) if not hardware.gpus_per_node else hardware.nodes
        share = 0.6 if embedded else 0.9 * hardware.nodes
        larger["hardware.memory_gb_per_node"] = math.ceil((needed_gb + 1) / share)
    is_possible = larger.get("hardware.cpus_per_node", 0) <= _MOST_CPUS
    if is_possible and larger.get("hardware.memory_gb_per_node", 0) <= MOST_MEMORY_GB:
        yield larger
    pods = min(cpu_m // pod_cpu_m if pod_cpu_m > 0 else 0, memory_gb // pod_memory_gb if pod_memory_gb else 0)
    if not hardware.gpus_per_node and 1 <= pods < num_pods:
        yield {"training.pods": pods}


def make_quota(profile: Profile, layout: Layout) -> Quota:
    """What the training queue gets, where `check_quota` passes."""
    hardware = profile.hardware
    gpus = hardware.gpus_per_node
    embedded = isinstance(profile.target, EmbeddedTarget)
    num_pods, cpu_m, memory_gb, pod_cpu_m, pod_memory_gb = _training_share(profile, layout)
    ranks = profile.corpus.curation.ranks
    rank_cpu_m, rank_memory_gb = pod_cpu_m, pod_memory_gb
    if ranks > 1:
        rank_cpu_m = min(pod_cpu_m, SHARED_CPU_M if embedded else RANK_CPU_M)
        rank_memory_gb = min(pod_memory_gb, SHARED_MEMORY_GB if embedded else RANK_MEMORY_GB)
    return Quota(
        cpu_m=cpu_m,
        memory_gb=memory_gb,
        gpus=hardware.nodes * gpus,
        pod_cpu_m=pod_cpu_m,
        pod_memory_gb=pod_memory_gb,
        pod_gpus=gpus,
        num_pods=num_pods,
        curation_pods=max(1, min(ranks, cpu_m // rank_cpu_m, memory_gb // max(rank_memory_gb, 1))),
        curation_cpu_m=rank_cpu_m,
        curation_memory_gb=rank_memory_gb,
    )
