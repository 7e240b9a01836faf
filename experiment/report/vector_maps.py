"""Draw spatial maps of teacher and student side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec, SubplotSpec

from experiment.report.drawing import save


def draw(
    images: np.ndarray,
    teacher_maps: Sequence[Sequence[np.ndarray]],
    student_maps: Sequence[Sequence[np.ndarray]],
    path: str | os.PathLike,
    titles: Sequence[str] | None = None,
) -> None:
    """Draw spatial maps of teacher and student side by side: one row per image, a pair per tap.

    Each map has its own colour range, symmetric about zero (white), so the shapes of singular
    vectors can be compared even if taps differ in scale.

    Args:
        images: uint8 [images, H, W, C], C 1 or 3.
        teacher_maps: ``teacher_maps[image][tap]``, float [h, w] of any size.
        student_maps: the same for the student, with as many taps.
        path: a ``.png``.
        titles: names of the taps; None numbers them.

    Raises:
        ValueError: different numbers of images or taps.
    """
    taps = len(teacher_maps[0])
    if not len(images) == len(teacher_maps) == len(student_maps) or len(student_maps[0]) != taps:
        raise ValueError(
            f"{len(images)} images, maps of {len(teacher_maps)} and {len(student_maps)} with "
            f"{taps} and {len(student_maps[0])} taps; expected equal numbers"
        )
    titles = titles or [f"tap {tap + 1}" for tap in range(taps)]
    figure, grid = _empty(len(images), taps)
    for row, image in enumerate(np.asarray(images)):
        first = _show(
            figure, grid[row, 0], image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray"
        )
        if row == 0:
            first.set_title("image", fontsize=8, pad=4)
        for tap in range(taps):
            pair = (("teacher", teacher_maps[row][tap]), ("student", student_maps[row][tap]))
            for place, (role, values) in enumerate(pair):
                axes = _show_map(figure, grid[row, 2 + 3 * tap + place], values)
                if row == 0:
                    axes.set_title(role, fontsize=8, pad=4)
                    if place == 0:
                        _name_pair(axes, titles[tap])
    save(figure, path)


def _empty(rows: int, taps: int) -> tuple[Figure, GridSpec]:
    """A figure with a grid for images and taps. A narrow empty column separates the pairs."""
    ratios = [1.0, *(ratio for _ in range(taps) for ratio in (0.12, 1.0, 1.0))]
    figure = Figure(figsize=(1.15 * sum(ratios) + 0.2, 1.2 * rows + 0.6), facecolor="white")
    return figure, figure.add_gridspec(
        rows, len(ratios), width_ratios=ratios, wspace=0.06, hspace=0.06,
        left=0.01, right=0.99, bottom=0.02, top=1 - 0.5 / (1.2 * rows + 0.6),
    )


def _show(figure: Figure, place: SubplotSpec, picture: np.ndarray, **options: Any) -> Axes:
    axes = figure.add_subplot(place)
    axes.imshow(picture, interpolation="nearest", **options)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("0.7")
    return axes


def _show_map(figure: Figure, place: SubplotSpec, values: np.ndarray) -> Axes:
    """Show a map in colours centred at zero, which is white."""
    limit = float(np.max(np.abs(values))) or 1.0
    return _show(figure, place, values, cmap="RdBu_r", vmin=-limit, vmax=limit)


def _name_pair(axes: Axes, title: str) -> None:
    """Write a title over a pair of maps; `axes` contains the left map."""
    axes.annotate(
        title, (1.03, 1), xycoords="axes fraction", fontsize=9, xytext=(0, 18),
        textcoords="offset points", ha="center", fontweight="bold",
    )
