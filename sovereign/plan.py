"""The plan: what follows from a profile, by one pure function; stacks and training read the Plan only.

Formulas: FLOPs per token 6 N + 6 L d s (causal attention; Chowdhery et al. 2022, PaLM, appendix B); ZeRO memory
2 + 2 + 12 bytes per parameter (Rajbhandari et al. 2020); activations with flash attention 34 s b d per layer
(Korthikanti et al. 2022); learning rate and batch from the OLMo ladder (AI2): LR = 0.00235 (N/108M)^(-1/3),
batch = 327,680 (N/108M)^(2/3) tokens.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sovereign.errors import PlanError
from sovereign.hardware import ACCELERATORS, CPU_RUNTIME_BYTES, USABLE_MEMORY_FRACTION, Accelerator
from sovereign.profile import EmbeddedTarget, Profile, Section

GB = 1e9
HOURS_PER_DAY = 24
SERVICE_CPU_M = 850 + 550
"""CPU requests of the node's system pods (850m measured) and of the kit's services (550m), millicores."""


class ModelShape(Section):
    """Shape of a Qwen3/Llama-compatible decoder."""

    num_layers: int
    """Decoder layers."""
    hidden_size: int
    """Width."""
    intermediate_size: int
    """Width of the gated feed-forward part."""
    num_heads: int
    """Query heads."""
    num_kv_heads: int
    """Key and value heads."""
    head_dim: int
    """Width of a head."""
    vocab_size: int
    """Tokens."""
    sequence_length: int
    """Tokens in a training sequence."""
    tied: bool
    """Input and output embedding are one matrix."""

    @property
    def num_parameters(self) -> int:
        """All parameters, norms included."""
        attention = self.hidden_size * self.head_dim * (2 * self.num_heads + 2 * self.num_kv_heads)
        norms = 2 * self.hidden_size + 2 * self.head_dim
        layer = attention + 3 * self.hidden_size * self.intermediate_size + norms
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied else 2)
        return self.num_layers * layer + embeddings + self.hidden_size

    @property
    def flops_per_token(self) -> float:
        """Forward and backward, FLOPs; the embedding lookup is free, the output matrix is not."""
        lookup = 0 if self.tied else self.vocab_size * self.hidden_size
        attention = 6 * self.num_layers * self.num_heads * self.head_dim * self.sequence_length
        return 6.0 * (self.num_parameters - lookup) + attention


class Recipe(Section):
    """The training configuration; rendered into DeepSpeed's JSON by training/."""

    num_tokens: int
    """Training budget in whole steps, tokens."""
    num_steps: int
    """Optimizer steps."""
    batch_tokens: int
    """Tokens in one optimizer step over all ranks."""
    world_size: int
    """Ranks: GPUs, or pods on CPU."""
    micro_batch: int
    """Sequences of one rank in one forward pass."""
    grad_accumulation: int
    """Forward passes of one rank in one step."""
    zero_stage: Literal[1, 2, 3]
    """ZeRO stage."""
    activation_checkpointing: bool
    """Recompute activations in the backward pass."""
    precision: Literal["fp32", "bf16"]
    """Compute precision."""
    compile: bool
    """Use torch.compile."""
    learning_rate: float
    """Peak learning rate."""
    warmup_steps: int
    """Linear warm-up."""
    decay_steps: int
    """Steps of the final linear decay to zero (WSD)."""
    beta1: float
    """AdamW."""
    beta2: float
    """AdamW."""
    weight_decay: float
    """AdamW, on matrices only."""
    gradient_clipping: float
    """Maximum gradient norm."""
    seed: int
    """Seed of initialisation and data order."""
    checkpoint_every_steps: int
    """Steps between checkpoints."""
    keep_checkpoints: int
    """Newest checkpoints that stay in the store."""
    keep_every_steps: int | None
    """Checkpoints whose step is a multiple of this stay for good."""
    threads: int
    """Compute threads of a CPU rank; 0 on GPUs."""
    max_eval_questions: int
    """Held-out questions asked in each language."""


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
    """Wall clock of training."""
    energy_kwh: float
    """Energy of the training machines, PUE included."""
    cost: float
    """Energy and GPU hours, in `currency`."""
    currency: str
    """ISO 4217 code."""
    co2_kg: float
    """Emissions."""
    checkpoint_gb: float
    """One checkpoint (master weights and two moments, fp32), GB."""
    storage_gb: float
    """Text, token shards, checkpoints and the exported model, GB."""
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


