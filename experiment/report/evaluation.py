"""The output of evaluate.py other than the scoreboard."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from experiment.report import pictures, tables
from experiment.report.projector import FILES, write_projector
from experiment.report.statistics import spread
from experiment.run.folder import RunFolder

PICTURED_SCENES = 8


def draw_detections(detections: Any, path: Path) -> None:
    """Draw the true and the detected boxes of the first test scenes.

    Args:
        detections: a `targets.Detections`, with ``scenes`` and, for each test scene, ``found``.
        path: a ``.png``.
    """
    test, names = detections.scenes.test, detections.scenes.class_names
    chosen = range(min(PICTURED_SCENES, len(test)))
    pictures.boxes(
        test.images[: len(chosen)],
        [(test.boxes[i], [names[label] for label in test.labels[i]]) for i in chosen],
        [
            (found.boxes, [names[label] for label in found.labels], found.scores)
            for found in detections.found[: len(chosen)]
        ],
        path,
    )


def draw_embeddings(
    vectors: Mapping[str, np.ndarray],
    maps: Mapping[str, np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    folder: RunFolder,
) -> None:
    """Draw maps of embeddings, and write the embeddings for TensorBoard.

    Args:
        vectors: the embeddings of the images by encoder, float32 ``[N, E]``.
        maps: the embeddings' positions in the plane by encoder, float32 ``[N, 2]``.
        images: uint8 ``[N, H, W, C]``.
        labels: integers ``[N]``.
        class_names: the name of each class.
        folder: the folder to write to.
    """
    pictures.points(maps, labels, class_names, folder.output("embedding.png"))
    names = [class_names[label] for label in labels]
    write_projector(folder.directory("projector", *FILES), vectors, images, names)


class BiasEntry(TypedDict):
    """What is known about a task of a run, one value per seed; None: not finite."""

    bias: list[float | None]
    multi: list[float | None]
    single: list[float | None]


def bias_table(bias: Mapping[str, Mapping[str, BiasEntry]]) -> str:
    """A table of the bias of each task in each multi-task run, at most 80 columns wide. It shows
    long names as [1], [2], ..., which are explained first.

    Args:
        bias: by run and task: ``bias``, ``multi`` and ``single``, each with one value per seed.
    """
    about = (
        "Bias: held-out loss of a task on the encoder trained on several tasks, divided by that on "
        "the encoder trained on the task alone, minus one, with new heads on both, %."
    )
    labels = tables.labels(list(bias))
    rows = [
        {
            "encoder, task": f"{labels[name]}, {task}",  # also before columns that go on below
            "bias": _text(found["bias"], 100, sign=True),
            "loss, several": _text(found["multi"]), "loss, alone": _text(found["single"]),
        }
        for name, tasks in bias.items() for task, found in tasks.items()
    ]
    return "\n".join([
        *tables.legend(labels), "", textwrap.fill(about, tables.WIDTH), "", tables.table(rows)
    ])


def _text(values: Sequence[float | None], scale: float = 1.0, sign: bool = False) -> str:
    """Their mean and deviation, which are no numbers either where one of them is none."""
    return "-" if None in values else spread(values).text(scale, sign)
