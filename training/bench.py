"""Speed of training against its peers: the same models, batch and sequence, on this machine.

    python -m training.bench [--repeats 10] [--sizes 1e6 5e6] [--profile FILE]      prints JSON lines

Peers: the Hugging Face Trainer, eager and compiled, litgpt where it can be imported (`make bench` sees to that), and a
plain loop around a compiled model. Figures of a shared machine move by 30%: the contestants run in turn, each in a
process of its own; only ratios within a repetition count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from sovereign.plan import Plan, plan
from sovereign.profile import Profile, load_profile
from sovereign.resources import data_path
from training import environment

if TYPE_CHECKING:
    from torch.utils.data import Dataset

WARMUP_STEPS = 4
"""Not counted: they compile."""
STEPS = 16
SIZES = (1e6, 5e6)
"""Parameters."""
_MATMUL_WIDTH = 2048
Batch = TypeVar("Batch")
_RESAMPLES = 10_000


def ours(resolved: Plan, workdir: Path) -> list[float]:
    """Times at which this kit's engine began, and ended each step."""
    ranks = environment.prepare(workdir, threads=resolved.recipe.threads, world_size=resolved.recipe.world_size)
    from training.engine import Engine, join

    join(ranks)
    engine = Engine(resolved, lambda text: print(text, file=sys.stderr))  # noqa: T201
    return _timed(engine.step, list(_rows(resolved)))


def plain_loop(resolved: Plan, _workdir: Path) -> list[float]:
    """The same of the loop that one would write around torch.compile."""
    import torch

    from training.model import make_model, parameter_groups

    recipe = resolved.recipe
    torch.set_num_threads(recipe.threads)
    model = make_model(resolved.model, 0)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, recipe), lr=recipe.learning_rate, betas=(recipe.beta1, recipe.beta2), fused=True
    )
    compiled = torch.compile(model)

    def step(_: int, rows: torch.Tensor) -> None:
        compiled(input_ids=rows, labels=rows, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clipping)
        optimizer.step()
        optimizer.zero_grad()

    return _timed(step, [torch.from_numpy(rows) for rows in _rows(resolved)])


def hf_trainer(resolved: Plan, workdir: Path, *, compiled: bool) -> list[float]:
    """The same of transformers' Trainer."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from training.model import make_model

    recipe = resolved.recipe
    torch.set_num_threads(recipe.threads)
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            ends.append(time.time())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.time())

    arguments = TrainingArguments(
        output_dir=str(workdir),
        use_cpu=True,
        max_steps=WARMUP_STEPS + STEPS,
        per_device_train_batch_size=recipe.batch_tokens // resolved.model.sequence_length,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.gradient_clipping,
        optim="adamw_torch_fused",
        torch_compile=compiled,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    rows = [torch.from_numpy(row) for batch in _rows(resolved) for row in batch]
    examples: Dataset[dict[str, torch.Tensor]] = [{"input_ids": row, "labels": row} for row in rows]  # type: ignore[assignment]
    Trainer(make_model(resolved.model, 0), arguments, train_dataset=examples, callbacks=[Clock()]).train()
    return ends


def litgpt(resolved: Plan, _workdir: Path) -> list[float]:
    """The same of litgpt: model, loss and order of calls of its pretraining script, its optimizer fused too."""
    import lightning
    import torch
    from litgpt.model import GPT, Config
    from litgpt.utils import chunked_cross_entropy

    recipe, shape = resolved.recipe, resolved.model
    torch.set_num_threads(recipe.threads)
    fabric = lightning.Fabric(accelerator="cpu", devices=1, precision="32-true")
    config = Config(
        block_size=shape.sequence_length,
        n_layer=shape.num_layers,
        n_embd=shape.hidden_size,
        n_head=shape.num_heads,
        n_query_groups=shape.num_kv_heads,
        head_size=shape.head_dim,
        intermediate_size=shape.intermediate_size,
        vocab_size=shape.vocab_size,
        padded_vocab_size=shape.vocab_size,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        norm_eps=1e-6,
        norm_qk=True,
        mlp_class_name="LLaMAMLP",
    )
    fabric.seed_everything(0, verbose=False)
    made = GPT(config)
    if shape.tied:
        made.transformer.wte.weight = made.lm_head.weight
    assert sum(parameter.numel() for parameter in made.parameters()) == resolved.num_parameters
    model = fabric.setup(torch.compile(made))
    betas = (recipe.beta1, recipe.beta2)
    adamw = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=betas, fused=True)
    optimizer = fabric.setup_optimizers(adamw)

    def step(_: int, rows: torch.Tensor) -> None:
        fabric.backward(chunked_cross_entropy(model(rows), rows.roll(-1, dims=1)))
        fabric.clip_gradients(model, optimizer, max_norm=recipe.gradient_clipping)
        optimizer.step()
        optimizer.zero_grad()

    return _timed(step, [torch.from_numpy(rows) for rows in _rows(resolved)])


OURS = "ours"
CONTESTANTS: dict[str, Callable[[Plan, Path], list[float]]] = {
    OURS: ours,
    "plain_loop": plain_loop,
    "hf_trainer": lambda resolved, workdir: hf_trainer(resolved, workdir, compiled=False),
    "hf_trainer_compiled": lambda resolved, workdir: hf_trainer(resolved, workdir, compiled=True),
}
if find_spec("litgpt"):
    CONTESTANTS["litgpt"] = litgpt


def _timed(step: Callable[[int, Batch], object], batches: Sequence[Batch]) -> list[float]:
    """Times at which the first step began, and each ended."""
    ends = [time.time()]
    for number, rows in enumerate(batches):
        step(number, rows)
        ends.append(time.time())
    return ends


def _rows(resolved: Plan) -> np.ndarray[tuple[int, int, int], np.dtype[np.int64]]:
    """Tokens for all steps, int64, shape [steps, sequences, positions]."""
    length = resolved.model.sequence_length
    shape = (WARMUP_STEPS + STEPS, resolved.recipe.batch_tokens // length, length)
    return np.random.default_rng(0).integers(0, resolved.model.vocab_size, shape)


@dataclass(frozen=True)
class Measured:
    """One contestant, once."""

    tokens_per_s: float
    """By the median of the steps after the warm-up."""
    first_step_s: float
    """From the start of the process to the end of the first step."""


def _measure(name: str, profile: Path, size: float, workdir: Path) -> Measured:
    """One contestant in a process of its own."""
    resolved = _resolve(load_profile(profile), size)
    threads = {"OMP_NUM_THREADS": str(resolved.recipe.threads)}
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(workdir / "inductor")}
    start = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "training.bench", "--one", name, "--profile", profile, "--sizes", str(size)],
        cwd=workdir,
        env=os.environ | environment.OFFLINE | threads | caches,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    ends = np.array(json.loads(done.stdout.splitlines()[-1]))
    step_s = float(np.median(np.diff(ends)[WARMUP_STEPS:]))
    return Measured(resolved.recipe.batch_tokens / step_s, float(ends[1]) - start)


def _resolve(profile: Profile, size: float) -> Plan:
    return plan(profile.model_copy(update={"model": profile.model.model_copy(update={"parameters": size})}))


def matmul_flops(threads: int) -> float:
    """FLOP/s that torch's float32 matrix product reaches here, the best of several."""
    import torch

    torch.set_num_threads(threads)
    matrix = torch.ones(_MATMUL_WIDTH, _MATMUL_WIDTH)
    times = []
    for _ in range(8):
        start = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - start)
    return float(2 * _MATMUL_WIDTH**3 / min(times))


