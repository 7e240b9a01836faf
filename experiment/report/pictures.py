"""Pictures of target tasks' results: bars of metrics, boxes in scenes, maps of embeddings."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from experiment.report.drawing import COLOURS, save
from experiment.report.statistics import spread

_TRUTH, _FOUND = "#39d353", "#ff8c1a"
_SURE = 0.3
_BAR, _WIDEST = 0.28, 15.0  # inches
_LETTERS_PER_INCH = 13  # in the text of a legend


def bars(
    panels: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]], path: str | os.PathLike
) -> None:
    """Draw metrics as bars with their deviations, one panel per group of metrics.

    The panels are side by side if they fit, else one below the other.

    Args:
        panels: the values of all seeds, in 0..1, by panel title, metric and compared item. An item
            without values gets no bar.
        path: a ``.png``.
    """
    compared = list(dict.fromkeys(
        name for metrics in panels.values() for rows in metrics.values() for name in rows
    ))
    widths = [max(1, len(metrics)) for metrics in panels.values()]
    group = _BAR * (len(compared) + 1.5)
    in_a_row = 2.0 + group * sum(widths)
    if in_a_row <= _WIDEST:
        figure = Figure(figsize=(in_a_row, 3.6), layout="constrained")
        every = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
    else:
        size = (min(_WIDEST, 2.0 + group * max(widths)), 3.0 * len(panels) + 0.6)
        figure = Figure(figsize=size, layout="constrained")
        every = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axes, (title, metrics) in zip(every, panels.items(), strict=True):
        _bar_groups(axes, metrics, compared)
        axes.set_title(title, fontsize=11, loc="left")
    _legend_that_fits(figure, *every[0].get_legend_handles_labels())
    save(figure, path)


def _legend_that_fits(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """Add a legend below the panels, in as many columns as fit. Long names are wrapped."""
    letters = int(figure.get_figwidth() * _LETTERS_PER_INCH)
    labels = [textwrap.fill(label, letters) for label in labels]
    for columns in range(min(4, len(labels)), 0, -1):
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns,
                               fontsize=8, frameon=False)
        figure.draw_without_rendering()
        if legend.get_window_extent().width <= figure.bbox.width or columns == 1:
            return
        legend.remove()


def _bar_groups(
    axes: Axes, metrics: Mapping[str, Mapping[str, Sequence[float]]], compared: Sequence[str]
) -> None:
    wide = 0.8 / len(compared)
    for place, name in enumerate(compared):
        spreads = [spread(rows.get(name, ())) for rows in metrics.values()]
        at = np.arange(len(spreads)) + wide * (place - (len(compared) - 1) / 2)
        heights = [math.nan if each.mean is None else each.mean for each in spreads]
        errors = [each.deviation or 0.0 for each in spreads]
        axes.bar(at, heights, 0.92 * wide, yerr=errors, label=name, ecolor="0.25",
                 color=COLOURS[place % len(COLOURS)], error_kw={"lw": 1})
    axes.set_xticks(range(len(metrics)), list(metrics), fontsize=8)
    axes.set_ylim(0, min(1.02, axes.get_ylim()[1]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.tick_params(axis="y", labelsize=8)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def boxes(
    images: np.ndarray,
    truth: Sequence[tuple[np.ndarray, Sequence[str]]],
    found: Sequence[tuple[np.ndarray, Sequence[str], np.ndarray]],
    path: str | os.PathLike,
    columns: int = 4,
) -> None:
    """Draw images with true boxes (thin, green) and detected boxes (orange, with class and score).

    Args:
        images: uint8 [N,H,W,3].
        truth: for each image, boxes [n,4] (left, top, right, bottom, in pixels) and class names.
        found: for each image, boxes, class names and scores in 0..1. Boxes with a score below 0.3
            are not drawn.
        path: a ``.png``.
        columns: images per row.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height, width = images.shape[1:3]
    figure = Figure(figsize=(3 * columns, 3 * rows * height / width), layout="constrained")
    every = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, image, true, sure in zip(every, images, truth, found, strict=False):
        axes.imshow(image, interpolation="nearest")
        for box, _ in zip(*true, strict=True):
            _frame(axes, box, _TRUTH, 1.0)
        for box, name, score in zip(*sure, strict=True):
            if score >= _SURE:
                _frame(axes, box, _FOUND, 1.6)
                axes.text(box[0], box[1], f"{name} {score:.2f}", fontsize=6, color="white",
                          va="bottom", clip_on=True,
                          bbox={"facecolor": _FOUND, "edgecolor": "none", "pad": 0.6})
    for axes in every:
        axes.set_axis_off()
    figure.suptitle(f"green: truth, orange: found (score of at least {_SURE})", fontsize=9)
    save(figure, path)


def _frame(axes: Axes, box: np.ndarray, colour: str, width: float) -> None:
    left, top, right, bottom = box
    # Matplotlib draws pixel 0 from -0.5 to 0.5.
    axes.add_patch(Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False,
                             edgecolor=colour, linewidth=width))


def points(
    maps: Mapping[str, np.ndarray],
    labels: np.ndarray,
    class_names: Sequence[str],
    path: str | os.PathLike,
    most_named: int = 10,
) -> None:
    """Draw maps of the same images side by side, coloured by class.

    Args:
        maps: float [N,2] by title.
        labels: integers [N].
        class_names: the name of each class.
        path: a ``.png``.
        most_named: with more classes than this, there is no legend. Colours repeat after 12.
    """
    figure = Figure(figsize=(4.2 * len(maps), 4.4), layout="constrained")
    colours = np.array(COLOURS)[labels % len(COLOURS)]
    for axes, (title, places) in zip(
        figure.subplots(1, len(maps), squeeze=False)[0], maps.items(), strict=True
    ):
        axes.scatter(*places.T, s=9, c=colours, linewidths=0, alpha=0.85)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_aspect("equal", "datalim")
        axes.spines[:].set_color("0.8")
    present = np.unique(labels)
    if len(present) <= most_named:
        marks = [
            figure.axes[0].scatter([], [], s=20, c=COLOURS[label % len(COLOURS)], linewidths=0)
            for label in present
        ]
        figure.legend(marks, [class_names[label] for label in present], fontsize=8, frameon=False,
                      loc="outside lower center", ncols=len(present))
    save(figure, path)
