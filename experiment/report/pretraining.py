"""The output of pretrain_tte.py other than the scoreboard."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiment.report import curves, tables
from experiment.run.folder import RunFolder


def opening(encoder: str, method: str, images: int, folder: Path, memory_bytes: int) -> str:
    """The first lines of a run's output, at most 80 columns wide unless paths are longer.

    Args:
        encoder: the encoder's name.
        method: the run's name.
        images: number of training images.
        folder: the run folder.
        memory_bytes: size of the ensemble's memory; 0 if it has none.
    """
    lines = [tables.fill(f"pre-training {encoder} with {method} on {images:,} images in {folder}")]
    if memory_bytes:
        lines.append(f"temporal memory: {memory_bytes:,} bytes")
    return "\n".join(lines)


def plan_table(
    settings: Any,
    data: Any,
    *,
    folder: str,
    encoder: str,
    tasks: Sequence[str],
    memory_bytes: int,
    workers: str | None = None,
) -> str:
    """A description of what a run would do (``--dry_run``).

    Args:
        settings: the run's settings.
        data: the images that the tasks see.
        folder: the run folder and its state.
        encoder: the encoder's name and size.
        tasks: a short description of each task.
        memory_bytes: size of the ensemble's memory; 0 if it has none.
        workers: which of several this process is; None: it is alone.
    """
    own = [f"{key}={value}" for key, value in settings.hyper_parameters.items()
           if value is not None]
    return tables.wrapped({
        "run folder": folder,
        **({"workers": workers} if workers else {}),
        "data": f"{data.name}: {len(data.train)} training images without labels, "
        f"{len(data.validation)} validation, {len(data.test)} test images "
        f"{'x'.join(map(str, data.image_shape))}",
        "encoder": encoder,
        "tasks": ", ".join(tasks),
        "balance": settings.balance,
        "regularizer": f"{settings.regularizer}, weight {settings.regularizer_weight}",
        "ensemble": settings.ensemble,
        "hyper-parameters": ", ".join(own) or "none",
        "temporal memory": f"{memory_bytes:,} bytes" if memory_bytes else "none",
        "training": settings.describe_training(),
        "target tasks": settings.targets.replace(",", ", ") or "none",
    })


def scoring(name: str) -> str:
    """The line printed before an encoder is scored."""
    return tables.fill(f"scoring {name} on target tasks")


RESULTS = {  # what is read of a summary
    **dict.fromkeys(("method", "dataset"), str),
    "held_out": dict[str, dict[str, float | None]],
    "targets": dict[str, dict[str, dict[str, float | None]]],
    "parameters": int,
    **dict.fromkeys(("images_per_second", "seconds"), float),
}


def final_table(summary: Mapping[str, Any], folder: Path) -> str:
    """A table of a finished run, without its scores.

    Args:
        summary: the run's summary.
        folder: the run folder.
    """
    metrics = {
        f"{task}, {metric}": value
        for task, found in summary["held_out"].items()
        for metric, value in found.items() if metric != "loss"
    }
    return "\n" + tables.wrapped({
        "method": summary["method"],
        "data": summary["dataset"],
        **metrics,
        "encoder's parameters": f"{summary['parameters']:,}",
        "images/s while training": summary["images_per_second"],
        "seconds of training": summary["seconds"],
        "in the run folder": str(folder),
    })


def in_short(summary: Mapping[str, Any]) -> str:
    """A short summary of a finished run."""
    metrics = summary["targets"].get(summary["method"], {}).get("classification", {})
    probe = metrics.get("linear_probe")
    return "pre-trained" if probe is None else f"linear probe {100 * probe:.2f} %"


def bias_columns(tasks: Sequence[str]) -> list[str]:
    """The columns of the history that show how the encoder is biased towards `tasks`."""
    return [
        *(f"{name}_gradient_norm" for name in tasks),
        *(f"cosine_{a}_{b}" for a, b in itertools.combinations(tasks, 2)),
        *(f"{name}_{what}" for what in ("deviation", "effective_rank") for name in tasks),
    ]


def draw_curves(
    history: Sequence[Mapping[str, Any]], metrics: Mapping[str, str], folder: RunFolder
) -> None:
    """Draw ``curves.png`` (losses, held-out metrics) and ``bias.png`` (gradients, embeddings).

    Args:
        history: the run's history, one row per epoch.
        metrics: the column of each task's held-out metric, by task.
        folder: the run folder.
    """
    losses = {f"{name}_loss": [f"{name}_loss"] for name in metrics}
    shown = {
        metric: [metric] for name, metric in metrics.items()
        if metric != f"{name}_squared_error"  # the loss itself
    }
    added = {
        "regularizer and ensemble": ["regularizer_loss", "ensemble_loss", "ensemble_distance"],
        "ensemble weight": ["ensemble_weight"],
    }
    panels = {"loss": ["loss"], **losses, **shown, **added, "learning rate": ["learning_rate"],
              "images per second": ["images_per_second"]}
    curves.draw(
        history, folder.output("curves.png"),
        {title.replace("_", " "): keys for title, keys in panels.items()},
    )
    curves.draw(history, folder.output("bias.png"), {
        "gradient norm on the encoder": [f"{name}_gradient_norm" for name in metrics],
        "cosine of gradients": [key for key in history[-1] if key.startswith("cosine_")],
        "deviation of embeddings (1: spread evenly)": [f"{name}_deviation" for name in metrics],
        "effective rank of embeddings": [f"{name}_effective_rank" for name in metrics],
    })
