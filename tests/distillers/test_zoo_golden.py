"""Losses against values of other implementations, on random features: RepDistiller's, mdistiller's
and torchdistill's in ``zoo_losses.npz``, the methods' authors' in ``field_losses.npz``."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import distillers

DATA = Path(__file__).parents[1] / "data"
MAPS = [0, 1, 2]
ZOO = {  # value: method, what it reads
    "kd_T4": ("Soft_logits(temperature=4)", "logits"),
    "dkd_a1_b8_T4": ("DKD(alpha=1,beta=8,temperature=4)", "logits"),
    "dist_T1": ("DIST(temperature=1,beta=1,gamma=1)", "logits"),
    "dist_T4": ("DIST(temperature=4,beta=1,gamma=1)", "logits"),
    "at_sum": ("AT", MAPS),
    "sp_last": ("SP", MAPS),
    "nst_sum": ("NST", MAPS[1:]),
    "rkd_25_50": ("RKD(distance_weight=25,angle_weight=50)", "embedding"),
    "pkt": ("PKT", "embedding"),
    "fsp_repdistiller": ("FSP(definition=repdistiller)", MAPS),
}
RLD = "RLD(alpha=1,beta=8,temperature=4,alpha_temperature={},standardize={})"
WKD_L = "WKD_L(temperature=4,gamma=2,regularization={},iterations={})"
FIELD = {  # values, of which the loss is the sum: method, what it reads
    ("rld_a1_b8_T4_at1",): (RLD.format(1, "false"), "logits"),
    ("rld_a1_b8_T4_at4_standardized",): (RLD.format(4, "true"), "logits"),
    ("ttm_0.3",): ("TTM(power=0.3)", "logits"),
    ("wttm_0.3",): ("WTTM(power=0.3)", "logits"),
    ("wkd_l_T4_g2_l0.05_i10",): (WKD_L.format(0.05, 10), "logits"),
    ("wkd_l_T4_g2_l25_i30",): (WKD_L.format(25, 30), "logits"),
    ("mlkd_one_view_kd", "mlkd_one_view_cc", "mlkd_one_view_bc"): ("MLKD", "logits"),
    ("srd_no_projector",): ("SRD(projector=none)", "embedding"),
} | {
    (f"wkd_f_mean_grid{grid}", f"wkd_f_deviation_grid{grid}"): (
        f"WKD_F(grid={grid},mean_weight=1,projector=none)", "map"
    )
    for grid in (1, 2, 3)
}
EXTRAS = {"WKD_L": ("teacher_classifier",)}


def read(file):
    with np.load(DATA / file) as values:
        return {name.removeprefix("a/"): value for name, value in values.items()}


@pytest.fixture(scope="module")
def zoo():
    return read("zoo_losses.npz")


@pytest.fixture(scope="module")
def field():
    return read("field_losses.npz")


def outputs(golden, network, reads):
    if isinstance(reads, str):
        return tf.constant(golden[f"{network}_{reads}"])
    return [tf.constant(golden[f"{network}_map_{i}"]) for i in reads]


def loss(golden, specification, reads):
    method = distillers.create(specification)
    teacher, student = (outputs(golden, network, reads) for network in ("teacher", "student"))
    extras = {name: tf.constant(golden[name]) for name in EXTRAS.get(method.name, ())}
    return method.compute_loss(teacher, student, labels=tf.constant(golden["labels"]), **extras)


@pytest.mark.parametrize("value", ZOO)
def test_value_of_the_zoo(zoo, value):
    np.testing.assert_allclose(loss(zoo, *ZOO[value]), zoo[f"loss/{value}"], rtol=2e-6)


@pytest.mark.parametrize("values", FIELD, ids="+".join)
def test_value_of_the_authors(field, values):
    expected = sum(float(field[f"loss/{value}"]) for value in values)
    np.testing.assert_allclose(loss(field, *FIELD[values]), expected, rtol=5e-6)


def test_mean_weight_is_of_the_means_alone(field):
    expected = 3 * field["loss/wkd_f_mean_grid2"] + field["loss/wkd_f_deviation_grid2"]
    found = loss(field, "WKD_F(grid=2,mean_weight=3,projector=none)", "map")
    np.testing.assert_allclose(found, expected, rtol=5e-6)


def test_similarities_of_the_last_map_alone(zoo):
    np.testing.assert_allclose(loss(zoo, "SP", MAPS[-1:]), zoo["loss/sp_last"], rtol=2e-6)
