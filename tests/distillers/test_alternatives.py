"""Every word or truth value that a hyper-parameter allows, but its default, in a compiled step.

The harness trains each method by its defaults, eagerly. What only a graph refuses, such as a tensor
where Python wants to know whether it is true, would be missed there.
"""

import dataclasses

import keras
import pytest

import distillers
from distillers.registration import METHODS
from tests.distillers.harness import begin_stage, make_distiller, train_epoch
from tests.distillers.models import network


def alternatives():
    """By method, hyper-parameter and value; not ``adapter=none``, which these networks, of the same
    channels, get by default."""
    found = []
    for name in METHODS.names():
        for field in dataclasses.fields(distillers.get(name)):
            values = field.metadata.get("choices") or ()
            if isinstance(field.default, bool):
                values = (True, False)
            found += [(name, field.name, each) for each in values if each != field.default]
    found = [each for each in found if each[1] != "adapter"]
    return found


def test_there_are_some():
    assert ("SSKD_SVD", "orientation", "random") in alternatives()
    assert ("FSP", "staged", True) in alternatives()


@pytest.mark.parametrize(("name", "option", "value"), alternatives())
def test_trains_in_a_graph(name, option, value):
    method = distillers.get(name)(**{option: value})
    distiller = make_distiller(method, network)  # of the student's channels
    for number in range(len(distiller.stages)):
        begin_stage(distiller, number, 1e-3)
        distiller.compile(keras.optimizers.SGD(1e-3))
        train_epoch(distiller, 2 * number)
