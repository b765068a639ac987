"""What layers of published proportions keep for the backward pass, and the peak of a step, against the plan's."""

from __future__ import annotations

import json
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from sovereign.memory import Memory, memory_bytes_per_device, saved_bytes_per_token
from sovereign.plan import ModelShape, Plan, RunPhase, plan
from sovereign.profile import load_profile
from sovereign.profile_training import RateSpan
from sovereign.resources import data_path
from tests.training.test_engine import bytes_of_tensors, call

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's compiler looks at it
LENGTH = 1024
"""Above 512 positions, so that attention on CPU keeps no scores, as on a GPU."""
PROPORTIONS = {  # width, feed-forward width, query heads, key/value heads, head width: a published shape made smaller
    "0.6B": (256, 768, 4, 2, 128),
    "8B": (512, 1536, 4, 1, 128),
    "32B": (640, 3200, 8, 1, 128),
    "70B": (512, 1792, 4, 1, 128),
    "few heads": (256, 704, 4, 2, 64),
}


def shape_of(name: str, num_layers: int, **changes: Any) -> ModelShape:
    width, inner, heads, kv_heads, head_dim = PROPORTIONS[name]
    shape = ModelShape(
        num_layers=num_layers,
        hidden_size=width,
        intermediate_size=inner,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=512,
        sequence_length=LENGTH,
        tied=True,
    )
    return shape.model_copy(update=changes)


def saved_bytes(shape: ModelShape, *, precision: str, compiled: bool) -> int:
    """Memory that the layers keep between the passes, the model's own weights left out; each storage counts once."""
    import torch
    from torch.autograd.graph import saved_tensors_hooks

    from training.attention import use_causal_blocks
    from training.model import make_model

    model = make_model(shape, 0)
    torch.nn.Module.to(model, torch.bfloat16 if precision == "bf16" else torch.float32)
    model.train()
    if compiled:
        use_causal_blocks(model)
        for layer in model.model.layers:
            layer.compile(dynamic=False, backend="aot_eager_decomp_partition")
    own = {value.untyped_storage().data_ptr() for value in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            kept.setdefault(place, tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        model.model(input_ids=torch.ones(1, shape.sequence_length, dtype=torch.long), use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    """What was compiled for other shapes counts towards a limit."""
    import torch

    torch._dynamo.reset()


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", PROPORTIONS)
def test_t12_a_layer_keeps_what_the_plan_counts(name: str, precision: str, compiled: bool) -> None:
    one, two = (saved_bytes(shape_of(name, count), precision=precision, compiled=compiled) for count in (1, 2))
    memory = Memory(0, 1, 1, checkpointing=False, precision=precision, compiled=compiled, on_cpu=True)
    assert (two - one) / LENGTH == pytest.approx(saved_bytes_per_token(shape_of(name, 1), memory), rel=0.02)


@pytest.mark.parametrize("length", [128, 512])
def test_t12_short_rows_on_cpu_keep_their_scores(length: int) -> None:
    one, two = (
        saved_bytes(shape_of("few heads", count, sequence_length=length), precision="fp32", compiled=True)
        for count in (1, 2)
    )
    memory = Memory(0, 1, 1, checkpointing=False, precision="fp32", compiled=True, on_cpu=True)
    planned = saved_bytes_per_token(shape_of("few heads", 1, sequence_length=length), memory)
    assert (two - one) / length == pytest.approx(planned, rel=0.03)


def plan_of(shape: ModelShape, memory: Memory) -> Plan:
    """A plan of this shape and layout, two micro-batches in a step."""
    base = plan(load_profile(data_path("templates") / "profiles" / "demo.yaml"))
    phase = RunPhase(num_steps=8, sequence_length=shape.sequence_length, learning_rate=RateSpan())
    changes = {
        "num_steps": 8,
        "phases": (phase,),
        "batch_tokens": 2 * memory.micro_batch * shape.sequence_length,
        "micro_batch": memory.micro_batch,
        "grad_accumulation": 2,
        "zero_stage": memory.zero_stage,
        "precision": memory.precision,
        "compile": memory.compiled,
        "activation_checkpointing": memory.checkpointing,
        "z_loss": 1e-5 if memory.has_z_loss else 0.0,
    }
    recipe = base.recipe.model_copy(update=changes)
    return base.model_copy(update={"model": shape, "recipe": recipe, "num_parameters": shape.num_parameters})


def send_peak(resolved: Plan, answers: Connection) -> None:
    """Send the highest memory of all tensors in a training step, by torch's own record of allocations."""
    import numpy as np
    from torch.profiler import ProfilerActivity, profile

    from training.engine import Engine

    engine = Engine(resolved, print)
    rows = np.random.default_rng(0).integers(0, resolved.model.vocab_size, (2 * resolved.recipe.micro_batch, LENGTH))
    engine.step(0, rows)
    before = bytes_of_tensors()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        engine.step(1, rows)
    assert record.profiler is not None
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    answers.send({"peak": before + int(np.cumsum(changes).max())})


@pytest.mark.parametrize(
    ("vocab_size", "memory"),
    [
        (1024, Memory(2, 1, 2, False, "bf16", compiled=False, on_cpu=True, has_z_loss=True)),
        (1024, Memory(2, 1, 2, True, "bf16", compiled=False, on_cpu=True, has_z_loss=True)),
        (32_768, Memory(2, 1, 1, False, "bf16", compiled=False, on_cpu=True, has_z_loss=True)),
        (32_768, Memory(0, 1, 1, False, "fp32", compiled=False, on_cpu=True)),
        (1024, Memory(1, 1, 2, False, "fp32", compiled=False, on_cpu=True)),
        (1024, Memory(3, 1, 2, False, "bf16", compiled=False, on_cpu=True, has_z_loss=True)),
    ],
    ids=["layers", "checkpointing", "logits", "logits in fp32", "ZeRO-1", "ZeRO-3"],
)
def test_t12_the_peak_of_a_step_is_the_plans(vocab_size: int, memory: Memory, tmp_path: Path) -> None:
    layers = 1 if vocab_size > 1024 else 4
    shape = shape_of("8B", layers, vocab_size=vocab_size, tied=False)
    found = call(partial(send_peak, plan_of(shape, memory)), tmp_path)["peak"]
    planned = memory_bytes_per_device(shape, memory)
    assert 0.98 * found < planned < 1.25 * found, json.dumps({"planned": planned, "found": found})
