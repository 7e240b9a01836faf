"""Compare encoders by their metrics on target tasks: over seeds, in tables and by rank."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Collection, Mapping
from typing import Any, Protocol, TypedDict

import numpy as np
from scipy.stats import rankdata

from experiment.report import pictures, tables
from experiment.report.statistics import spread

# One seed's metrics, by target and metric.
Metrics = dict[str, dict[str, float]]
# The metrics of all seeds, by encoder.
Scores = dict[str, list[Metrics]]
# Mean, deviation and values, by encoder, target and metric.
Summary = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]


class Entry(TypedDict):
    """A metric in a `Summary`."""

    mean: float | None
    deviation: float | None
    values: list[float | None]


class Target(Protocol):
    """What a target task declares about its metrics, see `targets.target.Target`."""

    ranked: tuple[str, ...]

    def columns_of(self, metrics: Collection[str]) -> dict[str, str]:
        """The columns for those of `metrics` that tables show, with their titles."""

    def explain(self, metrics: Collection[str]) -> str:
        """A short phrase that explains a table of `metrics`."""


class Targets(Protocol):
    """The target tasks by name, for example `targets.TARGETS`."""

    def get(self, name: str) -> Target:
        """The target task called `name`."""


# Metrics that differ by less than this count as equal; the difference is rounding.
_EQUAL = 1e-9


def summarized(scores: Scores) -> dict[str, dict[str, dict[str, Any]]]:
    """``mean``, ``deviation`` (None for one seed) and ``values`` by encoder, target and metric."""
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for name, seeds in scores.items():
        summary[name] = {
            target: {
                metric: {"values": [each[target][metric] for each in seeds]}
                for metric in metrics
            }
            for target, metrics in seeds[0].items()
        }
        for metrics in summary[name].values():
            for entry in metrics.values():
                found = spread(entry["values"])
                entry.update(mean=found.mean, deviation=found.deviation)
    return summary


def _present(summary: Summary) -> dict[str, set[str]]:
    """The targets that any encoder was scored on, with all metrics that any encoder has."""
    found: dict[str, set[str]] = {}
    for encoder in summary.values():
        for target, metrics in encoder.items():
            found.setdefault(target, set()).update(metrics)
    return found


def mean_ranks(summary: Summary, targets: Targets) -> dict[str, dict[str, float]]:
    """The ranks of encoders within each target and, as ``"mean"``, over all targets.

    Encoders are ranked by each of a target's main metrics that any encoder has, averaged over
    seeds, the largest first. Equal encoders share the mean of their ranks. All metrics of a target
    have equal weight, and so do all targets.

    Returns:
        ``{encoder: {target: rank, ..., "mean": rank}}`` for the encoders that have all these
        metrics (raw pixels, for example, cannot be tuned). Empty for fewer than two encoders.
    """
    ranked_by = {
        target: [metric for metric in targets.get(target).ranked if metric in found]
        for target, found in _present(summary).items()
    }
    ranked_by = {target: metrics for target, metrics in ranked_by.items() if metrics}
    ranked = [
        name for name, encoder in summary.items()
        if all(set(found) <= set(encoder.get(target, {})) for target, found in ranked_by.items())
    ]
    if len(ranked) < 2:
        return {}
    ranks: dict[str, dict[str, float]] = {name: {} for name in ranked}
    for target, metrics in ranked_by.items():
        means = [[summary[name][target][each]["mean"] for name in ranked] for each in metrics]
        found = rankdata(np.round(-np.array(means) / _EQUAL), axis=1).mean(axis=0)
        for name, rank in zip(ranked, found, strict=True):
            ranks[name][target] = float(rank)
    return {name: {**each, "mean": float(np.mean([*each.values()]))}
            for name, each in ranks.items()}


def table(summary: Summary, targets: Targets) -> str:
    """Tables of the encoders' metrics in percent, one for each target, and of their ranks.

    The tables are at most 80 columns wide. They show long names as [1], [2], ..., which are
    explained first.
    """
    short = tables.labels(list(summary))
    parts = tables.legend(short)
    summary = {short[name]: encoder for name, encoder in summary.items()}
    for target, metrics in _present(summary).items():
        columns = targets.get(target).columns_of(metrics)
        rows = [_row(name, each.get(target, {}), columns) for name, each in summary.items()]
        about = f"{target}: {targets.get(target).explain(metrics)}, %."
        parts += ["", textwrap.fill(about, tables.WIDTH), "", tables.table(rows)]
    ranks = mean_ranks(summary, targets)
    rows = [{"encoder": name, **each} for name, each in ranks.items()]
    if len(rows) > 2 and len(rows[0]) > len(("encoder", "a target", "mean")):
        about = _about_ranks(summary, targets)
        parts += ["", textwrap.fill(about, tables.WIDTH), "", tables.table(rows)]
    return "\n".join(parts)


def _about_ranks(summary: Summary, targets: Targets) -> str:
    """A sentence that explains the table of ranks."""
    titles = [
        ", ".join(columns[each] for each in targets.get(target).ranked if each in columns)
        for target, metrics in _present(summary).items()
        if (columns := targets.get(target).columns_of(metrics))
    ]
    return (
        "Mean rank (1: best in all metrics) over the target tasks, and within each over its main "
        f"metrics: {'; '.join(titles)}."
    )


def _row(
    name: str, metrics: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str]
) -> dict[str, str]:
    """An encoder's row of a target's table."""
    texts = {
        title: spread(metrics.get(metric, {}).get("values", ())).text(100)
        for metric, title in columns.items()
    }
    return {"encoder": name, **texts}


def draw_bars(summary: Summary, targets: Targets, path: str | os.PathLike) -> None:
    """Draw the metrics of the tables as bars."""
    panels = {
        target: {
            title.replace(" ", "\n", 1): {
                name: each[target][metric]["values"]
                for name, each in summary.items() if metric in each.get(target, {})
            }
            for metric, title in targets.get(target).columns_of(metrics).items()
        }
        for target, metrics in _present(summary).items()
    }
    pictures.bars(panels, path)