class Plan(Section):
    """What follows from a profile."""

    profile: str
    """Name of the profile."""
    model: ModelShape
    """The model's shape."""
    num_parameters: int
    """Exact parameter count."""
    recipe: Recipe
    """The training configuration."""
    estimates: Estimates
    """What it will take."""
    quota: Quota
    """What the queue gets."""


# layers, width, feed-forward width, query heads, key/value heads, head width; from 600M on published shapes
_LADDER = (
    (3, 96, 256, 3, 1, 32),
    (4, 128, 352, 4, 2, 32),
    (4, 192, 512, 6, 2, 32),
    (6, 256, 704, 4, 2, 64),
    (8, 384, 1024, 6, 2, 64),
    (8, 512, 1408, 8, 4, 64),
    (12, 768, 2048, 12, 4, 64),
    (24, 1024, 2816, 16, 8, 64),
    (28, 1024, 3072, 16, 8, 128),
    (16, 2048, 8192, 32, 8, 64),
    (28, 2048, 6144, 16, 8, 128),
    (28, 3072, 8192, 24, 8, 128),
    (36, 4096, 12288, 32, 8, 128),
    (40, 5120, 17408, 40, 8, 128),
    (64, 5120, 25600, 64, 8, 128),
    (80, 8192, 28672, 64, 8, 128),
    (126, 16384, 53248, 128, 8, 128),
)
_TIED_BELOW = 1.5e9


def plan(profile: Profile) -> Plan:
    """Compute the plan of `profile`. Pure: no clock, no file, no environment.

    Raises:
        PlanError: the model, its checkpoints or its data cannot fit; says what would.
    """
    shape = choose_shape(profile)
    layout = _layout(profile, shape)
    if not layout.fits:
        raise _refusal(profile, shape, layout)
    recipe = _recipe(profile, shape, layout)
    return Plan(
        profile=profile.name,
        model=shape,
        num_parameters=shape.num_parameters,
        recipe=recipe,
        estimates=_estimate(profile, shape, layout, recipe),
        quota=_quota(profile, layout),
    )


def choose_shape(profile: Profile) -> ModelShape:
    """The shape of the ladder whose parameter count is nearest (as a ratio) to the one wanted."""
    wanted = profile.model.parameters
    return min(_shapes(profile, wanted), key=lambda shape: abs(math.log(shape.num_parameters / wanted)))


def _shapes(profile: Profile, wanted: float) -> list[ModelShape]:
    return [
        ModelShape(
            num_layers=layers,
            hidden_size=width,
            intermediate_size=feed_forward,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            vocab_size=profile.model.vocab_size,
            sequence_length=profile.model.sequence_length,
            tied=wanted < _TIED_BELOW,
        )
        for layers, width, feed_forward, heads, kv_heads, head_dim in _LADDER
    ]


def _ladder_sizes(profile: Profile) -> list[int]:
    """Parameter counts that can be asked for and are met exactly."""
    both = [shape.num_parameters for wanted in (0, _TIED_BELOW) for shape in _shapes(profile, wanted)]
    return [size for size in both if choose_shape(_with_parameters(profile, size)).num_parameters == size]


def memory_bytes_per_device(
    shape: ModelShape, zero_stage: int, world_size: int, micro_batch: int, checkpointing: bool, precision: str
) -> float:
    """Peak memory of one rank, bytes: model states by ZeRO stage, activations and logits."""
    parameters = float(shape.num_parameters)
    width = 2 if precision == "bf16" else 4
    optimizer = 12 if precision == "bf16" else 8
    states = {
        1: width + width + optimizer / world_size,
        2: width + (width + optimizer) / world_size,
        3: (2 * width + optimizer) / world_size,
    }[zero_stage] * parameters
    if zero_stage == 3:
        states += 2 * width * parameters / shape.num_layers  # two gathered layers
    token_bytes = shape.sequence_length * micro_batch * shape.hidden_size * width / 2
    full_layer = 34 * token_bytes
    layers = 2 * token_bytes * shape.num_layers + full_layer if checkpointing else full_layer * shape.num_layers
    logits = shape.sequence_length * micro_batch * shape.vocab_size * (width + 4)
    return states + layers + logits


