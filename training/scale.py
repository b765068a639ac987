"""Large plans on paper: memory against DeepSpeed's own estimates, checkpoints, and goodput by a small simulation.

    python -m training.scale [FOLDER]       prints the tables of docs/scale.md; draws goodput.png into FOLDER (docs)

Nothing here has run at such a size: it shows what the plan's formulas say and where they agree with others.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sovereign.goodput import (
    RESTART_S,
    CheckpointTimes,
    checkpoint_times,
    daly_interval_s,
    goodput,
    time_between_interruptions_s,
    young_interval_s,
)
from sovereign.hardware import GB
from sovereign.memory import model_state_bytes
from sovereign.plan import Plan, plan
from sovereign.profile import load_profile
from sovereign.resources import data_path
from training.environment import import_without

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROFILES = ("site", "nation")
_RUNS = 400
_INTERVALS_S = tuple(60 * minutes for minutes in (5, 10, 20, 40, 80, 160, 320, 640, 1280))


def simulate(
    interval_s: float, times: CheckpointTimes, between_s: float, work_s: float, *, seed: int, runs: int = _RUNS
) -> npt.NDArray[np.float64]:
    """Goodput of runs that need `work_s` of training, with interruptions drawn at random; shape [runs].

    Each run goes on from its newest stored checkpoint after an interruption, until its work is done.
    """
    random = np.random.default_rng(seed)
    done, elapsed = np.zeros(runs), np.zeros(runs)
    cycle_s, restart_s = interval_s + times.stall_s, 0.0
    while (active := done < work_s).any():
        left = work_s - done
        until_s = random.exponential(between_s, runs)
        finish_s = restart_s + left + times.stall_s * np.floor(left / interval_s)
        stored = np.maximum(0, np.floor((until_s - restart_s - times.upload_s) / cycle_s))
        finishes = until_s >= finish_s
        elapsed += np.where(active, np.minimum(until_s, finish_s), 0)
        done += np.where(active, np.where(finishes, left, np.minimum(stored * interval_s, left)), 0)
        restart_s = RESTART_S + times.restore_s
    return work_s / elapsed


def interval_s(resolved: Plan) -> float:
    """Training time between the plan's checkpoints, seconds."""
    recipe = resolved.recipe
    return recipe.checkpoint_every_steps * recipe.batch_tokens / resolved.estimates.tokens_per_s


