"""How the model lies on its devices: ZeRO stage, micro-batch, activation checkpointing and batch, by memory.

Memory as sovereign/memory.py counts it; batch from the OLMo ladder (Bhagia et al. 2024,
https://arxiv.org/abs/2412.04403): 327,680 (N/108M)^(2/3) tokens.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sovereign.goodput import CHECKPOINT_BYTES_PER_PARAMETER
from sovereign.hardware import ACCELERATORS, CPU_RUNTIME_BYTES, GB, USABLE_MEMORY_FRACTION
from sovereign.memory import Memory, memory_bytes_per_device
from sovereign.obstacles import Changes, Obstacle, with_changes
from sovereign.profile import Profile
from sovereign.profile_training import MIN_VOCAB_SIZE
from sovereign.shapes import ModelShape, choose_shape, ladder_sizes

_LARGEST_MICRO_BATCH = 64
_FEWEST_STEPS = 16
"""A batch from the rule is not so large that a run has fewer steps."""
_STRETCH = 2
"""A batch from the rule may be so many times as large where the ranks want it: the rule is no sharper than that."""
_ROUNDING, _ROUNDING_OF_RULE = 1 / 8, 1 / 4
"""How far the batch may move to a number of sequences with a good divisor: one that was asked for, and the rule's."""
_NEAR = 1 / 16
_MOST_NODES, MOST_MEMORY_GB = 100_000, 10**6
"""What a profile can ask for."""


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


