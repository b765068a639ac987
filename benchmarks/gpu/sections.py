"""What is measured, each part in a process of its own.

python3 -m benchmarks.gpu.sections NAME --answer FILE [--tiny]
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.setting import make_plan, make_rows, measure_steps, versions, wait_for_device
from sovereign.plan import Plan
from training import environment

if TYPE_CHECKING:
    import torch

    from training.engine import Engine
    from training.environment import Ranks

_STEPS, _TINY_STEPS = 8, 2


def _engine(resolved: Plan) -> tuple[Engine, Ranks]:
    """The kit's engine as stage `train` makes it."""
    ranks = environment.prepare(Path.cwd(), threads=resolved.recipe.threads, world_size=1)
    from training.engine import Engine, join

    join(ranks)
    return Engine(resolved, lambda text: print(text, file=sys.stderr)), ranks


def machine(tiny: bool) -> dict[str, Any]:
    """What this machine is, and its two ceilings: matrix products and copies, on random data."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    width, repeats = (256, 2) if tiny else (8192, 20)
    one, other = (torch.randn(width, width, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(2**20 if tiny else 2**31, device=device, dtype=torch.bfloat16)
    target = torch.empty_like(source)

    def seconds(act: Callable[[], object]) -> float:
        for _ in range(3):
            act()
        wait_for_device()
        start = time.perf_counter()
        for _ in range(repeats):
            act()
        wait_for_device()
        return (time.perf_counter() - start) / repeats

    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "device_gb": round(torch.cuda.get_device_properties(0).total_memory / 1e9, 2) if device == "cuda" else None,
        "matmul_tflops": round(2 * width**3 / seconds(lambda: one @ other) / 1e12, 3),
        "copy_tb_per_s": round(2 * 2 * source.numel() / seconds(lambda: target.copy_(source)) / 1e12, 4),
        "versions": versions(),
    }


def train(tiny: bool) -> dict[str, Any]:
    """The kit's engine, in the plan's layout."""
    resolved = make_plan(tiny=tiny)
    engine, _ = _engine(resolved)
    return measure_steps(engine.step, resolved, _TINY_STEPS if tiny else _STEPS)


def masked(tiny: bool) -> dict[str, Any]:
    """The same with document masking."""
    resolved = make_plan(tiny=tiny, document_masking=True)
    engine, _ = _engine(resolved)
    return measure_steps(engine.step, resolved, _TINY_STEPS if tiny else _STEPS // 2)


def cudnn(tiny: bool) -> dict[str, Any]:
    """The same with cuDNN's attention in the place of the one that torch prefers."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    resolved = make_plan(tiny=tiny)
    engine, _ = _engine(resolved)
    only = sdpa_kernel(SDPBackend.CUDNN_ATTENTION) if torch.cuda.is_available() else nullcontext()
    with only:
        return measure_steps(engine.step, resolved, _TINY_STEPS if tiny else _STEPS // 2)


def plain(tiny: bool) -> dict[str, Any]:
    """The loop that one would write around torch.compile: fp32 weights, autocast to bf16, fused AdamW.

    Its micro-batch is the kit's, halved while it does not fit.
    """
    import torch

    from training.model import make_model

    resolved = make_plan(tiny=tiny)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    model = make_model(resolved.model, 0)
    torch.nn.Module.to(model, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=resolved.recipe.learning_rate, fused=True)
    compiled = torch.compile(model) if resolved.recipe.compile else model

    def step(rows: Any, micro_batch: int) -> None:
        parts = torch.from_numpy(rows).to(device).split(micro_batch)  # type: ignore[no-untyped-call]
        for part in parts:
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                loss = compiled(input_ids=part, labels=part, use_cache=False).loss / len(parts)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), resolved.recipe.gradient_clipping)
        optimizer.step()
        optimizer.zero_grad()

    micro_batch = resolved.recipe.micro_batch
    while True:
        try:
            found = measure_steps(
                lambda _, rows, size=micro_batch: step(rows, size),  # type: ignore[misc]
                resolved,
                _TINY_STEPS if tiny else _STEPS,
            )
            return found | {"micro_batch": micro_batch, "planned_gb": None, "peak_of_plan": None}
        except torch.cuda.OutOfMemoryError:
            if micro_batch == 1:
                raise
        micro_batch //= 2
        optimizer.zero_grad()
        torch.cuda.empty_cache()


