"""Figures over the seeds of repeated runs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Some values of the same thing.

    Attributes:
        count: how many.
        mean: None where there are none.
        deviation: the sample deviation (divisor ``count - 1``); None of less than two values.
    """

    count: int
    mean: float | None
    deviation: float | None

    def text(self, scale: float = 1.0, sign: bool = False) -> str:
        """``mean ± deviation`` with two decimals, both times `scale`; ``-`` where there is none.

        Args:
            scale: such as 100 for percent.
            sign: write ``+`` before a mean that is not negative.
        """
        if self.mean is None:
            return "-"
        mean = f"{scale * self.mean:{'+' if sign else ''}.2f}"
        return mean if self.deviation is None else f"{mean} ± {scale * self.deviation:.2f}"


def spread(values: Iterable[float | None]) -> Spread:
    """Mean and sample deviation of `values`; None among them is a value that is missing."""
    known = [value for value in values if value is not None]
    return Spread(
        len(known),
        statistics.fmean(known) if known else None,
        statistics.stdev(known) if len(known) > 1 else None,
    )


def paired_gain(
    values: Mapping[int, float | None], baseline: Mapping[int, float | None]
) -> Spread:
    """Spread of ``values[seed] - baseline[seed]`` over the seeds that both have."""
    return spread(
        value - baseline[seed]
        for seed, value in values.items()
        if value is not None and baseline.get(seed) is not None
    )


def median_ratio(
    numerator: Iterable[float | None], denominator: Iterable[float | None]
) -> float | None:
    """Median of `numerator` over that of `denominator`; None where either is empty or zero."""
    above, below = (
        [value for value in values if value is not None] for values in (numerator, denominator)
    )
    if not above or not below or not statistics.median(below):
        return None
    return statistics.median(above) / statistics.median(below)


def deviations_above(value: float, baseline: Spread) -> float | None:
    """By how many of the baseline's deviations `value` is above its mean.

    Infinite where the baseline does not vary; None where its deviation is unknown.
    """
    if baseline.mean is None or baseline.deviation is None:
        return None
    above = value - baseline.mean
    if baseline.deviation == 0:
        return above if above == 0 else above * float("inf")
    return above / baseline.deviation
