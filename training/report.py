"""Plots of runs as PNG files, and one HTML file with them and their numbers as tables, which needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign.files import write_atomic
from sovereign.lake.plots import plot_label
from training.pages import render_page
from training.runs import Run
from training.watch_heldout import NAME as HELDOUT

_TABLE_ROWS = 12
# Okabe and Ito's colours, which people with any kind of colour vision can tell apart; dashes repeat the difference.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
_DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Figure:
    """One plot: a number of the record by step, or several that begin alike."""

    key: str
    """Name of its file."""
    title: str
    unit: str
    names: tuple[str, ...]
    """Numbers in the record; one that ends with '/' means all that begin so."""
    is_log: bool = False


FIGURES = (
    Figure("loss", "Training loss", "nats per token", ("loss",)),
    Figure("languages", "Held-out text by language", "bits per byte", (HELDOUT, f"{HELDOUT}/language/")),
    Figure("datasets", "Held-out text by dataset", "bits per byte", (f"{HELDOUT}/dataset/",)),
    Figure("gradient-norm", "Gradient norm", "before clipping", ("gradient_norm",), is_log=True),
    Figure("learning-rate", "Learning rate", "per step", ("learning_rate",)),
    Figure("speed", "Speed", "tokens/s over all ranks", ("tokens_per_s",)),
    Figure("mfu", "Model FLOP utilisation", "part of the peak", ("mfu",)),
    Figure("tflops", "Speed of a device", "TFLOP/s of the model", ("tflops_per_device",)),
    Figure("step-time", "Time of a step", "seconds", ("step_p50_s", "step_p95_s", "step_max_s"), is_log=True),
    Figure("data-wait", "Waiting for data", "seconds a step", ("data_wait_s",)),
    Figure("memory", "Memory of the largest rank", "GB", ("memory_gb", "gpu_memory_gb")),
    Figure("power", "Power of the GPUs", "watts", ("gpu_power_w",)),
    Figure("energy", "Energy so far", "kWh", ("energy_kwh",)),
    Figure("energy-of-tokens", "Energy of training", "joules per million tokens", ("joules_per_million_tokens",)),
)


@dataclass(frozen=True)
class Series:
    """One line of a plot."""

    label: str
    steps: list[int]
    values: list[float]

    @property
    def in_words(self) -> str:
        """What a person sees in the line."""
        lowest, highest = min(self.values), max(self.values)
        return (
            f"{self.label}: {self.values[0]:.4g} at step {self.steps[0]}, {self.values[-1]:.4g} at step "
            f"{self.steps[-1]}, lowest {lowest:.4g}, highest {highest:.4g}"
        )


def series_of(figure: Figure, runs: Sequence[Run]) -> list[Series]:
    """The lines of a plot; none where the runs do not have its numbers."""
    found = []
    for run in runs:
        known = sorted({name for line in run.lines for name in line})
        for pattern in figure.names:
            for name in [one for one in known if one == pattern or (pattern.endswith("/") and one.startswith(pattern))]:
                prefix = pattern if pattern.endswith("/") else HELDOUT
                part = name.removeprefix(prefix) or "all"
                label = run.name if len(figure.names) == 1 and not pattern.endswith("/") else f"{run.name} {part}"
                found.append(Series(label, *run.column(name)))
    return found


def write_report(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Write a PNG for each plot that the runs have numbers for, and report.html; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files, sections = [], []
    for figure in FIGURES:
        lines = series_of(figure, runs)
        if lines:
            path = folder / f"{figure.key}.png"
            _draw(figure, lines, [step for run in runs for step in skipped_steps(run)], path)
            files.append(path)
            sections.append(
                {
                    "title": figure.title,
                    "unit": figure.unit,
                    "image": base64.b64encode(path.read_bytes()).decode(),
                    "alt": f"{figure.title} ({figure.unit}) by step. " + ". ".join(line.in_words for line in lines),
                    "labels": [line.label for line in lines],
                    "rows": list(_rows(lines)),
                }
            )
    text = render_page("report.html", runs=runs, sections=sections, skipped=skipped_steps)
    write_atomic(folder / "report.html", text)
    return [*files, folder / "report.html"]


def skipped_steps(run: Run) -> list[int]:
    """Steps that were left out as spikes."""
    return [line["step"] for line in run.lines if line.get("is_skipped")]


def _rows(lines: Sequence[Series]) -> Iterator[tuple[int, list[str]]]:
    """Some steps, evenly spread, with the value of each line there."""
    by_step: list[dict[int, float]] = [dict(zip(line.steps, line.values, strict=True)) for line in lines]
    steps = sorted({step for values in by_step for step in values})
    count = min(_TABLE_ROWS, len(steps))
    chosen = {round(number * (len(steps) - 1) / max(1, count - 1)) for number in range(count)}
    for number in sorted(chosen):
        step = steps[number]
        yield step, [f"{values[step]:.4g}" if step in values else "" for values in by_step]


def _draw(figure: Figure, lines: Sequence[Series], skipped: Sequence[int], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(8, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(canvas)
    axis: Any = canvas.subplots()
    for number, line in enumerate(lines):
        axis.plot(
            line.steps,
            line.values,
            color=_COLOURS[number % len(_COLOURS)],
            linestyle=_DASHES[number % len(_DASHES)],  # 28 lines that differ, since 7 and 4 have no common divisor
            marker="o" if len(line.steps) < 30 else None,
            markersize=3,
            linewidth=1.4,
            label=plot_label(line.label, f"line {number + 1}"),
        )
    for step in skipped if figure.key in {"loss", "gradient-norm"} else ():
        axis.axvline(step, color="#999999", linewidth=0.8, linestyle=":")
    axis.set(
        xlabel="optimizer step", ylabel=figure.unit, title=figure.title, yscale="log" if figure.is_log else "linear"
    )
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#dddddd", linewidth=0.8)
    if len(lines) > 1:
        for text in axis.legend(frameon=False, fontsize=8).get_texts():
            text.set_parse_math(False)
    canvas.savefig(path)