def times_of(resolved: Plan) -> CheckpointTimes:
    """Times of one checkpoint of the plan."""
    world_size = resolved.recipe.world_size
    return checkpoint_times(resolved.num_parameters, world_size, world_size // resolved.estimates.num_nodes)


def deepspeed_state_bytes(resolved: Plan) -> int:
    """Model states of one GPU by DeepSpeed's own estimator for the plan's ZeRO stage, bytes."""
    import_without("deepspeed", "mlflow")
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    shape, nodes = resolved.model, resolved.estimates.num_nodes
    of_node = resolved.recipe.world_size // nodes
    if resolved.recipe.zero_stage == 3:
        largest = max(shape.num_layer_parameters, shape.vocab_size * shape.hidden_size)
        _, gpu, _ = estimate_zero3_model_states_mem_needs(
            resolved.num_parameters, largest, of_node, nodes, cpu_offload=False, cpu_offload_params=False
        )
    else:
        _, gpu = estimate_zero2_model_states_mem_needs(resolved.num_parameters, of_node, nodes, cpu_offload=False)
    return int(gpu)


def tables(plans: Sequence[Plan]) -> str:
    """The tables of docs/scale.md, Markdown."""
    memory = ["| profile | model | GPUs | ZeRO | states, plan | states, DeepSpeed | all, plan | usable |"]
    checkpoints = ["| profile | size | standing still | in the store after | read back | interruptions a day |"]
    intervals = ["| profile | Young | Daly | plan | goodput, formula | goodput, simulated | at 12 hours |"]
    for table in (memory, checkpoints, intervals):
        table.append("|---|" + "---:|" * (table[0].count("|") - 2))
    for one in plans:
        recipe, estimates, times = one.recipe, one.estimates, times_of(one)
        states = model_state_bytes(one.model, recipe.zero_stage, recipe.world_size, recipe.precision)
        between_s = time_between_interruptions_s(estimates.num_gpus)
        work_s, chosen_s = estimates.days * 86_400, interval_s(one)
        simulated = simulate(chosen_s, times, between_s, work_s, seed=1)
        memory.append(
            f"| {one.profile} | {one.num_parameters / 1e9:.1f}B | {estimates.num_gpus} | {recipe.zero_stage} "
            f"| {states / GB:.1f} GB | {deepspeed_state_bytes(one) / GB:.1f} GB "
            f"| {estimates.memory_per_device_gb:.0f} GB | {estimates.memory_limit_gb:.0f} GB |"
        )
        checkpoints.append(
            f"| {one.profile} | {estimates.checkpoint_gb:.0f} GB | {times.stall_s:.1f} s | {times.upload_s:.0f} s "
            f"| {times.restore_s:.0f} s | {estimates.interruptions_per_day:.3f} |"
        )
        intervals.append(
            f"| {one.profile} | {young_interval_s(times.stall_s, between_s) / 60:.0f} min "
            f"| {daly_interval_s(times.stall_s, between_s) / 60:.0f} min "
            f"| {recipe.checkpoint_every_steps} steps, {chosen_s / 60:.0f} min | {estimates.goodput:.2%} "
            f"| {simulated.mean():.2%} | {goodput(43_200, times, between_s):.1%} |"
        )
    return "\n\n".join("\n".join(table) for table in (memory, checkpoints, intervals))


def draw(plans: Sequence[Plan], path: Path) -> None:
    """Goodput over the checkpoint interval, one picture for each plan: the formula, and simulated runs around it."""
    from training.card import make_figure

    figure, axes = make_figure(len(plans))
    for axis, one in zip(axes, plans, strict=True):
        _draw_plan(axis, one)
    axes[0].legend(frameon=False, fontsize=8, loc="lower left")
    figure.savefig(path, metadata={"Software": None})


def _draw_plan(axis: Axes, one: Plan) -> None:
    times, between_s = times_of(one), time_between_interruptions_s(one.estimates.num_gpus)
    curve = np.geomspace(_INTERVALS_S[0], _INTERVALS_S[-1], 100)
    work_s = one.estimates.days * 86_400
    runs = [100 * simulate(seconds, times, between_s, work_s, seed=1) for seconds in _INTERVALS_S]
    means = [float(run.mean()) for run in runs]
    spread = np.abs(np.array([np.percentile(run, (5, 95)) for run in runs]).T - means)
    minutes = [seconds / 60 for seconds in _INTERVALS_S]
    formula = [100 * goodput(seconds, times, between_s) for seconds in curve]
    axis.plot(curve / 60, formula, color="#0072B2", label="formula")
    axis.errorbar(minutes, means, spread, fmt="o", color="#E69F00", capsize=3, label=f"{_RUNS} runs, 5 to 95%")
    axis.axvline(interval_s(one) / 60, color="#009E73", linestyle="--", label="the plan's: Daly's optimum")
    axis.set(
        xscale="log",
        xlabel="minutes of training between checkpoints",
        ylabel="goodput, %",
        title=f"{one.profile}: {one.num_parameters / 1e9:.0f}B on {one.estimates.num_gpus} GPUs",
    )


def shipped_plans() -> list[Plan]:
    """Plans of the large shipped profiles."""
    return [plan(load_profile(data_path("templates") / "profiles" / f"{name}.yaml")) for name in PROFILES]


def main(arguments: list[str]) -> None:
    """Print the tables and draw the picture."""
    plans = shipped_plans()
    draw(plans, Path(arguments[0] if arguments else "docs") / "goodput.png")
    with redirect_stdout(sys.stderr):  # DeepSpeed says there what it finds of hardware
        text = tables(plans)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
