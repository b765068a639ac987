"""Where DeepSpeed's ZeRO keeps a rank's part of each parameter, and how changed master weights reach the model.

At stage 0, which is for one rank in fp32, there is no ZeRO: the parameters are their own master weights.

DeepSpeed has no public way to this; the names are those of the pinned version (pyproject.toml), and tests/training/
test_resume.py holds every stage to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Fragment:
    """A range of a parameter's elements in a partition."""

    name: str
    start: int
    """First element in the flattened parameter."""
    stop: int
    offset: int
    """Place of the first element in the partition."""

    @property
    def place(self) -> slice:
        """The range in the partition."""
        return slice(self.offset, self.offset + self.stop - self.start)


@dataclass(frozen=True)
class Partition:
    """This rank's part of one group of parameters."""

    master: torch.Tensor
    """Master weights, float32, flat; padding after the fragments."""
    shape: torch.Size
    """In which the optimizer has them."""
    state: dict[str, Any]
    """The optimizer's own, by name; empty before the first step."""
    fragments: list[Fragment]

    @property
    def moments(self) -> dict[str, Any]:
        """The optimizer's state, flat where it is one number for each weight."""
        return {name: value.view(-1) if value.shape == self.shape else value for name, value in self.state.items()}

    def set_moments(self, moments: Mapping[str, Any]) -> None:
        """Replace the optimizer's state by `moments`, flat as `moments` gives them."""
        self.state.clear()
        for name, value in moments.items():
            self.state[name] = value.view(self.shape) if value.shape == self.master.shape else value


def whole_shape(parameter: torch.Tensor) -> torch.Size:
    """The shape of a parameter, which stage 3 may have divided."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def partitions(zero: Any, stage: int, names: Mapping[int, str]) -> list[Partition]:
    """This rank's partitions.

    Args:
        zero: DeepSpeed's optimizer of ZeRO stage `stage`; at stage 0 torch's.
        names: a parameter's name by its `id`.
    """
    if stage == 0:
        return [
            Partition(
                parameter.detach().view(-1),
                parameter.shape,
                zero.state[parameter],
                [Fragment(names[id(parameter)], 0, parameter.numel(), 0)],
            )
            for group in zero.param_groups
            for parameter in group["params"]
        ]
    if stage == 3:
        return [
            Partition(master, master.shape, zero.optimizer.state[master], _of_each_parameter(group, names))
            for master, group in zip(zero.fp32_partitioned_groups_flat, zero.fp16_groups, strict=True)
        ]
    if hasattr(zero, "bf16_groups"):  # stage 1 in bf16 is a class of its own
        masters, groups = zero.fp32_groups_flat_partition, zero.bf16_groups
        offsets = [[0, *accumulate(parameter.numel() for parameter in group[:-1])] for group in groups]
    else:
        masters, groups = zero.single_partition_of_fp32_groups, zero.round_robin_bit16_groups
        offsets = zero.round_robin_bit16_offsets
    return [
        Partition(
            master, master.shape, zero.optimizer.state[master], _of_the_group(group, places, master.numel(), names)
        )
        for master, group, places in zip(masters, groups, offsets, strict=True)
    ]


def _of_the_group(
    group: Iterable[torch.Tensor], offsets: Iterable[int], size: int, names: Mapping[int, str]
) -> list[Fragment]:
    """Stages 1 and 2: the parameters of a group lie one after the other, and each rank has `size` elements of all."""
    begin = dist.get_rank() * size
    fragments = []
    for parameter, offset in zip(group, offsets, strict=True):
        start, stop = max(begin - offset, 0), min(begin + size - offset, parameter.numel())
        if start < stop:
            fragments.append(Fragment(names[id(parameter)], start, stop, offset + start - begin))
    return fragments


def _of_each_parameter(group: Iterable[Any], names: Mapping[int, str]) -> list[Fragment]:
    """Stage 3: each rank has a part of every parameter, one after the other, each padded to the same size."""
    fragments, offset = [], 0
    for parameter in group:
        size = parameter.partition_numel()
        start = dist.get_rank() * size
        stop = min(start + size, parameter.ds_numel)
        if start < stop:
            fragments.append(Fragment(names[id(parameter)], start, stop, offset))
        offset += size
    return fragments


def update_model(zero: Any, stage: int) -> None:
    """Bring the master weights of all ranks into the model's parameters, as a step does at its end."""
    if stage == 0:
        return
    if stage != 3:
        zero.update_lp_params()
        return
    zero._partition_all_parameters()
    for number in range(len(zero.fp32_partitioned_groups_flat)):
        zero._reassign_or_swap_out_partitioned_parameters(number)
    zero._post_step(set())
