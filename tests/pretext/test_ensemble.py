"""Ensembles by name: what each declares, and what it refuses."""

import pytest

import plugins
from pretext import ENSEMBLES
from pretext.ensemble import Run
from registry import UserError


def test_what_each_declares():
    facts = {name: ENSEMBLES.get(name) for name in ENSEMBLES.names()}
    assert {name: (each.acts, each.least_tasks) for name, each in facts.items()} == {
        "temporal": (True, 2), "weights": (True, 1), "both": (True, 2), "none": (False, 1),
    }


def test_memory_is_that_of_the_temporal_ensemble_alone():
    run = Run(images=100, tasks=3, width=128, epochs=4)
    bytes_of = {name: plugins.create(ENSEMBLES, name).memory_bytes(run)
                for name in ENSEMBLES.names()}
    assert bytes_of["none"] == bytes_of["weights"] == 0
    assert bytes_of["both"] == bytes_of["temporal"] == 100 * (3 * 128 * 4 + 8)


@pytest.mark.parametrize(("specification", "match"), [
    ("temporl", "did you mean 'temporal'"),
    ("temporal(memory_decay=1)", "memory_decay must be from 0 to 0.9999, not 1.0"),
    ("both(memory_dtype=int8)", "memory_dtype: unknown value 'int8'"),
    ("weights(average_decay=-0.1)", "average_decay must be from 0"),
])
def test_nonsense_is_refused(specification, match):
    with pytest.raises(UserError, match=match):
        plugins.create(ENSEMBLES, specification)
