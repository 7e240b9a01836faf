"""Plot repeated runs: one dot per run and a bar at each group's mean."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiment.report.drawing import save
from experiment.report.statistics import spread

_DOT, _LINE, _GREY = "#1f5fa8", "#d1551b", "0.45"
_FAR = 1.5


def dots(
    groups: Mapping[str, Sequence[float]],
    path: str | os.PathLike,
    *,
    label: str,
    baseline: str | None = None,
    line: tuple[str, float] | None = None,
) -> None:
    """Draw the values of each group in its own row, with mean and deviation as text.

    Args:
        groups: the values by group name, from top to bottom. Groups may be empty.
        path: a ``.png``.
        label: a description of the values, with their unit.
        baseline: a group; its mean is drawn as a thin line through all rows.
        line: name and value of a line through all rows. If the value is so far away that it would
            hide the differences between the others, an arrow points to it instead.
    """
    figure = Figure(figsize=(8, 1.3 + 0.4 * len(groups)), layout="constrained")
    axes = figure.subplots()
    means = {name: spread(values) for name, values in groups.items()}
    if baseline in groups and groups[baseline]:
        axes.axvline(means[baseline].mean, color=_GREY, lw=0.9, ls=":", zorder=0)
    for place, (name, values) in enumerate(groups.items()):
        _row(axes, place, values, means[name].mean)
        axes.annotate(
            means[name].text(), (1.01, place), xycoords=("axes fraction", "data"), va="center",
            fontsize=9, color="0.25", annotation_clip=False,
        )
    if line is not None:
        _line(axes, *line, [value for values in groups.values() for value in values])
    if not any(groups.values()) and line is None:
        axes.set_xticks([])
    axes.set_yticks(range(len(groups)), list(groups), fontsize=9)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel(label, fontsize=9)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right", "left"]].set_visible(False)
    save(figure, path)


def _row(axes: Axes, place: int, values: Sequence[float], mean: float | None) -> None:
    """Draw the mean and the dots, slightly offset vertically to separate equal values."""
    apart = min(0.14, 0.5 / max(len(values), 1))
    heights = [place + apart * (number - (len(values) - 1) / 2) for number in range(len(values))]
    if mean is not None:
        axes.plot([mean, mean], [place - 0.32, place + 0.32], color=_DOT, lw=2.4,
                  solid_capstyle="butt")
    axes.plot(values, heights, "o", color=_DOT, alpha=0.55, ms=6, mew=0)


def _line(axes: Axes, name: str, value: float, values: Sequence[float]) -> None:
    low, high = (min(values), max(values)) if values else (value, value)
    room = _FAR * max(high - low, 1e-9 * abs(high))
    text = f"{name} {value:.2f}"
    if not values or low - room <= value <= high + room:
        axes.axvline(value, color=_LINE, ls="--", lw=1.4)
        axes.annotate(text, (value, 1), xycoords=("data", "axes fraction"), xytext=(0, 4),
                      textcoords="offset points", ha="center", fontsize=9, color=_LINE)
    else:
        right = value > high
        axes.annotate(f"{text} →" if right else f"← {text}", (1 if right else 0, 1),
                      xycoords="axes fraction", xytext=(0, 4), textcoords="offset points",
                      ha="right" if right else "left", fontsize=9, color=_LINE)
