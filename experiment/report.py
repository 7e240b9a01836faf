"""What a person reads at the end: tables for the terminal and for Markdown, and pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiment.folder import replacing

WIDTH = 80
_GAP = "  "


def _text(value: Any) -> str:
    """A cell. Numbers to four significant digits; nothing known is ``-``."""
    if value is None:
        return "-"
    if isinstance(value, (float, np.floating)):
        if not math.isfinite(value):
            return str(value)
        return f"{value:.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(entry) for entry in value)
    return str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _numeric(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    """Whether a column has numbers only: those are written to the right."""
    values = [row[column] for row in rows if row.get(column) is not None]
    return bool(values) and all(_is_number(value) for value in values)


def _block(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    texts = {column: [_text(row.get(column)) for row in rows] for column in columns}
    widths = {column: max(map(len, [column, *texts[column]])) for column in columns}
    right = {column: _numeric(rows, column) for column in columns}

    def line(cells: Sequence[str]) -> str:
        return _GAP.join(
            cell.rjust(widths[column]) if right[column] else cell.ljust(widths[column])
            for column, cell in zip(columns, cells, strict=True)
        ).rstrip()

    rule = _GAP.join("-" * widths[column] for column in columns)
    body = [line([texts[column][place] for column in columns]) for place in range(len(rows))]
    return "\n".join([line(columns), rule, *body])


def _blocks(rows: Sequence[Mapping[str, Any]], columns: list[str]) -> list[list[str]]:
    """`columns` in groups that fit the width, each with the first column."""
    widths = {
        column: max(len(column), *(len(_text(row.get(column))) for row in rows))
        for column in columns
    }
    first, *others = columns
    groups = [[first]]
    room = WIDTH - widths[first]
    for column in others:
        need = len(_GAP) + widths[column]
        if need > room and len(groups[-1]) > 1:
            groups.append([first])
            room = WIDTH - widths[first]
        groups[-1].append(column)
        room -= need
    return groups


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A plain text table for a terminal of 80 columns.

    Args:
        rows: a dict a row; columns in order of first appearance. One row alone becomes a list of
            ``name  value``. Columns that do not fit go below, with the first one again.
    """
    if not rows:
        return ""
    columns = _columns(rows)
    if len(rows) == 1:
        width = max(map(len, columns))
        return "\n".join(f"{name.ljust(width)}{_GAP}{_text(rows[0][name])}" for name in columns)
    return "\n\n".join(_block(rows, group) for group in _blocks(rows, columns))


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The same as a table in Markdown, of any width."""
    if not rows:
        return ""
    columns = _columns(rows)

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = ["---:" if _numeric(rows, column) else "---" for column in columns]
    return "\n".join(
        [line(columns), line(rule)]
        + [line([_text(row.get(column)) for column in columns]) for row in rows]
    )


def _save(figure: Figure, path: str | os.PathLike) -> None:
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110)


_COLOURS = ("#1f5fa8", "#d1551b", "#2c8a4b", "#8b4fa3", "#b8860b", "#5b5b5b", "#c23b67", "#0f8b8d")


# With more lines, the legend would lie over them.
_LINES_WITHIN = 4


def _panels(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Titles of the panels with the keys that each shows; validation goes with training."""
    keys = [key for key in _columns(rows) if _numeric(rows, key) and not key.startswith("val_")]
    shares = [key for key in keys if key.endswith("_share")]
    accuracies = [key for key in keys if key == "accuracy" or key.startswith("top")]
    losses = [key for key in keys if key in ("loss", "main_loss")]
    # Of another size than the main loss, next to which its changes would not be seen.
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
    """Of the panels asked for those that have a column, with the columns that there are."""
    known = _columns(rows)
    found = {
        title: [key for key in keys if key in known or f"val_{key}" in known]
        for title, keys in panels.items()
    }
    return [(title, keys) for title, keys in found.items() if keys]


def _labels(keys: Sequence[str]) -> list[str]:
    """What tells the columns of a panel apart: their names without the words that all begin or end
    with, which its title has."""
    words = [key.split("_") for key in keys]
    for end in (0, -1):
        while len(words) > 1 and min(map(len, words)) > 1 and len({w[end] for w in words}) == 1:
            words = [w[1:] if end == 0 else w[:-1] for w in words]
    return [" ".join(w) for w in words]