def ratio_interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean of ratios, and its 95% interval by bootstrap over the repetitions."""
    logs = np.log(np.array(ratios))
    drawn = np.random.default_rng(0).choice(logs, (_RESAMPLES, len(logs))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high))


def compare(profile: Path, size: float, repeats: int, workdir: Path) -> None:
    """Print a line for each repetition and one for all."""
    resolved = _resolve(load_profile(profile), size)
    runs: list[dict[str, Measured]] = []
    peaks: list[float] = []
    for repeat in range(repeats):
        peaks.append(matmul_flops(resolved.recipe.threads))
        runs.append({name: _measure(name, profile, size, workdir) for name in CONTESTANTS})
        speeds = {name: round(run.tokens_per_s) for name, run in runs[-1].items()}
        _write("training tokens/s", parameters=resolved.num_parameters, repeat=repeat, **speeds)
    median = {name: statistics.median(run[name].tokens_per_s for run in runs) for name in CONTESTANTS}
    best = max((name for name in CONTESTANTS if name != OURS), key=lambda name: median[name])
    ratio, low, high = ratio_interval([run[OURS].tokens_per_s / run[best].tokens_per_s for run in runs])
    mfus = [
        run[OURS].tokens_per_s * resolved.model.flops_per_token / peak for run, peak in zip(runs, peaks, strict=True)
    ]
    _write(
        "training against the best peer",
        parameters=resolved.num_parameters,
        repeats=repeats,
        best_peer=best,
        ratio=round(ratio, 3),
        interval_95=[round(low, 3), round(high, 3)],
        of_matmul_peak=round(statistics.median(mfus), 3),
        first_step_s=round(statistics.median(run[OURS].first_step_s for run in runs[1:] or runs), 1),  # compiled before
    )


def _write(name: str, **figures: object) -> None:
    sys.stdout.write(json.dumps({"name": name, **figures}) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure the contestants in turn."""
    parser = argparse.ArgumentParser(description="Training against its peers.")
    parser.add_argument("--profile", type=Path, default=data_path("templates") / "profiles" / "demo.yaml")
    parser.add_argument("--sizes", type=float, nargs="+", default=SIZES, help="parameters")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", choices=CONTESTANTS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        ends = CONTESTANTS[chosen.one](_resolve(load_profile(chosen.profile), chosen.sizes[0]), Path.cwd())
        sys.stdout.write(json.dumps(ends) + "\n")
        return
    for size in chosen.sizes:
        with tempfile.TemporaryDirectory() as folder:
            compare(chosen.profile.resolve(), size, chosen.repeats, Path(folder))


if __name__ == "__main__":
    main()