def _world(profile: Profile) -> int:
    hardware = profile.hardware
    return hardware.nodes * hardware.gpus_per_node if hardware.gpus_per_node else profile.training.pods


def _batch_sequences(profile: Profile, shape: ModelShape, world_size: int) -> int:
    scaled = 327_680 * (shape.num_parameters / 108e6) ** (2 / 3)
    wanted = profile.training.batch_tokens or 2 ** round(math.log2(min(max(scaled, 4096), 2**24)))
    return max(1, math.ceil(wanted / shape.sequence_length / world_size)) * world_size


@dataclass(frozen=True)
class _Layout:
    """How the model lies on its devices."""

    zero_stage: Literal[1, 2, 3]
    checkpointing: bool
    micro_batch: int
    memory_bytes: float
    limit_bytes: float

    @property
    def fits(self) -> bool:
        return self.memory_bytes <= self.limit_bytes

    @property
    def speed(self) -> float:
        """Part of the full speed: ZeRO-3 gathers parameters in both passes, checkpointing repeats the forward pass."""
        return (0.9 if self.zero_stage == 3 else 1.0) * (0.75 if self.checkpointing else 1.0)


def _precision(profile: Profile) -> Literal["fp32", "bf16"]:
    return "bf16" if profile.hardware.gpus_per_node else "fp32"


def _limit_bytes(profile: Profile) -> float:
    """What one rank may use, bytes; below 0 when not even the runtime fits."""
    hardware = profile.hardware
    if hardware.gpus_per_node:
        return ACCELERATORS[hardware.accelerator].memory_bytes * USABLE_MEMORY_FRACTION
    pods_per_node = math.ceil(profile.training.pods / hardware.nodes)
    return hardware.memory_gb_per_node * GB * 0.5 / pods_per_node - CPU_RUNTIME_BYTES


def _layout(profile: Profile, shape: ModelShape) -> _Layout:
    """The first layout that fits, the fastest tried first; the smallest one when none does."""
    world_size = _world(profile)
    per_rank = _batch_sequences(profile, shape, world_size) // world_size
    micro_batches = [size for size in range(min(per_rank, 64), 0, -1) if per_rank % size == 0]
    limit = _limit_bytes(profile)
    wanted = profile.training.zero_stage
    stages: tuple[Literal[1, 2, 3], ...] = (wanted,) if wanted else (1, 2, 3)
    layouts = []
    for checkpointing, zero_stage, micro_batch in itertools.product((False, True), stages, micro_batches):
        used = memory_bytes_per_device(shape, zero_stage, world_size, micro_batch, checkpointing, _precision(profile))
        layouts.append(_Layout(zero_stage, checkpointing, micro_batch, used, limit))
        if layouts[-1].fits:
            return layouts[-1]
    return min(layouts, key=lambda layout: layout.memory_bytes)


def _refusal(profile: Profile, shape: ModelShape, smallest: _Layout) -> PlanError:
    """The error for a model that does not fit, with what would."""
    hardware = profile.hardware
    if hardware.gpus_per_node:
        nodes = next((n for n in _larger(hardware.nodes) if _layout(_with_nodes(profile, n), shape).fits), None)
        expected = (
            f"hardware.nodes of {nodes}" if nodes else "GPUs with more memory, or a shorter model.sequence_length"
        )
    else:
        pods_per_node = math.ceil(profile.training.pods / hardware.nodes)
        needed = math.ceil((smallest.memory_bytes + CPU_RUNTIME_BYTES) * pods_per_node * 2 / GB)
        expected = f"hardware.memory_gb_per_node of at least {needed}"
    other = _layout(_with_training(profile, zero_stage=None), shape)
    if other.fits:
        expected = f"training.zero_stage of {other.zero_stage}, or none"
    smaller = [choose_shape(_with_parameters(profile, size)) for size in _ladder_sizes(profile)]
    fitting = max((one.num_parameters for one in smaller if _layout(profile, one).fits), default=None)
    return PlanError(
        f"a model of {shape.num_parameters:,} parameters does not fit, "
        f"even with ZeRO-{profile.training.zero_stage or 3} and activation checkpointing",
        got=f"{smallest.memory_bytes / GB:.1f} GB needed on each of {_world(profile)} devices, "
        f"{max(smallest.limit_bytes, 0) / GB:.1f} GB usable",
        expected=expected,
        hint=f"or model.parameters of {fitting:.3g}" if fitting else None,
    )