def _draw(axes: Axes, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
    epochs = [row["epoch"] for row in rows]
    # Points are drawn where a line has few of them, and one alone would not be seen.
    mark = "." if len(rows) <= 30 else None
    for place, (key, label) in enumerate(zip(keys, _labels(keys), strict=True)):
        colour = _COLOURS[place % len(_COLOURS)]
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


def curves(
    history_rows: Sequence[Mapping[str, Any]],
    path: str | os.PathLike,
    panels: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Draw the history of a run.

    Args:
        history_rows: as of `training.fit`; validation is dashed, stages are marked where there are
            several.
        path: a ``.png``; nothing is written where `history_rows` is empty.
        panels: the columns to draw, by the title of their panel; of those that are not there none
            is drawn. None: losses, accuracies, shares (clip, dropped), learning rate, speed.
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
    for axes, (title, keys) in zip(every, panels, strict=False):
        _draw(axes, history_rows, keys)
        axes.set_title(title, fontsize=11, loc="left", pad=14 if len(begins) > 1 else 6)
        axes.set_xlabel("epoch", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(history_rows[0]["epoch"] - 0.5, history_rows[-1]["epoch"] + 0.5)
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
        if len(begins) > 1:
            for epoch, stage in begins:
                axes.axvline(epoch - 0.5, color="0.6", lw=0.8, ls=":")
                axes.annotate(
                    stage, (epoch - 0.5, 1), xycoords=("data", "axes fraction"), fontsize=7,
                    color="0.4", xytext=(2, 1), textcoords="offset points",
                )
    for axes in every[len(panels):]:
        axes.remove()
    _save(figure, path)


def vector_maps(
    images: np.ndarray,
    teacher_maps: Sequence[Sequence[np.ndarray]],
    student_maps: Sequence[Sequence[np.ndarray]],
    path: str | os.PathLike,
    titles: Sequence[str] | None = None,
) -> None:
    """Draw spatial maps of teacher and student side by side, an image a row, a tap a pair.

    Each map has its own colour range, symmetric about zero (white), so that singular vectors of
    taps of different size can be compared by form.

    Args:
        images: uint8 [images, H, W, C], C 1 or 3.
        teacher_maps: ``teacher_maps[image][tap]`` float [h, w], any sizes.
        student_maps: likewise, as many taps.
        path: a ``.png``.
        titles: names of the taps; numbered where None.
    """
    taps = len(teacher_maps[0])
    if not len(images) == len(teacher_maps) == len(student_maps) or len(student_maps[0]) != taps:
        raise ValueError(
            f"{len(images)} images, maps of {len(teacher_maps)} and {len(student_maps)} with "
            f"{taps} and {len(student_maps[0])} taps; expected as many"
        )
    titles = titles or [f"tap {tap + 1}" for tap in range(taps)]
    # A narrow empty column keeps the pairs apart.
    ratios = [1.0, *(ratio for _ in range(taps) for ratio in (0.12, 1.0, 1.0))]
    figure = Figure(
        figsize=(1.15 * sum(ratios) + 0.2, 1.2 * len(images) + 0.6), facecolor="white"
    )
    grid = figure.add_gridspec(
        len(images), len(ratios), width_ratios=ratios, wspace=0.06, hspace=0.06,
        left=0.01, right=0.99, bottom=0.02, top=1 - 0.5 / (1.2 * len(images) + 0.6),
    )

    def show(row: int, column: int, picture: np.ndarray, **options: Any) -> Axes:
        axes = figure.add_subplot(grid[row, column])
        axes.imshow(picture, interpolation="nearest", **options)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color("0.7")
        return axes

    for row, image in enumerate(np.asarray(images)):
        first = show(row, 0, image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray")
        if row == 0:
            first.set_title("image", fontsize=8, pad=4)
        for tap in range(taps):
            pair = (("teacher", teacher_maps[row][tap]), ("student", student_maps[row][tap]))
            for place, (who, values) in enumerate(pair):
                limit = float(np.max(np.abs(values))) or 1.0
                axes = show(row, 2 + 3 * tap + place, values, cmap="RdBu_r", vmin=-limit,
                            vmax=limit)
                if row == 0:
                    axes.set_title(who, fontsize=8, pad=4)
                    if place == 0:
                        axes.annotate(
                            titles[tap], (1.03, 1), xycoords="axes fraction", fontsize=9,
                            xytext=(0, 18), textcoords="offset points", ha="center",
                            fontweight="bold",
                        )
    _save(figure, path)
