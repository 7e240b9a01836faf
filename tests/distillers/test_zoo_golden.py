"""Losses against values of other implementations: RepDistiller's, mdistiller's and torchdistill's
definitions, on features by chance."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import distillers

FILE = Path(__file__).parents[1] / "data" / "zoo_losses.npz"
MAPS = [0, 1, 2]
CASES = {  # value: method, hyper-parameters, what it reads
    "kd_T4": ("Soft_logits", {"temperature": 4.0}, "logits"),
    "dkd_a1_b8_T4": ("DKD", {"alpha": 1.0, "beta": 8.0, "temperature": 4.0}, "logits"),
    "dist_T1": ("DIST", {"temperature": 1.0, "beta": 1.0, "gamma": 1.0}, "logits"),
    "dist_T4": ("DIST", {"temperature": 4.0, "beta": 1.0, "gamma": 1.0}, "logits"),
    "at_sum": ("AT", {}, MAPS),
    "sp_last": ("SP", {}, MAPS),
    "nst_sum": ("NST", {}, MAPS[1:]),
    "rkd_25_50": ("RKD", {"distance_weight": 25.0, "angle_weight": 50.0}, "embedding"),
    "pkt": ("PKT", {}, "embedding"),
}


@pytest.fixture(scope="module")
def golden():
    with np.load(FILE) as file:
        return dict(file)


def outputs(golden, whose, reads):
    if isinstance(reads, str):
        return tf.constant(golden[f"a/{whose}_{reads}"])
    return [tf.constant(golden[f"a/{whose}_map_{i}"]) for i in reads]


@pytest.mark.parametrize("value", CASES)
def test_value(golden, value):
    name, hyper_parameters, reads = CASES[value]
    teacher, student = (outputs(golden, whose, reads) for whose in ("teacher", "student"))
    found = distillers.get(name)(**hyper_parameters).compute_loss(
        teacher, student, labels=tf.constant(golden["a/labels"])
    )
    np.testing.assert_allclose(found, golden[f"a/loss/{value}"], rtol=2e-6)


def test_similarities_of_the_last_map_alone(golden):
    teacher, student = (outputs(golden, whose, MAPS[-1:]) for whose in ("teacher", "student"))
    found = distillers.get("SP")().compute_loss(teacher, student)
    np.testing.assert_allclose(found, golden["a/loss/sp_last"], rtol=2e-6)