def _larger(nodes: int) -> Iterator[int]:
    """Numbers of machines to try, each at most a quarter above the one before."""
    while nodes < 100_000:
        nodes = min(math.ceil(nodes * 1.25), 100_000)
        yield nodes


def _with_nodes(profile: Profile, nodes: int) -> Profile:
    return profile.model_copy(update={"hardware": profile.hardware.model_copy(update={"nodes": nodes})})


def _with_training(profile: Profile, **changes: object) -> Profile:
    return profile.model_copy(update={"training": profile.training.model_copy(update=changes)})


def _with_parameters(profile: Profile, parameters: float) -> Profile:
    return profile.model_copy(update={"model": profile.model.model_copy(update={"parameters": parameters})})


def _recipe(profile: Profile, shape: ModelShape, layout: _Layout) -> Recipe:
    world_size = _world(profile)
    sequences = _batch_sequences(profile, shape, world_size)
    batch_tokens = sequences * shape.sequence_length
    num_steps = math.ceil(profile.training.tokens / batch_tokens)
    scaled_rate = 0.5 * 0.0047 * (shape.num_parameters / 108e6) ** (-1 / 3)
    return Recipe(
        num_tokens=num_steps * batch_tokens,
        num_steps=num_steps,
        batch_tokens=batch_tokens,
        world_size=world_size,
        micro_batch=layout.micro_batch,
        grad_accumulation=sequences // world_size // layout.micro_batch,
        zero_stage=layout.zero_stage,
        activation_checkpointing=layout.checkpointing,
        precision=_precision(profile),
        compile=profile.training.compile,
        learning_rate=profile.training.learning_rate or float(f"{min(scaled_rate, 4e-3):.3g}"),
        warmup_steps=max(1, min(2000, num_steps // 20)),
        decay_steps=max(1, num_steps * 3 // 10),
        beta1=0.9,
        beta2=0.99 if batch_tokens < 524_288 else 0.95,
        weight_decay=0.1,
        gradient_clipping=1.0,
        seed=profile.training.seed,
        checkpoint_every_steps=profile.training.checkpoint_every_steps or max(1, min(1000, num_steps // 4)),
        keep_checkpoints=profile.training.keep_checkpoints,
        keep_every_steps=profile.training.keep_every_steps,
        threads=0 if profile.hardware.gpus_per_node else profile.training.threads_per_pod,
        max_eval_questions=profile.evaluation.max_questions_per_language,
    )


def _devices_and_mfu(profile: Profile, device: Accelerator) -> tuple[int, float]:
    """Devices that work and their MFU. Ranks on CPU stay on one machine where spreading them would be slower."""
    hardware = profile.hardware
    if hardware.gpus_per_node:
        mfu = device.mfu_one_node if hardware.nodes == 1 else device.mfu_many_nodes
        return hardware.nodes * hardware.gpus_per_node, mfu
    threads = profile.training.pods * profile.training.threads_per_pod
    one = min(threads, hardware.cpus_per_node), device.mfu_one_node
    many = min(threads, hardware.cpus_per_node * hardware.nodes), device.mfu_many_nodes
    return max(one, many, key=lambda choice: choice[0] * choice[1])


def _estimate(profile: Profile, shape: ModelShape, layout: _Layout, recipe: Recipe) -> Estimates:
    hardware, economics = profile.hardware, profile.economics
    device = ACCELERATORS[hardware.accelerator]
    gpus = hardware.nodes * hardware.gpus_per_node
    devices, mfu = _devices_and_mfu(profile, device)
    mfu *= layout.speed
    tokens_per_s = devices * device.peak_flops * mfu / shape.flops_per_token
    hours = profile.training.tokens / tokens_per_s / 3600
    energy = hours * devices * (device.power_w + device.host_power_w) / 1000 * economics.pue
    cost = energy * economics.electricity_price_per_kwh + hours * (gpus or hardware.nodes) * economics.gpu_hour_price
    checkpoint = shape.num_parameters * 12
    num_checkpoints = recipe.keep_checkpoints + 1  # one is being written
    if recipe.keep_every_steps:
        num_checkpoints += recipe.num_steps // recipe.keep_every_steps
    corpus_tokens = profile.corpus.tokens or profile.training.tokens
    storage = corpus_tokens * (4.5 * 2 + 4)  # text raw and curated, shards
    storage += num_checkpoints * checkpoint + shape.num_parameters * 4
    if storage > hardware.storage_tb * 1e12:
        raise PlanError(
            "data and checkpoints do not fit in the storage",
            got=f"{storage / GB:,.1f} GB needed, {hardware.storage_tb * 1e3:,.1f} GB given",
            expected=f"hardware.storage_tb of at least {math.ceil(storage / 1e8) / 1e4}",
        )
    return Estimates(
        num_nodes=hardware.nodes,
        num_gpus=gpus,
        memory_per_device_gb=layout.memory_bytes / GB,
        memory_limit_gb=layout.limit_bytes / GB,
        tokens_per_s=tokens_per_s,
        mfu=mfu,
        mfu_source=device.mfu_source,
        days=hours / HOURS_PER_DAY,
        energy_kwh=energy,
        cost=cost,
        currency=economics.currency,
        co2_kg=energy * economics.co2_g_per_kwh / 1000,
        checkpoint_gb=checkpoint / GB,
        storage_gb=storage / GB,
        storage_limit_gb=hardware.storage_tb * 1e3,
    )


def _quota(profile: Profile, layout: _Layout) -> Quota:
    hardware = profile.hardware
    gpus = hardware.gpus_per_node
    num_pods = hardware.nodes if gpus else profile.training.pods
    embedded = isinstance(profile.target, EmbeddedTarget)
    if embedded and hardware.nodes > 1:
        raise PlanError(
            "the embedded target is this one machine",
            got=f"hardware.nodes of {hardware.nodes}",
            expected="hardware.nodes of 1, or target.kind kubeconfig",
        )
    left_m = hardware.cpus_per_node * 1000 - SERVICE_CPU_M
    cpu_m = left_m if embedded else hardware.nodes * hardware.cpus_per_node * 900
    memory_gb = int(hardware.nodes * hardware.memory_gb_per_node * (0.6 if embedded else 0.9))
    if gpus:  # a pod takes its machine
        pod_cpu_m = left_m if embedded else hardware.cpus_per_node * 900
        pod_memory_gb = memory_gb // hardware.nodes
    else:
        pod_cpu_m = 250
        pod_memory_gb = max(2, math.ceil((layout.memory_bytes + CPU_RUNTIME_BYTES) / GB))
    if cpu_m < max(1, num_pods * pod_cpu_m) or memory_gb < max(1, num_pods * pod_memory_gb):
        raise PlanError(
            f"{num_pods} training pods do not fit" + (" on the embedded node beside its services" if embedded else ""),
            got=f"{max(cpu_m, 0)}m CPU and {memory_gb} GB for training",
            expected=f"{num_pods} times {max(pod_cpu_m, 250)}m and {max(pod_memory_gb, 2)} GB",
            hint="lower training.pods, or raise hardware.cpus_per_node and memory_gb_per_node if the machine has more",
        )
    return Quota(
        cpu_m=cpu_m,
        memory_gb=memory_gb,
        gpus=hardware.nodes * gpus,
        pod_cpu_m=pod_cpu_m,
        pod_memory_gb=pod_memory_gb,
        pod_gpus=gpus,
        num_pods=num_pods,
    )
