"""Statistics over the seeds of repeated runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Mean and deviation of repeated measurements.

    Attributes:
        count: number of values.
        mean: None if there are no values.
        deviation: the sample standard deviation (divisor ``count - 1``); None for fewer than two
            values.
    """

    count: int
    mean: float | None
    deviation: float | None

    def text(self, scale: float = 1.0, sign: bool = False) -> str:
        """``mean ± deviation`` with two decimals, both times `scale`; ``-`` if there are no values.

        Args:
            scale: a factor, for example 100 for percent.
            sign: whether to write ``+`` before a mean that is not negative.
        """
        if self.mean is None:
            return "-"
        mean = f"{scale * self.mean:{'+' if sign else ''}.2f}"
        return mean if self.deviation is None else f"{mean} ± {scale * self.deviation:.2f}"


def spread(values: Iterable[float | None]) -> Spread:
    """Mean and sample deviation of `values`. None stands for a missing value."""
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
    """The median of `numerator` divided by that of `denominator`.

    None if either is empty or the denominator's median is 0.
    """
    above, below = (
        [value for value in values if value is not None] for values in (numerator, denominator)
    )
    if not above or not below or not statistics.median(below):
        return None
    return statistics.median(above) / statistics.median(below)


def interval(
    found: Spread, confidence: float = 0.95, least_deviation: float = 0.0
) -> tuple[float, float] | None:
    """The confidence interval of a mean, by Student's t; None for fewer than two values.

    Args:
        found: mean and deviation of the values.
        confidence: in (0, 1).
        least_deviation: a smaller deviation counts as this one: a few coarse values may be equal.
    """
    from scipy.special import stdtrit  # the documentation is built without it

    if found.mean is None or found.deviation is None:
        return None
    quantile = stdtrit(found.count - 1, (1 + confidence) / 2)
    half = quantile * max(found.deviation, least_deviation) / math.sqrt(found.count)
    return found.mean - half, found.mean + half


def deviations_above(value: float, baseline: Spread) -> float | None:
    """By how many of the baseline's deviations `value` exceeds the baseline's mean.

    Infinite if the baseline does not vary, 0 if `value` also equals its mean; None if its deviation
    is unknown.
    """
    if baseline.mean is None or baseline.deviation is None:
        return None
    above = value - baseline.mean
    if baseline.deviation == 0:
        return above if above == 0 else above * float("inf")
    return above / baseline.deviation
