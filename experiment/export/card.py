"""The card of a trained network: what each of its files costs, and how well it does."""

from __future__ import annotations

import dataclasses
import os
import platform
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiment.export.measurement import SIZES, Measured, all_threads
from experiment.report.drawing import COLOURS, save
from experiment.report.tables import WIDTH, markdown_table, table
from experiment.run.folder import RunFolder, write_json, write_text

NAMES = ("card.md", "card.json", "card.png")


@dataclasses.dataclass(frozen=True)
class Row:
    """A network or a file of it.

    Attributes:
        name: ``teacher``, ``student`` or a format.
        file: its file in the run folder; None: it is no file there.
        top1: share of the images that it classifies right; None: it has other classes, or could not
            be written.
        agreement: share of the images that it puts into the class of `compared_with`; None as
            above.
        difference: the largest difference of a probability from that network's; None as above.
        bytes: of the file; None: it could not be written.
        parameters: of the network, batch statistics included.
        multiply_adds: of convolutions and matrix products, for one image; None: their number is not
            fixed.
        milliseconds: by (images at a time, threads); empty: the network is not to be run so.
        failure: why there is no such file, to be read after its name; None: there is one.
        compared_with: ``"student"``, or ``"quantized"`` where that is what the file is made of.
        is_earlier: whether the file that is there is that of an earlier export.
    """

    name: str
    file: str | None
    top1: float | None
    agreement: float | None
    difference: float | None
    bytes: int | None
    parameters: int
    multiply_adds: int | None
    milliseconds: dict[tuple[int, int], float]
    failure: str | None = None
    compared_with: str = "student"
    is_earlier: bool = False

    def shown(self) -> dict[str, Any]:
        """A row of the table."""
        fallen = " (failed)" if self.failure else ""
        return {
            "": self.name + fallen,
            "top-1 %": _percent(self.top1),
            "agreement %": _percent(self.agreement),
            "KB": None if self.bytes is None else f"{self.bytes / 1000:,.0f}",
            "parameters": f"{self.parameters:,}",
            "multiply-adds": None if self.multiply_adds is None else f"{self.multiply_adds:,}",
            **{
                f"ms, {_images(size)}, {_threads(threads)}": _milliseconds(value)
                for (size, threads), value in sorted(self.milliseconds.items())
            },
        }

    def stated(self) -> dict[str, Any]:
        """The same in units of its own, for ``card.json``."""
        facts = {key: value for key, value in vars(self).items() if key != "milliseconds"}
        times = [
            {"images": size, "threads": threads, "milliseconds": value}
            for (size, threads), value in sorted(self.milliseconds.items())
        ]
        return {**facts, "times": times}


def compare(
    found: Measured, student: np.ndarray, labels: np.ndarray
) -> tuple[float | None, float | None, float | None]:
    """Top-1, agreement and largest difference of what a file answers.

    Args:
        found: of the file.
        student: the student's probabilities ``[N, classes]``.
        labels: classes ``[N]``, int.

    Returns:
        In 0..1 each; None where the file has other classes.
    """
    if found.probabilities.shape != student.shape:
        return None, None, None
    classes = found.probabilities.argmax(axis=1)
    # What is not a number is not the same class.
    finite = np.isfinite(found.probabilities).all(axis=1)
    difference = np.abs(found.probabilities - student).max()
    return (
        float(np.mean(finite & (classes == labels))),
        float(np.mean(finite & (classes == student.argmax(axis=1)))),
        float(np.nan_to_num(difference, nan=np.inf)),
    )


def conditions(images: int) -> dict[str, Any]:
    """What was measured where."""
    return {
        "images": images,
        "processor": _processor(),
        "threads": all_threads(),
        "python": platform.python_version(),
    }


def write_card(
    title: str, rows: Sequence[Row], facts: dict[str, Any], folder: RunFolder
) -> None:
    """Write ``card.md``, ``card.json`` and ``card.png`` into an open run folder.

    Args:
        title: of the run.
        rows: the networks and files.
        facts: of `conditions`.
    """
    text, data, picture = map(folder.output, NAMES)
    write_text(text, markdown(title, rows, facts))
    write_json(data, {"title": title, **facts, "rows": [row.stated() for row in rows]})
    draw(rows, picture)


def markdown(title: str, rows: Sequence[Row], facts: dict[str, Any]) -> str:
    """The card as Markdown."""
    cells = markdown_table([row.shown() for row in rows])
    failures = [
        f"{row.name} failed{'' if row.is_earlier else ' and is not kept'}: it {row.failure}."
        for row in rows if row.failure
    ]
    return "\n\n".join([f"# {title}", cells, *failures, about(rows, facts)]) + "\n"


def terminal_text(rows: Sequence[Row], facts: dict[str, Any]) -> str:
    """The card for a terminal of 80 columns."""
    return f"{table([row.shown() for row in rows])}\n\n{textwrap.fill(about(rows, facts), WIDTH)}"


def about(rows: Sequence[Row], facts: dict[str, Any]) -> str:
    """What the columns are."""
    others = [
        row.name for row in rows if row.compared_with != "student" and row.bytes is not None
    ]
    besides = (
        " Quantized is the student's copy from quantisation-aware training, which simulates int8; "
        f"{', '.join(others)} is compared with it." if others else ""
    )
    return (
        f"Top-1 and agreement with the student on {facts['images']:,} test images.{besides} "
        "Parameters include batch statistics; multiply-adds are those of convolutions and matrix "
        "products for one image. Times are medians with the preprocessing, "
        f"on {facts['processor']}."
    )


def draw(rows: Sequence[Row], path: str | os.PathLike) -> None:
    """Bars of top-1, agreement, size, and time for one image on one thread."""
    columns = {
        "top-1, %": [_times(100, row.top1) for row in rows],
        "agreement with\nthe student, %": [_times(100, row.agreement) for row in rows],
        "size, MB": [_times(1e-6, row.bytes) for row in rows],
        **{
            f"{_images(size)} on\none thread, ms": [row.milliseconds.get((size, 1)) for row in rows]
            for size in SIZES
        },
    }
    figure = Figure(figsize=(11, 1.4 + 0.42 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True)
    for axes, (title, values) in zip(panels, columns.items(), strict=True):
        _bars(axes, title, values)
    panels[0].set_yticks(range(len(rows)), [row.name for row in rows], fontsize=9)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    save(figure, path)


def _bars(axes: Any, title: str, values: Sequence[float | None]) -> None:
    known = [value for value in values if value is not None]
    axes.barh(range(len(values)), [value or 0 for value in values], height=0.62, color=COLOURS[0])
    for place, value in enumerate(values):
        text = "-" if value is None else f"{value:.3g}" if value < 10 else f"{value:.1f}"
        axes.annotate(text, (value or 0, place), xytext=(3, 0), textcoords="offset points",
                      va="center", fontsize=8, color="0.25")
    axes.set_xlim(0, 1.3 * max(known, default=1) or 1)
    axes.set_title(title, fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(file.stat().st_size for file in files)


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.2f}"


def _milliseconds(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _images(size: int) -> str:
    return "1 image" if size == 1 else f"{size} images"


def _threads(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def _processor() -> str:
    """The processor's name, or at least its kind."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
