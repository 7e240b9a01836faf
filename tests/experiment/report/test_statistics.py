import numpy as np
import pytest
import scipy.stats

from experiment.report.statistics import (
    deviations_above,
    interval,
    median_ratio,
    paired_gain,
    spread,
)


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_spread_is_numpys(count, random):
    values = random.normal(size=count)
    found = spread([*values, None])
    assert found.count == count
    assert found.mean == pytest.approx(np.mean(values))
    assert found.deviation == pytest.approx(np.std(values, ddof=1))


def test_spread_of_few_values():
    assert (spread([]).count, spread([]).mean, spread([]).deviation) == (0, None, None)
    assert (spread([0.5]).mean, spread([0.5]).deviation) == (0.5, None)


def test_spread_as_text():
    assert spread([0.41, 0.43]).text(100) == "42.00 ± 1.41"
    assert spread([0.0125]).text(100, sign=True) == "+1.25"
    assert spread([-0.02, -0.02]).text(100, sign=True) == "-2.00 ± 0.00"
    assert spread([None]).text(100) == "-"


def test_gains_are_paired_by_seed(random):
    values = dict(enumerate(random.normal(size=4)))
    baseline = dict(enumerate(random.normal(size=4)))
    gains = np.array(list(values.values())) - list(baseline.values())
    found = paired_gain(values, baseline)
    assert found.mean == pytest.approx(np.mean(gains))
    assert found.deviation == pytest.approx(np.std(gains, ddof=1))
    assert paired_gain({0: 3.0, 1: 5.0, 2: None}, {1: 1.0, 2: 2.0, 7: 9.0}) == spread([4.0])
    assert paired_gain({0: 1.0}, {}).count == 0


def test_median_ratio(random):
    above, below = random.uniform(1, 2, 5), random.uniform(1, 2, 4)
    assert median_ratio(above, [*below, None]) == pytest.approx(np.median(above) / np.median(below))
    assert median_ratio([], below) is None
    assert median_ratio(above, [None]) is None
    assert median_ratio(above, [0.0]) is None


def test_the_interval_is_students():
    values = [1.0, 2.0, 4.0, 4.5]
    expected = scipy.stats.t.interval(
        0.95, 3, loc=np.mean(values), scale=scipy.stats.sem(values)
    )
    assert interval(spread(values)) == pytest.approx(expected)
    assert interval(spread([1.0])) is None
    assert interval(spread([2.0, 2.0])) == (2.0, 2.0)
    wider = interval(spread([2.0, 2.0]), least_deviation=0.1)  # 12.7062 0.1 / sqrt(2)
    assert wider == pytest.approx((1.101536, 2.898464), abs=1e-5)


def test_deviations_above(random):
    values = random.normal(size=5)
    expected = (3.0 - np.mean(values)) / np.std(values, ddof=1)
    assert deviations_above(3.0, spread(values)) == pytest.approx(expected)
    assert deviations_above(3.0, spread([1.0])) is None
    assert deviations_above(3.0, spread([1.0, 1.0])) == float("inf")
    assert deviations_above(1.0, spread([1.0, 1.0])) == 0
