"""Plot a run's history."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiment.report.drawing import COLOURS, save
from experiment.report.tables import columns_of, is_numeric

# With more lines, the legend goes beside the plot to avoid covering them.
_LINES_WITHIN = 4


def _panels(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """The panels' titles and the keys that each shows, with training and validation together."""
    keys = [key for key in columns_of(rows) if is_numeric(rows, key) and not key.startswith("val_")]
    shares = [key for key in keys if key.endswith("_share")]
    accuracies = [key for key in keys if key == "accuracy" or key.startswith("top")]
    losses = [key for key in keys if key in ("loss", "main_loss")]
    # Other losses differ in scale from the main loss, which would hide their changes.
    further = [key for key in keys if key.endswith("_loss") and key not in losses]
    panels = [
        ("loss", losses), ("accuracy", accuracies), ("distillation", further), ("share", shares),
        *((key.replace("_", " "), [key]) for key in ("learning_rate", "images_per_second")
          if key in keys),
    ]
    return [(title, names) for title, names in panels if names]


def _given_panels(
    rows: Sequence[Mapping[str, Any]], panels: Mapping[str, Sequence[str]]
) -> list[tuple[str, list[str]]]:
    """The requested panels that have a column in the history, with these columns."""
    known = columns_of(rows)
    found = {
        title: [key for key in keys if key in known or f"val_{key}" in known]
        for title, keys in panels.items()
    }
    return [(title, keys) for title, keys in found.items() if keys]


def _labels(keys: Sequence[str]) -> list[str]:
    """Labels that tell a panel's columns apart: their names without shared first and last words."""
    words = [key.split("_") for key in keys]
    for end in (0, -1):
        while len(words) > 1 and min(map(len, words)) > 1 and len({w[end] for w in words}) == 1:
            words = [w[1:] if end == 0 else w[:-1] for w in words]
    return [" ".join(w) for w in words]


def _draw_lines(axes: Axes, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
    epochs = [row["epoch"] for row in rows]
    # Mark the points of short lines; a single point would otherwise be invisible.
    mark = "." if len(rows) <= 30 else None
    for place, (key, label) in enumerate(zip(keys, _labels(keys), strict=True)):
        colour = COLOURS[place % len(COLOURS)]
        for name, style in ((key, "-"), (f"val_{key}", "--")):
            values = [row.get(name) for row in rows]
            if any(value is not None for value in values):
                values = [math.nan if value is None else value for value in values]
                which = label + (" (validation)" if style == "--" else "")
                axes.plot(epochs, values, style, color=colour, marker=mark, label=which, lw=1.4)


def _log_scale_helps(axes: Axes) -> bool:
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    values = values[np.isfinite(values)]
    return bool(len(values)) and values.min() > 0 and values.max() / values.min() > 30


def draw(
    history_rows: Sequence[Mapping[str, Any]],
    path: str | os.PathLike,
    panels: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Draw the history of a run.

    Args:
        history_rows: the rows of the history. Validation is dashed; stages are marked if there are
            several.
        path: a ``.png``. Nothing is written if there is nothing to draw.
        panels: the columns to draw, by panel title; missing columns are ignored. None draws losses,
            accuracies, shares (clip, dropped), learning rate and speed.
    """
    panels = _panels(history_rows) if panels is None else _given_panels(history_rows, panels)
    if not panels:
        return
    wide = 1 if len(panels) == 1 else 2
    high = math.ceil(len(panels) / wide)
    figure = Figure(figsize=(5.5 * wide, 3.3 * high), layout="constrained")
    every = figure.subplots(high, wide, squeeze=False).ravel()
    begins = [
        (row["epoch"], row["stage"])
        for before, row in zip([{}, *history_rows], history_rows, strict=False)
        if row.get("stage") and row.get("stage") != before.get("stage")
    ]
    for axes, panel in zip(every, panels, strict=False):
        _draw_panel(axes, history_rows, *panel)
        if len(begins) > 1:
            _mark_stages(axes, begins)
    for axes in every[len(panels):]:
        axes.remove()
    save(figure, path)


def _draw_panel(
    axes: Axes, rows: Sequence[Mapping[str, Any]], title: str, keys: Sequence[str]
) -> None:
    """Draw the columns `keys` of the history under their title."""
    _draw_lines(axes, rows, keys)
    stages = {row.get("stage") for row in rows} - {None, ""}
    axes.set_title(title, fontsize=11, loc="left", pad=14 if len(stages) > 1 else 6)
    axes.set_xlabel("epoch", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(rows[0]["epoch"] - 0.5, rows[-1]["epoch"] + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if title in ("loss", "distillation", "learning rate") and _log_scale_helps(axes):
        axes.set_yscale("log")
    if title == "share":
        axes.set_ylim(-0.03, 1.03)
    validated = any("(validation)" in line.get_label() for line in axes.lines)
    if len(axes.lines) > _LINES_WITHIN:
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    elif len(axes.lines) > 1 or validated or title in ("distillation", "share"):
        axes.legend(fontsize=8, frameon=False)


def _mark_stages(axes: Axes, begins: Sequence[tuple[int, str]]) -> None:
    """Draw a line with the stage's name where each stage begins."""
    for epoch, stage in begins:
        axes.axvline(epoch - 0.5, color="0.6", lw=0.8, ls=":")
        axes.annotate(
            stage, (epoch - 0.5, 1), xycoords=("data", "axes fraction"), fontsize=7,
            color="0.4", xytext=(2, 1), textcoords="offset points",
        )
