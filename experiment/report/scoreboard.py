"""Encoders side by side by what the target tasks say of them: over seeds, in tables, in ranks."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import rankdata

from experiment.report import pictures, tables
from experiment.report.statistics import spread

TARGETS = ("classification", "detection", "clustering")

# Figures by target, of one seed.
Figures = dict[str, dict[str, float]]
# By encoder, for each seed.
Scores = dict[str, list[Figures]]
# By encoder, target and figure: mean, deviation, values.
Summary = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]

# What of the figures is shown: title of the column by target and figure.
SHOWN = {
    "classification": {
        "linear_probe": "linear probe", "knn": "k-NN", "fine_tuning_1": "tuned, 1 %",
        "fine_tuning_10": "tuned, 10 %", "fine_tuning_100": "tuned, 100 %",
    },
    "detection": {"map_50": "mAP@0.5", "map": "COCO mAP"},
    "clustering": {
        "nmi": "NMI", "ari": "ARI", "accuracy": "accuracy", "recall_1": "R@1",
        "unseen_nmi": "unseen NMI", "unseen_recall_1": "unseen R@1",
        "unseen_tuned_nmi": "tuned, unseen NMI",
        "unseen_tuned_recall_1": "tuned, unseen R@1",
    },
}
# The main figures, by which encoders are ranked.
RANKED = {
    "classification": ("linear_probe", "fine_tuning_1", "fine_tuning_10"),
    "detection": ("map_50",),
    "clustering": ("nmi", "recall_1", "unseen_nmi", "unseen_recall_1"),
}
EXPLANATION = {
    "classification": "Top-1 on the test images",
    "detection": "Mean average precision of a light detector on the encoder",
    "clustering": "k-means and nearest neighbours on the test images; unseen: the second half of "
    "the classes",
}
# What of it is there on request alone.
TUNED = {
    "classification": "tuned: the whole encoder on so many of the labels",
    "clustering": "tuned: these after metric fine-tuning on the first half",
}
# Figures that differ by less are equal: nothing is measured as exactly as a sum is rounded.
_EQUAL = 1e-9


def summarized(scores: Scores) -> dict[str, dict[str, dict[str, Any]]]:
    """By encoder, target and figure: ``mean``, ``deviation`` (None of one seed) and ``values``."""
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for name, seeds in scores.items():
        summary[name] = {
            target: {
                figure: {"values": [each[target][figure] for each in seeds]}
                for figure in figures
            }
            for target, figures in seeds[0].items()
        }
        for figures in summary[name].values():
            for entry in figures.values():
                found = spread(entry["values"])
                entry.update(mean=found.mean, deviation=found.deviation)
    return summary


def mean_ranks(summary: Summary) -> dict[str, dict[str, float]]:
    """The ranks of encoders within each target and, as ``"mean"``, over all of them.

    Encoders are ranked by the mean over the seeds of each of a target's main figures (`RANKED`, as
    far as any encoder has them), the largest first; equal ones share their places. The figures of a
    target count alike, and so do the targets.

    Returns:
        ``{encoder: {target: rank, ..., "mean": rank}}``, of the encoders that have all these
        figures (raw pixels cannot be tuned); nothing of fewer than two.
    """
    figures = {
        target: [each for each in RANKED[target]
                 if any(each in encoder.get(target, {}) for encoder in summary.values())]
        for target in TARGETS
    }
    figures = {target: names for target, names in figures.items() if names}
    ranked = [
        name for name, encoder in summary.items()
        if all(set(names) <= set(encoder.get(target, {})) for target, names in figures.items())
    ]
    if len(ranked) < 2:
        return {}
    ranks: dict[str, dict[str, float]] = {name: {} for name in ranked}
    for target, names in figures.items():
        means = [[summary[name][target][each]["mean"] for name in ranked] for each in names]
        found = rankdata(np.round(-np.array(means) / _EQUAL), axis=1).mean(axis=0)
        for name, rank in zip(ranked, found, strict=True):
            ranks[name][target] = float(rank)
    return {name: {**each, "mean": float(np.mean([*each.values()]))}
            for name, each in ranks.items()}


def table(summary: Summary) -> str:
    """Encoders side by side, a table a target, in percent, and their ranks; at most 80 columns
    wide."""
    parts = []
    for target in TARGETS:
        if any(target in each for each in summary.values()):
            columns = _columns(target, summary)
            rows = [_row(name, each.get(target, {}), columns) for name, each in summary.items()]
            about = f"{target}: {_about(target, columns)}, %."
            parts += ["", textwrap.fill(about, tables.WIDTH), "", tables.table(rows)]
    ranks = mean_ranks(summary)
    rows = [{"encoder": name, **each} for name, each in ranks.items()]
    if len(rows) > 2 and len(rows[0]) > len(("encoder", "a target", "mean")):
        parts += ["", textwrap.fill(_about_ranks(summary), tables.WIDTH), "", tables.table(rows)]
    return "\n".join(parts)


def _about(target: str, columns: Mapping[str, str]) -> str:
    """What a target's table shows."""
    is_tuned = any("tuned" in title for title in columns.values())
    return "; ".join([EXPLANATION[target], *([TUNED[target]] if is_tuned else [])])


def _about_ranks(summary: Summary) -> str:
    """What the table of ranks shows."""
    titles = [
        ", ".join(columns[figure] for figure in RANKED[target] if figure in columns)
        for target in TARGETS if (columns := _columns(target, summary))
    ]
    return (
        "Mean rank (1: the best of these in everything) over the target tasks, in each over its "
        f"main figures: {'; '.join(titles)}."
    )


def _row(
    name: str, figures: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str]
) -> dict[str, str]:
    """An encoder's row of a target's table."""
    texts = {
        title: spread(figures.get(figure, {}).get("values", ())).text(100)
        for figure, title in columns.items()
    }
    return {"encoder": name, **texts}


def _columns(target: str, summary: Summary) -> dict[str, str]:
    """The figures of a target that any encoder has, with their titles; one for each fraction of
    labels that was asked for."""
    found = {figure for each in summary.values() for figure in each.get(target, {})}
    columns = dict(SHOWN[target])
    for figure in sorted(found):
        if figure.startswith("fine_tuning_"):
            columns.setdefault(figure, f"tuned, {figure.removeprefix('fine_tuning_')} %")
    return {figure: title for figure, title in columns.items() if figure in found}


def draw_bars(summary: Summary, path: str | os.PathLike) -> None:
    """The figures of the table as bars."""
    panels = {
        target: {
            title.replace(" ", "\n", 1): {
                name: each[target][figure]["values"]
                for name, each in summary.items() if figure in each.get(target, {})
            }
            for figure, title in _columns(target, summary).items()
        }
        for target in TARGETS if any(target in each for each in summary.values())
    }
    pictures.bars(panels, path)
