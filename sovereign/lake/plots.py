"""Bars as PNG files, the same bytes for the same numbers: no date, no settings of the user's, one font."""

from __future__ import annotations

import io
from collections.abc import Sequence

_BLUE = "#0072B2"
_MAX_LABEL_CHARS = 30
_MAX_BARS = 20
_LATIN_END = "\u0250"


def draw_bars(title: str, unit: str, rows: Sequence[tuple[str, int]]) -> bytes:
    """A PNG with a bar for each of the first 20 (label, number), the first on top; the others are one bar.

    A label in another script than the Latin one becomes the number of its row: the font has not all letters.
    """
    shown = [(plot_label(label, f"row {number}"), value) for number, (label, value) in enumerate(rows[:_MAX_BARS], 1)]
    if rest := rows[_MAX_BARS:]:
        shown.append((f"{len(rest):,} others", sum(value for _, value in rest)))
    return _draw(title, unit, shown[::-1], is_horizontal=True)


def draw_histogram(title: str, unit: str, rows: Sequence[tuple[str, int]]) -> bytes:
    """A PNG with a column for each (label, number)."""
    return _draw(title, unit, list(rows), is_horizontal=False)


def plot_label(text: str, otherwise: str) -> str:
    """`text` as a label on one line; `otherwise` where the font has not all of its letters. Set it without math."""
    line = " ".join(text.split())
    if not line.isprintable() or any(char >= _LATIN_END for char in line):
        return otherwise
    return line if len(line) <= _MAX_LABEL_CHARS else line[: _MAX_LABEL_CHARS - 1] + "…"


def _draw(title: str, unit: str, rows: Sequence[tuple[str, int]], *, is_horizontal: bool) -> bytes:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels, values = [label for label, _ in rows], [value for _, value in rows]
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams["font.sans-serif"] = ["DejaVu Sans"]
        height = 1.1 + 0.28 * len(rows) if is_horizontal else 3.6
        figure = Figure(figsize=(7.0, height), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        axis = figure.subplots()
        places = range(len(rows))
        if is_horizontal:
            bars = axis.barh(places, values, color=_BLUE)
            axis.set_yticks(places, labels, fontsize=8, parse_math=False)
            axis.set_xlabel(unit)
        else:
            bars = axis.bar(places, values, color=_BLUE)
            axis.set_xticks(places, labels, fontsize=7, rotation=45, ha="right", parse_math=False)
            axis.set_ylabel(unit)
        axis.bar_label(bars, [f"{value:,}" for value in values], fontsize=7, padding=2)
        axis.margins(x=0.12 if is_horizontal else 0.05, y=0.05 if is_horizontal else 0.12)
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        image = io.BytesIO()
        figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()
