"""How the model lies on its devices: ZeRO stage, micro-batch and activation checkpointing, by memory.

Model states as DeepSpeed holds them (Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054, and what its optimizers
add; tests compare with its own estimators and with tensors counted in a process); activations with flash attention
34 s b d per layer (Korthikanti et al. 2022, https://arxiv.org/abs/2205.05198); batch from the OLMo ladder (Bhagia
et al. 2024, https://arxiv.org/abs/2412.04403): 327,680 (N/108M)^(2/3) tokens.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sovereign.errors import PlanError
from sovereign.goodput import CHECKPOINT_BYTES_PER_PARAMETER
from sovereign.hardware import ACCELERATORS, CPU_RUNTIME_BYTES, GB, USABLE_MEMORY_FRACTION
from sovereign.profile import Profile
from sovereign.shapes import ModelShape, choose_shape, ladder_sizes, with_parameters


def model_state_bytes(shape: ModelShape, zero_stage: int, world_size: int, precision: str) -> float:
    """Weights, gradients and optimizer states of one rank at the end of a backward pass, bytes.

    For each parameter: the weight and its gradient in the compute precision, and in fp32 the gradient that is
    accumulated, the master weight and two moments. A stage divides among the ranks what it partitions; stage 3 gathers
    the largest part of the model (a layer, or an embedding) with its gradient, and holds the fp32 gradients twice. A
    frozen parameter beside adapters is a weight only. At stage 0, fp32 on one rank, the weight is its own master.
    """
    parameters, trained = float(shape.num_parameters), float(shape.num_trained_parameters)
    width = 2 if precision == "bf16" else 4
    accumulated, master, moments = (4 if precision == "bf16" else 0), 4, 8
    if zero_stage == 0:
        return parameters * width + trained * (width + moments)
    if zero_stage == 1:
        return parameters * width + trained * (width + accumulated + (master + moments) / world_size)
    if zero_stage == 2:
        return parameters * width + trained * (width + accumulated + master + moments) / world_size
    largest = max(shape.num_layer_parameters, shape.vocab_size * shape.hidden_size)
    return (parameters * width + trained * (4 + 4 + master + moments)) / world_size + 2 * width * largest


def memory_bytes_per_device(
    shape: ModelShape,
    zero_stage: int,
    world_size: int,
    micro_batch: int,
    checkpointing: bool,
    precision: str,
    *,
    compiled: bool = True,
) -> float:
    """Peak memory of one rank, bytes: model states by ZeRO stage, activations and logits.

    Compiled code holds a logit in the compute precision and in fp32; other code its log-softmax and gradients too.
    """
    width = 2 if precision == "bf16" else 4
    states = model_state_bytes(shape, zero_stage, world_size, precision)
    token_bytes = shape.sequence_length * micro_batch * shape.hidden_size * width / 2
    full_layer = 34 * token_bytes
    layers = 2 * token_bytes * shape.num_layers + full_layer if checkpointing else full_layer * shape.num_layers
    logits = shape.sequence_length * micro_batch * shape.vocab_size * (width + 4 if compiled else 16)
    return states + layers + logits


def checkpoint_copy_bytes(profile: Profile, shape: ModelShape) -> float:
    """What a rank on CPU holds beside all else while it saves: a copy of its part of the optimizer's state, bytes.

    With GPUs this copy lies in the machine's memory, which the plan does not divide.
    """
    of_rank = CHECKPOINT_BYTES_PER_PARAMETER * shape.num_trained_parameters / world_size_of(profile)
    return 0.0 if profile.hardware.gpus_per_node else of_rank


def world_size_of(profile: Profile) -> int:
    """Ranks: GPUs, or training processes on CPU."""
    hardware = profile.hardware
    return hardware.nodes * hardware.gpus_per_node if hardware.gpus_per_node else profile.training.pods


def batch_sequences(profile: Profile, shape: ModelShape, world_size: int) -> int:
    """Sequences in one optimizer step, a multiple of the ranks."""
    scaled = 327_680 * (shape.num_parameters / 108e6) ** (2 / 3)
    wanted = profile.training.batch_tokens or 2 ** round(math.log2(min(max(scaled, 4096), 2**24)))
    return max(1, math.ceil(wanted / shape.sequence_length / world_size)) * world_size


@dataclass(frozen=True)
class Layout:
    """How the model lies on its devices."""

    zero_stage: Literal[0, 1, 2, 3]
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


def precision_of(profile: Profile) -> Literal["fp32", "bf16"]:
    """bf16 on GPUs; fp32 on CPU, where it is the faster one (258 against 161 GFLOP/s measured on two cores)."""
    return "bf16" if profile.hardware.gpus_per_node else "fp32"


def _limit_bytes(profile: Profile) -> float:
    """What one rank may use, bytes; below 0 when not even the runtime fits."""
    hardware = profile.hardware
    if hardware.gpus_per_node:
        return ACCELERATORS[hardware.accelerator].memory_bytes * USABLE_MEMORY_FRACTION
    pods_per_node = math.ceil(profile.training.pods / hardware.nodes)
    return hardware.memory_gb_per_node * GB * 0.5 / pods_per_node - CPU_RUNTIME_BYTES


def choose_layout(profile: Profile, shape: ModelShape) -> Layout:
    """The first layout that fits, the fastest tried first; the smallest one when none does.

    Raises:
        PlanError: the profile wants stage 0 for several ranks or for bf16.
    """
    world_size = world_size_of(profile)
    per_rank = batch_sequences(profile, shape, world_size) // world_size
    micro_batches = [size for size in range(min(per_rank, 64), 0, -1) if per_rank % size == 0]
    limit = _limit_bytes(profile)
    layouts = []
    for checkpointing, zero_stage, micro_batch in itertools.product((False, True), _stages(profile), micro_batches):
        used = memory_bytes_per_device(
            shape,
            zero_stage,
            world_size,
            micro_batch,
            checkpointing,
            precision_of(profile),
            compiled=profile.training.compile,
        )
        used += checkpoint_copy_bytes(profile, shape)
        layouts.append(Layout(zero_stage, checkpointing, micro_batch, used, limit))
        if layouts[-1].fits:
            return layouts[-1]
    return min(layouts, key=lambda layout: layout.memory_bytes)


def _stages(profile: Profile) -> tuple[Literal[0, 1, 2, 3], ...]:
    """The ZeRO stages to try, in this order; one that the profile names is the only one.

    A rank alone has nobody to divide with. bf16 begins with stage 2: at stage 1 with fp32 accumulation DeepSpeed takes
    another optimizer (BF16_Optimizer), which holds 8 bytes for each parameter on every rank.
    """
    wanted = profile.training.zero_stage
    is_alone = world_size_of(profile) == 1 and precision_of(profile) == "fp32"
    if wanted == 0 and not is_alone:
        raise PlanError(
            "training.zero_stage of 0 is for one process on CPU",
            got=f"{world_size_of(profile)} processes in {precision_of(profile)}",
            expected="1, 2 or 3, or none for the fastest that fits",
        )
    if wanted is not None:
        return (wanted,)
    if precision_of(profile) == "bf16":
        return (2, 3)
    return (0,) if is_alone else (1, 2, 3)


def refusal(profile: Profile, shape: ModelShape, smallest: Layout) -> PlanError:
    """The error for a model that does not fit, with what would."""
    hardware = profile.hardware
    if hardware.gpus_per_node:
        nodes = next((n for n in _larger(hardware.nodes) if choose_layout(_with_nodes(profile, n), shape).fits), None)
        expected = (
            f"hardware.nodes of {nodes}" if nodes else "GPUs with more memory, or a shorter model.sequence_length"
        )
    else:
        pods_per_node = math.ceil(profile.training.pods / hardware.nodes)
        needed = math.ceil((smallest.memory_bytes + CPU_RUNTIME_BYTES) * pods_per_node * 2 / GB)
        expected = f"hardware.memory_gb_per_node of at least {needed}"
    other = choose_layout(_with_any_stage(profile), shape)
    if other.fits:
        expected = f"training.zero_stage of {other.zero_stage}, or none"
    return PlanError(
        f"a model of {shape.num_parameters:,} parameters does not fit, even with "
        f"{f'ZeRO-{last} and ' if (last := _stages(profile)[-1]) else ''}activation checkpointing",
        got=f"{smallest.memory_bytes / GB:.1f} GB needed on each of {world_size_of(profile)} devices, "
        f"{max(smallest.limit_bytes, 0) / GB:.1f} GB usable",
        expected=expected,
        hint=_smaller(profile),
    )


def _smaller(profile: Profile) -> str | None:
    """What would fit on the same machines."""
    if profile.base is not None:
        adapters = profile.model_copy(update={"base": profile.base.model_copy(update={"method": "lora"})})
        return "or base.method: lora" if choose_layout(adapters, choose_shape(adapters)).fits else None
    shapes = [choose_shape(with_parameters(profile, size)) for size in ladder_sizes(profile)]
    fitting = max((one.num_parameters for one in shapes if choose_layout(profile, one).fits), default=None)
    return f"or model.parameters of {fitting:.3g}" if fitting else None


def _larger(nodes: int) -> Iterator[int]:
    """Numbers of machines to try, each at most a quarter above the one before."""
    while nodes < 100_000:
        nodes = min(math.ceil(nodes * 1.25), 100_000)
        yield nodes


def _with_any_stage(profile: Profile) -> Profile:
    return profile.model_copy(update={"training": profile.training.model_copy(update={"zero_stage": None})})


def _with_nodes(profile: Profile, nodes: int) -> Profile:
    return profile.model_copy(update={"hardware": profile.hardware.model_copy(update={"nodes": nodes})})
