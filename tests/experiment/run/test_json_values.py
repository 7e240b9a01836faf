from typing import Any, TypedDict

import pytest

from experiment.run.json_values import fits


class Entry(TypedDict):
    mean: float | None
    values: list[float]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (str, ["", "a"], [None, 1, ["a"]]),
        (int, [0, -3], [True, 1.0, "1", None, 10**400]),
        (float, [0, 0.5, -1e308], [True, "1", None, float("nan"), float("inf"), 10**400]),
        (float | None, [None, 2], ["", [], False]),
        (list[str], [[], ["a"]], ["a", [1], {"a": "b"}, None]),
        (dict[str, dict[str, float]], [{}, {"a": {}}, {"a": {"b": 1}}],
         [[], {"a": 1}, {"a": {"b": None}}, {"a": [1]}]),
        (Entry, [{"mean": None, "values": [1], "more": 1}],
         [{}, {"mean": 1}, {"mean": 1, "values": [None]}, []]),
        (Any, [None, 1, {}], []),
    ],
)  # fmt: skip
def test_fits(kind, good, bad):
    assert all(fits(value, kind) for value in good)
    assert not any(fits(value, kind) for value in bad)
