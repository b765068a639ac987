"""Speed of training against the HF Trainer: the same model, batch and sequence, on this machine.

    python -m training.bench [PROFILE] [REPEATS]      default: the demonstration, 3; prints JSON lines

Figures of a shared machine move by 30%: the two run in turn, each in a process of its own, and only their ratio counts.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovereign.plan import Plan, plan
from sovereign.profile import load_profile
from sovereign.resources import data_path
from training import environment

if TYPE_CHECKING:
    from torch.utils.data import Dataset

WARMUP_STEPS = 4
"""Not counted: they compile."""
STEPS = 24


def ours(resolved: Plan, workdir: Path) -> list[float]:
    """Seconds of each step of this kit's engine."""
    ranks = environment.prepare(workdir, threads=resolved.recipe.threads, world_size=resolved.recipe.world_size)
    import numpy as np

    from training.engine import Engine, join

    join(ranks)
    engine = Engine(resolved, None, lambda text: print(text, file=sys.stderr))  # noqa: T201
    length = resolved.model.sequence_length
    shape = (resolved.recipe.batch_tokens // length, length)
    rows = np.random.default_rng(0).integers(0, resolved.model.vocab_size, shape)
    times = []
    for step in range(WARMUP_STEPS + STEPS):
        start = time.perf_counter()
        engine.step(step, rows)
        times.append(time.perf_counter() - start)
    return times


def hf_trainer(resolved: Plan, workdir: Path) -> list[float]:
    """Seconds of each step of transformers' Trainer."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from training.model import make_model

    recipe, length = resolved.recipe, resolved.model.sequence_length
    torch.set_num_threads(recipe.threads)
    num_rows = recipe.batch_tokens // length
    rows = torch.randint(0, resolved.model.vocab_size, (num_rows * (WARMUP_STEPS + STEPS), length))
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            times.append(-time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times[-1] += time.perf_counter()

    arguments = TrainingArguments(
        output_dir=str(workdir),
        use_cpu=True,
        max_steps=WARMUP_STEPS + STEPS,
        per_device_train_batch_size=num_rows,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.gradient_clipping,
        optim="adamw_torch_fused",
        torch_compile=recipe.compile,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    examples: Dataset[dict[str, torch.Tensor]] = [{"input_ids": row, "labels": row} for row in rows]  # type: ignore[assignment]
    Trainer(make_model(resolved.model, 0), arguments, train_dataset=examples, callbacks=[Clock()]).train()
    return times


CONTESTANTS: dict[str, Callable[[Plan, Path], list[float]]] = {"ours": ours, "hf_trainer": hf_trainer}


def _measure(name: str, profile: Path, workdir: Path) -> float:
    """Tokens/s of one contestant in a process of its own: the median over the steps after the warm-up."""
    resolved = plan(load_profile(profile))
    threads = {"OMP_NUM_THREADS": str(resolved.recipe.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(workdir / "inductor")}
    done = subprocess.run(
        [sys.executable, "-m", "training.bench", "--one", name, profile, workdir],
        env=os.environ | environment.OFFLINE | threads | caches,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    times: list[float] = json.loads(done.stdout.splitlines()[-1])
    return resolved.recipe.batch_tokens / statistics.median(times[WARMUP_STEPS:])


def main(arguments: list[str]) -> None:
    """Measure the contestants in turn."""
    if arguments[:1] == ["--one"]:
        name, profile, workdir = arguments[1], Path(arguments[2]), Path(arguments[3])
        times = CONTESTANTS[name](plan(load_profile(profile)), workdir)
        sys.stdout.write(json.dumps(times) + "\n")
        return
    profile = Path(arguments[0]) if arguments else data_path("templates") / "profiles" / "demo.yaml"
    repeats = int(arguments[1]) if len(arguments) > 1 else 3
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats):
            speeds = {name: round(_measure(name, profile, Path(folder))) for name in CONTESTANTS}
            ratios.append(speeds["ours"] / speeds["hf_trainer"])
            line = {"name": "training tokens/s", "repeat": repeat, **speeds, "ratio": round(ratios[-1], 3)}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
    summary = {"name": "training against the HF Trainer", "median_ratio": round(statistics.median(ratios), 3)}
    sys.stdout.write(json.dumps(summary | {"lowest": round(min(ratios), 3), "highest": round(max(ratios), 3)}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