def wanted_batch_tokens(profile: Profile, shape: ModelShape) -> int:
    """Tokens in one optimizer step as the profile asks for them, else by the rule."""
    training = profile.training
    if training.batch_tokens:
        return training.batch_tokens
    scaled = 327_680 * (shape.num_parameters / 108e6) ** (2 / 3)
    by_rule = 2 ** round(math.log2(min(max(scaled, 4096), 2**24)))
    return int(max(min(by_rule, training.tokens // _FEWEST_STEPS), shape.sequence_length))


@dataclass(frozen=True)
class Layout:
    """How the model lies on its devices."""

    zero_stage: Literal[0, 1, 2, 3]
    checkpointing: bool
    micro_batch: int
    grad_accumulation: int
    largest_micro_batch: int
    """The largest that fits."""
    memory_bytes: float
    limit_bytes: float

    @property
    def fits(self) -> bool:
        return self.memory_bytes <= self.limit_bytes

    @property
    def sequences_per_rank(self) -> int:
        """In one optimizer step."""
        return self.micro_batch * self.grad_accumulation

    @property
    def speed(self) -> float:
        """Part of the full speed: ZeRO-3 gathers parameters in both passes, checkpointing repeats the forward pass."""
        return (0.9 if self.zero_stage == 3 else 1.0) * (0.75 if self.checkpointing else 1.0)


def precision_of(profile: Profile) -> Literal["fp32", "bf16"]:
    """bf16 on GPUs; fp32 on CPU, where it is the faster one (258 against 161 GFLOP/s measured on two cores)."""
    return "bf16" if profile.hardware.gpus_per_node else "fp32"


def z_loss_of(profile: Profile) -> float:
    """The profile's coefficient, else 1e-5 in bf16 (OLMo 2, https://arxiv.org/abs/2501.00656) and none in fp32."""
    given = profile.training.z_loss
    return given if given is not None else 1e-5 if precision_of(profile) == "bf16" else 0.0


def _limit_bytes(profile: Profile) -> float:
    """What one rank may use, bytes; below 0 when not even the runtime fits."""
    hardware = profile.hardware
    if hardware.gpus_per_node:
        return ACCELERATORS[hardware.accelerator].memory_bytes * USABLE_MEMORY_FRACTION
    pods_per_node = math.ceil(profile.training.pods / hardware.nodes)
    return hardware.memory_gb_per_node * GB * 0.5 / pods_per_node - CPU_RUNTIME_BYTES


def memory_of(profile: Profile) -> Memory:
    """What decides a rank's memory, for a micro-batch of 1 at the first stage, without checkpointing."""
    training = profile.training
    return Memory(
        zero_stage=_stages(profile)[0],
        world_size=world_size_of(profile),
        micro_batch=1,
        checkpointing=False,
        precision=precision_of(profile),
        compiled=training.compile,
        on_cpu=not profile.hardware.gpus_per_node,
        masks_documents=training.document_masking,
        has_z_loss=z_loss_of(profile) > 0,
        has_goldfish=training.goldfish is not None,
    )


def choose_layout(profile: Profile, shape: ModelShape) -> Layout:
    """The first layout that fits, the fastest tried first; the smallest one when none does."""
    limit, first = _limit_bytes(profile), memory_of(profile)
    per_rank = wanted_batch_tokens(profile, shape) / shape.sequence_length / first.world_size
    copied = checkpoint_copy_bytes(profile, shape)
    layouts = []
    for checkpointing, zero_stage in itertools.product((False, True), _stages(profile)):
        memory = dataclasses.replace(first, zero_stage=zero_stage, checkpointing=checkpointing)

        def used(micro_batch: int, memory: Memory = memory) -> float:
            return memory_bytes_per_device(shape, dataclasses.replace(memory, micro_batch=micro_batch)) + copied

        most = min(_LARGEST_MICRO_BATCH, max(1, math.ceil(per_rank)))
        largest = max((size for size in range(1, most + 1) if used(size) <= limit), default=1)
        micro_batch, accumulations = share_out(per_rank, largest, is_asked=profile.training.batch_tokens is not None)
        layout = Layout(zero_stage, checkpointing, micro_batch, accumulations, largest, used(micro_batch), limit)
        if layout.fits:
            return layout
        layouts.append(layout)
    return min(layouts, key=lambda layout: layout.memory_bytes)


def share_out(per_rank: float, largest: int, *, is_asked: bool) -> tuple[int, int]:
    """Micro-batch and accumulations of a rank that should have `per_rank` sequences in a step.

    A whole number of them that was asked for is met. Else the number moves where its largest divisor that fits is less
    than half of `largest`: a prime number of sequences would go one by one.
    """
    nearest = max(1, round(per_rank))
    divisor = max(size for size in range(1, largest + 1) if nearest % size == 0)
    if 2 * divisor >= min(largest, nearest) or (is_asked and nearest == per_rank):
        return divisor, nearest // divisor
    tolerance = _ROUNDING if is_asked else _ROUNDING_OF_RULE
    moved: list[tuple[float, int, int]] = []
    for size in range(largest, largest // 2, -1):
        accumulations = max(1, round(per_rank / size))
        moved.append((abs(size * accumulations / per_rank - 1), size, accumulations))
    near = [one for one in moved if one[0] <= _NEAR]  # the largest of these first
    distance, size, accumulations = near[0] if near else min(moved)
    return (size, accumulations) if distance <= tolerance else (divisor, nearest // divisor)


def _stages(profile: Profile) -> tuple[Literal[0, 1, 2, 3], ...]:
    """The ZeRO stages to try, in this order; one that the profile names is the only one.

    A single rank has nothing to shard across. bf16 begins with stage 2: at stage 1 with fp32 accumulation DeepSpeed
    takes another optimizer (BF16_Optimizer), which holds 8 bytes for each parameter on every rank.
    """
    wanted = profile.training.zero_stage
    if wanted is not None:
        return (wanted,)
    if precision_of(profile) == "bf16":
        return (2, 3)
    return (0,) if _is_alone(profile) else (1, 2, 3)


def _is_alone(profile: Profile) -> bool:
    return world_size_of(profile) == 1 and precision_of(profile) == "fp32"


def check_stage(profile: Profile) -> None:
    """Raises: Obstacle where the profile wants stage 0 for several ranks or for bf16."""
    if profile.training.zero_stage == 0 and not _is_alone(profile):
        raise Obstacle(
            "training.zero_stage of 0 is for one process on CPU",
            got=f"{world_size_of(profile)} processes in {precision_of(profile)}",
            fixes=lambda: [{"training.zero_stage": None}],
        )


def check_memory(profile: Profile, shape: ModelShape, layout: Layout) -> None:
    """Raises: Obstacle where the layout does not fit."""
    if layout.fits:
        return
    last = _stages(profile)[-1]
    raise Obstacle(
        f"a model of {shape.num_parameters:,} parameters does not fit, even with "
        f"{f'ZeRO-{last} and ' if last else ''}activation checkpointing",
        got=f"{layout.memory_bytes / GB:.1f} GB needed on each of {world_size_of(profile)} devices, "
        f"{max(layout.limit_bytes, 0) / GB:.1f} GB usable",
        fixes=lambda: _memory_fixes(profile, layout),
    )


def _fits(profile: Profile, place: str, value: object) -> bool:
    changed = with_changes(profile, {place: value})
    return choose_layout(changed, choose_shape(changed)).fits


def _memory_fixes(profile: Profile, layout: Layout) -> Iterator[Changes]:
    yield from _machine_fixes(profile, layout)
    yield from _model_fixes(profile)


def _machine_fixes(profile: Profile, layout: Layout) -> Iterator[Changes]:
    """Another ZeRO stage, more memory, more machines."""
    hardware, free = profile.hardware, with_changes(profile, {"training.zero_stage": None})
    if profile.training.zero_stage is not None and (other := choose_layout(free, choose_shape(free))).fits:
        yield {"training.zero_stage": other.zero_stage}
    if not hardware.gpus_per_node:
        pods_per_node = math.ceil(profile.training.pods / hardware.nodes)
        needed = math.ceil((layout.memory_bytes + CPU_RUNTIME_BYTES) * pods_per_node * 2 / GB)
        if needed <= MOST_MEMORY_GB:
            yield {"hardware.memory_gb_per_node": needed}
    elif profile.target.kind != "embedded":
        nodes = next((nodes for nodes in _larger(hardware.nodes) if _fits(profile, "hardware.nodes", nodes)), None)
        if nodes:
            yield {"hardware.nodes": nodes}


def _model_fixes(profile: Profile) -> Iterator[Changes]:
    """Fewer parameters or adapters, shorter sequences, a smaller vocabulary; at last all of them."""
    model = profile.model
    if profile.base is None:
        sizes = [size for size in sorted(ladder_sizes(profile), reverse=True) if size < (model.parameters or 0)]
        size = next((size for size in sizes if _fits(profile, "model.parameters", float(size))), None)
        if size:
            yield {"model.parameters": _short(size, profile)}
    elif profile.base.method == "full" and _fits(profile, "base.method", "lora"):
        yield {"base.method": "lora"}
    lengths = _halves(model.sequence_length)
    length = next((length for length in lengths if _fits(profile, "model.sequence_length", length)), None)
    if length:
        yield {"model.sequence_length": length}
    if profile.base is None:
        rows = next((rows for rows in _smaller(model.vocab_size) if _fits(profile, "model.vocab_size", rows)), None)
        if rows:
            yield {"model.vocab_size": rows}
        shortest = min(64, model.sequence_length)
        yield {"model.parameters": 1e5, "model.vocab_size": MIN_VOCAB_SIZE, "model.sequence_length": shortest}


def _short(size: int, profile: Profile) -> float:
    """A number of three digits that the plan meets with the shape of `size` parameters."""
    short = float(f"{size:.3g}")
    found = choose_shape(with_changes(profile, {"model.parameters": short})).num_parameters
    return short if found == size else float(size)


def _halves(length: int) -> Iterator[int]:
    while length % 2 == 0 and length >= 128:
        length //= 2
        yield length


def _smaller(rows: int) -> Iterator[int]:
    """Sizes of a vocabulary: multiples of 512, each about a sixth below the one before."""
    while rows > MIN_VOCAB_SIZE:
        rows = max(MIN_VOCAB_SIZE, rows * 5 // 6 // 512 * 512)
        yield rows


def _larger(nodes: int) -> Iterator[int]:
    """Numbers of machines to try, each at most a quarter above the one before."""
    while nodes < _MOST_NODES:
        nodes = min(math.ceil(nodes * 1.25), _MOST_NODES)
        yield nodes


def check_batch(profile: Profile, shape: ModelShape) -> None:
    """Raises: Obstacle where a step has less than one sequence for each rank."""
    world_size, length = world_size_of(profile), shape.sequence_length
    asked, wanted = profile.training.batch_tokens, wanted_batch_tokens(profile, shape)
    most = wanted if asked else wanted * _STRETCH
    least = world_size * length
    if least <= most:
        return
    largest = most // length
    raise Obstacle(
        f"a step has less than one sequence for each of {world_size:,} ranks",
        got=f"{'training.batch_tokens of ' if asked else ''}{wanted:,} tokens{'' if asked else ' in a step'}, "
        f"{largest:,} sequences of {length:,}: enough for {largest:,} ranks",
        fixes=lambda: _batch_fixes(profile, largest, least, most // world_size),
    )


def _batch_fixes(profile: Profile, largest: int, least: int, length: int) -> Iterator[Changes]:
    """Fewer ranks, at most `largest`; a batch of `least` tokens; sequences of at most `length` tokens."""
    hardware = profile.hardware
    if not hardware.gpus_per_node:
        if largest:
            yield {"training.pods": largest}
    elif largest >= hardware.gpus_per_node:
        yield {"hardware.nodes": largest // hardware.gpus_per_node}
    elif largest:
        yield {"hardware.nodes": 1, "hardware.gpus_per_node": largest}
    if least <= 2**30:
        yield {"training.batch_tokens": least}
    shorter = next((half for half in _halves(profile.model.sequence_length) if half <= length), None)
    if shorter:
        yield {"model.sequence_length": shorter}
    if hardware.gpus_per_node:
        yield {"hardware.nodes": 1, "hardware.gpus_per_node": 1, "training.batch_tokens": None}
    else:
        yield {"training.pods": 1, "training.batch_tokens": None}