def loss(tiny: bool) -> dict[str, Any]:
    """The head as it is trained, compiled, against the same in float64 on the same numbers: loss and gradients."""
    import torch

    from training.loss import _Head

    resolved = make_plan(tiny=tiny)
    shape, device = resolved.model, "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    dtype = torch.bfloat16
    rows = 1 if not tiny else 2
    tokens = torch.randint(1, shape.vocab_size, (rows, min(shape.sequence_length, 2048)), device=device)
    hidden = torch.randn(*tokens.shape, shape.hidden_size, device=device, dtype=dtype)
    weight = 0.02 * torch.randn(shape.vocab_size, shape.hidden_size, device=device, dtype=dtype)
    head = _Head(resolved.recipe)
    if resolved.recipe.compile:
        head.compile(dynamic=False)

    def run(head: Callable[..., Any], kind: torch.dtype) -> tuple[float, torch.Tensor, torch.Tensor, float]:
        inputs = [value.to(kind, copy=True).requires_grad_() for value in (hidden, weight)]
        head(*inputs, tokens, None)[0].backward()
        for value in inputs:
            value.grad = None
        wait_for_device()
        start = time.perf_counter()
        objective = head(*inputs, tokens, None)[0]
        objective.backward()
        wait_for_device()
        seconds = time.perf_counter() - start
        first, second = inputs
        assert first.grad is not None
        assert second.grad is not None
        return objective.item(), first.grad, second.grad, seconds

    def reference(hidden: torch.Tensor, weight: torch.Tensor, tokens: torch.Tensor, _: None) -> tuple[torch.Tensor]:
        logits = torch.nn.functional.linear(hidden[:, :-1].flatten(0, 1), weight)
        plain = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten())
        return (plain + resolved.recipe.z_loss * logits.logsumexp(dim=1).square().mean(),)

    def far(one: torch.Tensor, other: torch.Tensor) -> float:
        return float((one.double() - other.double()).norm() / other.double().norm())

    ours, exact = run(head, dtype), run(reference, torch.float64)
    return {
        "loss": ours[0],
        "reference_loss": exact[0],
        "loss_off": abs(ours[0] / exact[0] - 1),
        "hidden_gradient_off": far(ours[1], exact[1]),
        "weight_gradient_off": far(ours[2], exact[2]),
        "head_s": round(ours[3], 5),
    }


def resume(tiny: bool) -> dict[str, Any]:
    """Four steps at once, and two, a checkpoint, and two from it: losses and weights must be the same bits."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)  # attention's backward pass on a GPU adds atomically otherwise
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    from benchmarks.gpu.resuming import compare

    resolved = make_plan(tiny=tiny)
    if not tiny:
        resolved = make_plan(tiny=False, batch_tokens=8 * 4096)
        model = resolved.model.model_copy(update={"num_layers": 2, "vocab_size": 32_768})
        resolved = resolved.model_copy(update={"model": model, "num_parameters": model.num_parameters})
    return compare(resolved, lambda: _engine(resolved), make_rows(resolved, 4), Path.cwd())


def fault(tiny: bool) -> dict[str, Any]:
    """A token outside the vocabulary in a step: on a GPU a device-side assertion. The process must fail, not hang."""
    resolved = make_plan(tiny=tiny, compile=False)
    engine, _ = _engine(resolved)
    rows = make_rows(resolved, 2)
    engine.step(0, rows[0])
    rows[1, 0, 3] = resolved.model.vocab_size + 10**6
    with environment.among_peers():
        engine.step(1, rows[1])
    return {"no_fault": True}


SECTIONS: dict[str, Callable[[bool], dict[str, Any]]] = {
    one.__name__: one for one in (machine, train, plain, masked, loss, resume, fault, cudnn)
}


def measure(name: str, answer: Path, log: Path, tiny: bool) -> None:
    """A section's process, in a session of its own: what it prints goes to `log`, what it measured to `answer`."""
    os.setsid()
    with log.open("wb") as output:
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
    workdir = log.parent / name
    workdir.mkdir()
    os.chdir(workdir)
    found = SECTIONS[name](tiny)
    answer.write_text(json.dumps(found, allow_nan=False, default=str))
