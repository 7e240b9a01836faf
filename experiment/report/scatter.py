"""A picture of named points, each with its spread."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiment.report.drawing import save

_DOT, _GREY = "#1f5fa8", "0.45"
_RADIUS, _LETTER, _LINE = 5.0, 6.2, 12.0  # of a dot and of text of 8 points, in pixels


def scatter(
    points: Mapping[str, tuple[float, float, float]],
    path: str | os.PathLike,
    *,
    x_label: str,
    y_label: str,
    origin: tuple[float, float, str] | None = None,
) -> None:
    """Draw points with vertical bars of their deviations and their names beside them.

    Args:
        points: ``(x, y, deviation of y)`` by name; a deviation of 0 draws no bar.
        path: a ``.png``.
        x_label: what x is, with its unit; its scale is logarithmic.
        y_label: what y is, with its unit.
        origin: ``(x, y, name)`` of what all points are compared with; lines go through it.
    """
    figure = Figure(figsize=(8, 5.5), layout="constrained", dpi=100)
    axes = figure.subplots()
    if origin is not None:
        axes.axhline(origin[1], color=_GREY, lw=0.9, ls=":", zorder=0)
        axes.plot(*origin[:2], "o", color=_GREY, ms=6)
    for x, y, deviation in points.values():
        axes.errorbar(x, y, yerr=deviation or None, fmt="o", color=_DOT, ms=5, lw=1, capsize=2)
    axes.set_xlabel(x_label, fontsize=9)
    axes.set_ylabel(y_label, fontsize=9)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.12)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.draw_without_rendering()  # fixes the scales, in which the names are placed
    named = {name: point[:2] for name, point in points.items()}
    _write_names(axes, {origin[2]: origin[:2], **named} if origin else named)
    save(figure, path)


def _write_names(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write each name where it covers the least of the points and of the names before it."""
    dots = {name: axes.transData.transform(point) for name, point in points.items()}
    taken = [Box(x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS) for x, y in dots.values()]
    for name, (x, y) in dots.items():
        width, height = _LETTER * len(name), _LINE
        box = least_covered(places(x, y, width, height), taken)
        taken.append(box)
        moved = (box.left - x, (box.bottom + box.top) / 2 - y)
        axes.annotate(
            name, points[name], xytext=moved, textcoords="offset pixels", fontsize=8, color="0.2",
            ha="left", va="center", annotation_clip=False,
        )


class Box(NamedTuple):
    """A rectangle, in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(width, 0.0) * max(height, 0.0)


def places(x: float, y: float, width: float, height: float) -> list[Box]:
    """Where a text of this size can stand beside a point: right, left, then above and below."""
    gap = _RADIUS + 2
    lefts = (x + gap, x - gap - width)
    boxes = [Box(left, y - height / 2, left + width, y + height / 2) for left in lefts]
    for step in (1, -1, 2, -2):
        middle = y + step * height
        for left in (x + gap, x - width / 2, x - gap - width):
            boxes.append(Box(left, middle - height / 2, left + width, middle + height / 2))
    return boxes


def least_covered(boxes: Sequence[Box], taken: Sequence[Box]) -> Box:
    """The first of the boxes that overlap least with what is taken."""
    return min(boxes, key=lambda box: sum(box.overlap(other) for other in taken))
