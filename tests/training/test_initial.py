"""The weights that a model begins with: the same for any ZeRO stage and number of ranks, made part by part."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sovereign.plan import Plan, plan
from sovereign.profile import load_profile
from tests.memory import forget_peak, resident_bytes
from training import environment
from training.forked import finish, fork, write_profile
from training.initial import InitialWeights
from training.model import make_model

INITIAL = InitialWeights(num_layers=8, seed=3, depth_scaled=True)
NAME = "model.layers.0.mlp.down_proj.weight"


def test_a_range_is_a_part_of_the_whole() -> None:
    whole = INITIAL.read(NAME, 0, 300_000)
    for start, stop in ((0, 1), (65_535, 65_537), (65_536, 131_072), (1_000, 299_999), (5, 5)):
        assert torch.equal(INITIAL.read(NAME, start, stop), whole[start:stop])
    assert torch.equal(INITIAL.read("model.norm.weight", 3, 7), torch.ones(4))


def test_parameters_blocks_and_seeds_differ() -> None:
    drawn = [
        INITIAL.read(NAME, 0, 1000),
        INITIAL.read(NAME, 65_536, 66_536),
        INITIAL.read(NAME.replace("layers.0", "layers.1"), 0, 1000),
        InitialWeights(8, 4, depth_scaled=True).read(NAME, 0, 1000),
    ]
    correlations = np.corrcoef(torch.stack(drawn).numpy()) - np.eye(4)
    assert abs(correlations).max() < 0.15  # random: 0.03 is one standard deviation


def make_plan(folder: Path, zero_stage: int, world_size: int, *, precision: str, tied: bool) -> Plan:
    tiny = plan(load_profile(write_profile(folder / "profile.json")))
    changes = {"zero_stage": zero_stage, "precision": precision, "world_size": world_size, "depth_scaled_init": True}
    recipe = tiny.recipe.model_copy(update=changes | {"micro_batch": 4 // world_size})
    return tiny.model_copy(update={"recipe": recipe, "model": tiny.model.model_copy(update={"tied": tied})})


def enter(folder: Path, port: int, rank: int, world_size: int) -> None:
    """Meet the other ranks."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    os.environ |= dict(zip(names, (str(rank), str(world_size), "0", "127.0.0.1", str(port)), strict=True))
    from training.engine import join

    join(environment.prepare(folder / str(rank), threads=1, world_size=world_size))


@pytest.mark.parametrize(
    ("world_size", "precision", "tied"), [(1, "fp32", True), (2, "fp32", False), (3, "bf16", True)]
)
def test_every_stage_and_number_of_ranks_begins_with_the_same_weights(
    world_size: int, precision: str, tied: bool, tmp_path: Path
) -> None:
    port = environment.free_port()
    processes = [fork(_write_weights, tmp_path, port, rank, world_size, precision, tied) for rank in range(world_size)]
    assert finish(processes) == [0] * world_size
    resolved = make_plan(tmp_path, 1, 1, precision=precision, tied=tied)
    model = make_model(resolved.model, resolved.recipe.seed, depth_scaled=True)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    expected = {name: value.detach().to(dtype) for name, value in model.named_parameters()}
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == 3
    for file in files:
        weights = load_file(file)
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], value) for name, value in expected.items()), file


def _write_weights(folder: Path, port: int, rank: int, world_size: int, precision: str, tied: bool) -> None:
    enter(folder, port, rank, world_size)
    from training.engine import Engine

    for stage in (1, 2, 3):
        resolved = make_plan(folder / str(rank), stage, world_size, precision=precision, tied=tied)
        engine = Engine(resolved, print)
        assert engine.shapes == {
            name: tuple(value.shape) for name, value in make_model(resolved.model, 0).named_parameters()
        }
        for part, group in zip(engine._partitions(), engine._engine.optimizer.param_groups, strict=True):
            for name in (one.name for one in part.fragments):
                assert (group["weight_decay"] > 0) == (len(engine.shapes[name]) > 1 and "embed" not in name), name
        weights = engine.weights()
        if rank == 0:
            save_file(weights, folder / f"{stage}.safetensors")


SHAPE = {"num_layers": 20, "hidden_size": 512, "intermediate_size": 1536, "vocab_size": 2048, "tied": False}
RANKS = 4
_M_MMAP_THRESHOLD = -3  # malloc.h


def test_a_rank_under_stage_3_never_holds_the_whole_model(tmp_path: Path) -> None:
    port = environment.free_port()
    processes = [fork(_measure_peak, tmp_path, port, rank) for rank in range(RANKS)]
    assert finish(processes) == [0] * RANKS
    whole = 4 * large(tmp_path).model.num_parameters
    for rank in range(RANKS):
        peak = int((tmp_path / f"{rank}.peak").read_text())
        assert 0.8 * whole / RANKS < peak < 0.5 * whole


def large(folder: Path) -> Plan:
    """A model of 52 million parameters, of which the largest matrix has 2 %."""
    resolved = make_plan(folder, 3, RANKS, precision="fp32", tied=False)
    return resolved.model_copy(update={"model": resolved.model.model_copy(update=SHAPE)})


def with_layers(resolved: Plan, num_layers: int) -> Plan:
    return resolved.model_copy(update={"model": resolved.model.model_copy(update={"num_layers": num_layers})})


def _measure_peak(folder: Path, port: int, rank: int) -> None:
    enter(folder, port, rank, RANKS)
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 65_536)  # what is freed goes back, and is resident no more
    from training.deepspeed_config import render
    from training.engine import allocated

    resolved = large(folder / str(rank))
    allocated(with_layers(resolved, 1), render(resolved))  # what is loaded and built once
    forget_peak()
    before = resident_bytes("VmRSS")
    model = allocated(resolved, render(resolved))
    (folder / f"{rank}.peak").write_text(str(resident_bytes("VmHWM") - before))
    assert model is not None
