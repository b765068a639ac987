"""The plan that is measured, and the clock, energy and memory of a run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sovereign.plan import Plan, plan
from sovereign.profile import Profile

if TYPE_CHECKING:
    from training.energy import Gpu

DATA_SHEET_FLOPS = 989e12
"""Dense bf16 of one H100 or H200 SXM, FLOP/s: NVIDIA's data sheet, 1,979 TFLOP/s with sparsity."""
WARMUP_STEPS = 2
"""Not timed: they compile."""


def make_plan(*, tiny: bool, **training: Any) -> Plan:
    """1.2 billion parameters, sequences of 4,096 tokens, 32 of them in a step, on one H200; or a miniature on CPU."""
    hardware: dict[str, Any] = {"cpus_per_node": 16, "memory_gb_per_node": 128, "storage_tb": 1}
    model: dict[str, Any] = {"parameters": 1.2e9, "vocab_size": 131_072, "sequence_length": 4096}
    wanted: dict[str, Any] = {"tokens": 1e9, "batch_tokens": 32 * 4096}
    if tiny:
        model = {"parameters": 3e5, "vocab_size": 512, "sequence_length": 64}
        wanted = {"tokens": 1e6, "batch_tokens": 4 * 64, "compile": False}
    else:
        hardware |= {"gpus_per_node": 1, "accelerator": "H200"}
    document = {
        "apiVersion": "sovereign/v1",
        "name": "gpu",
        "target": {"kind": "kubeconfig", "path": "/k", "context": "c", "image": "i"},
        "hardware": hardware,
        "corpus": {"demonstration": {"facts": 10}},
        "model": model,
        "training": wanted | training,
    }
    return plan(Profile.model_validate(document))


def make_rows(resolved: Plan, steps: int) -> npt.NDArray[np.int64]:
    """Random tokens with a document's end every 600 or so; shape [steps, sequences, tokens]."""
    recipe, shape = resolved.recipe, resolved.model
    size = (steps, recipe.batch_tokens // shape.sequence_length, shape.sequence_length)
    random = np.random.default_rng(0)
    rows: npt.NDArray[np.int64] = random.integers(1, shape.vocab_size, size)
    rows[random.random(size) < 1 / 600] = 0
    return rows


def wait_for_device() -> None:
    """Until everything that was asked of the GPU is done."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def open_gpu() -> Gpu | None:
    """The GPU's counters, or None."""
    import torch

    from training.energy import Gpu

    if not torch.cuda.is_available():
        return None
    return Gpu.open(f"GPU-{torch.cuda.get_device_properties(0).uuid}")


def measure_steps(step: Callable[[int, npt.NDArray[np.int64]], Any], resolved: Plan, steps: int) -> dict[str, Any]:
    """Speed, energy and memory of training steps after the warm-up."""
    import torch

    rows = make_rows(resolved, WARMUP_STEPS + steps)
    start = time.perf_counter()
    step(0, rows[0])
    wait_for_device()
    first_s = time.perf_counter() - start
    for number in range(1, WARMUP_STEPS):
        step(number, rows[number])
    wait_for_device()
    gpu = open_gpu()
    ends = [time.perf_counter()]
    before_j = gpu.energy_j() if gpu and gpu.has_energy else None
    for number in range(WARMUP_STEPS, WARMUP_STEPS + steps):
        step(number, rows[number])
        wait_for_device()
        ends.append(time.perf_counter())
    energy_j = gpu.energy_j() - before_j if gpu and before_j is not None else None
    step_s = float(np.median(np.diff(ends)))
    tokens = resolved.recipe.batch_tokens
    flops = tokens / step_s * resolved.model.flops_per_token
    health = gpu.health() if gpu else None
    figures: dict[str, Any] = {
        "parameters": resolved.num_parameters,
        "sequence_length": resolved.model.sequence_length,
        "micro_batch": resolved.recipe.micro_batch,
        "steps": steps,
        "step_s": round(step_s, 4),
        "step_s_all": [round(float(one), 4) for one in np.diff(ends)],
        "tokens_per_s": round(tokens / step_s, 1),
        "tflops": round(flops / 1e12, 3),
        "mfu": round(flops / DATA_SHEET_FLOPS, 4),
        "first_step_s": round(first_s, 2),
        "compile_s": round(first_s - step_s, 2),
        "joules_per_million_tokens": round(energy_j / steps / tokens * 1e6, 1) if energy_j is not None else None,
        "throttled_by": list(health.throttled_by) if health else None,
    }
    if torch.cuda.is_available():
        figures["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 3)
        figures["reserved_gb"] = round(torch.cuda.max_memory_reserved() / 1e9, 3)
        figures["planned_gb"] = round(resolved.estimates.memory_per_device_gb, 3)
        figures["peak_of_plan"] = round(figures["peak_gb"] / figures["planned_gb"], 4)
    return figures


def versions() -> dict[str, str]:
    """What the measurement depends on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("torch", "triton", "deepspeed", "transformers", "numpy", "safetensors"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found | {"machine": os.uname().machine, "kernel": os.uname().release}
