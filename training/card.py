"""The model card: README.md as model hubs read it (front matter, then Markdown), with two plots.

The text is templates/training/card.md.j2; here are only the numbers that it shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sovereign.display import spell
from sovereign.files import write_atomic
from sovereign.lake.plots import plot_label
from sovereign.plan import Plan
from sovereign.profile import Profile
from sovereign.receipts import Receipt
from training.pages import render_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart; hatches repeat the difference.
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#E69F00", "#009E73", "#999999"
_MEASURES = (
    ("untrained", "before training", _GREY, "//"),
    ("unigram", "token unigram", _ORANGE, ".."),
    ("xz", "xz -9", _GREEN, "xx"),
    ("model", "this model", _BLUE, ""),
)


def write_card(
    folder: Path,
    profile: Profile,
    plan: Plan,
    evaluation: Mapping[str, Any],
    receipts: Mapping[str, Receipt],
    history: Sequence[Mapping[str, Any]],
) -> None:
    """Write README.md, loss.png and languages.png into `folder`.

    Args:
        evaluation: content of evaluation.json.
        receipts: receipts of the stages, by name; `corpus`, `curate`, `tokenize` and `train` must be there.
        history: lines of training's metrics.jsonl; those with `step` and `loss` are drawn.

    Raises:
        TrainingError: the template asks for a number that is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _plot_loss(history, folder / "loss.png")
    _plot_languages(evaluation, folder / "languages.png")
    text = render_page(
        "card.md",
        front_matter=yaml.safe_dump(_front_matter(profile, evaluation, receipts), allow_unicode=True, sort_keys=False),
        profile=profile,
        plan=plan,
        evaluation=evaluation,
        data=receipts["curate"].metrics["train"],
        tokenizer=receipts["tokenize"].metrics["tokenizer"],
        mix=receipts["tokenize"].metrics["mix"],
        receipts=receipts,
        train=receipts["train"].metrics,
        curve=_curve(history),
    )
    write_atomic(folder / "README.md", text)


def _front_matter(profile: Profile, evaluation: Mapping[str, Any], receipts: Mapping[str, Receipt]) -> dict[str, Any]:
    """What hubs index: https://huggingface.co/docs/hub/model-cards#model-card-metadata."""
    licences = sorted(receipts["curate"].metrics["train"]["documents_by_licence"])
    rows, questions = evaluation["bits_per_byte"]["by_language"], evaluation["questions"]["by_language"]
    results = [
        _result(f"held-out documents, {spell(language)}", "text-generation", "bits_per_byte", row["model"])
        for language, row in rows.items()
    ] + [
        _result(
            f"held-out questions, {spell(language)}", "question-answering", "exact_match", scores["heldout"]["accuracy"]
        )
        for language, scores in questions.items()
        if "heldout" in scores
    ]
    return {
        "language": [spell(language) for language in sorted(rows)],
        "license": "other",
        "license_name": spell(" ".join(" AND ".join(licences).split())),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["sovereign-ai", "pretrained"],
        "model-index": [{"name": profile.name, "results": results}],
    }


def _result(dataset: str, task: str, metric: str, value: float) -> dict[str, Any]:
    return {
        "task": {"type": task},
        "dataset": {"type": "private", "name": dataset},
        "metrics": [{"type": metric, "value": value}],
    }


def _curve(history: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """(step, loss) of the lines that have both."""
    return [(int(line["step"]), float(line["loss"])) for line in history if "step" in line and "loss" in line]


def make_figure(num_columns: int) -> tuple[Figure, Sequence[Axes]]:
    """A figure with axes side by side, without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * num_columns, 3.8), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, num_columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#dddddd", linewidth=0.8)
        axis.set_axisbelow(True)
    return figure, axes


def _plot_loss(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss over steps."""
    curve = _curve(history)
    figure, (axis,) = make_figure(1)
    axis.plot([step for step, _ in curve], [loss for _, loss in curve], color=_BLUE, linewidth=1.6)
    axis.set(xlabel="optimizer step", ylabel="training loss (nats per token)", title="Training loss", ylim=(0, None))
    if curve:
        axis.annotate(f"{curve[-1][1]:.2f}", curve[-1], textcoords="offset points", xytext=(0, 8), ha="right")
    figure.savefig(path)


def _plot_languages(evaluation: Mapping[str, Any], path: Path) -> None:
    """Bits per byte and, where there are questions, accuracy: bars by language."""
    rows, questions = evaluation["bits_per_byte"]["by_language"], evaluation["questions"]["by_language"]
    figure, axes = make_figure(2 if questions else 1)
    measures = [measure for measure in _MEASURES if measure[0] in next(iter(rows.values()))]
    bars = [
        (label, colour, hatch, {lang: row[name] for lang, row in rows.items()})
        for name, label, colour, hatch in measures
    ]
    _draw_bars(axes[0], bars, "{:.2f}")
    axes[0].set(ylabel="bits per byte (lower is better)", title="Held-out documents")
    if questions:
        bars = [
            (label, colour, hatch, {lang: 100 * s[split]["accuracy"] for lang, s in questions.items() if split in s})
            for split, label, colour, hatch in (
                ("trained", "asked as in training", _GREY, "//"),
                ("heldout", "asked in a new way", _BLUE, ""),
            )
        ]
        _draw_bars(axes[1], bars, "{:.0f}")
        axes[1].set(ylabel="exact answers, %", title="Questions", ylim=(0, 112), yticks=range(0, 101, 20))
    figure.savefig(path)


def _draw_bars(axis: Axes, groups: Sequence[tuple[str, str, str, Mapping[str, float]]], form: str) -> None:
    """Bars in groups by language, each with its number; `groups` has (label, colour, hatch, value by language)."""
    languages = list(groups[-1][3])
    width = 0.8 / len(groups)
    for place, (label, colour, hatch, values) in enumerate(groups):
        shown = [language for language in languages if language in values]
        positions = [languages.index(language) + (place - (len(groups) - 1) / 2) * width for language in shown]
        heights = [values[language] for language in shown]
        drawn = axis.bar(positions, heights, width * 0.94, label=label, color=colour, hatch=hatch, edgecolor="white")
        axis.bar_label(drawn, [form.format(height) for height in heights], fontsize=7, padding=1)
    labels = [plot_label(language, f"row {number}") for number, language in enumerate(languages, 1)]
    axis.set_xticks(range(len(languages)), labels, parse_math=False)
    axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=len(groups))
