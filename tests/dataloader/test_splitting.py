"""Stratified rows, counted by hand."""

import numpy as np

from dataloader.splitting import validation_rows


def test_every_class_gives_its_share_and_keeps_one():
    labels = np.array([0] * 10 + [1] * 5 + [2])
    chosen = validation_rows(labels, 0.4, 0)
    # 0.4 of 16 is 6: 4 of the ten, 2 of the five, none of the only one.
    assert np.bincount(labels[chosen], minlength=3).tolist() == [4, 2, 0]
    assert (np.diff(chosen) > 0).all()


def test_largest_remainders_get_what_is_left():
    labels = np.repeat([0, 1, 2], [7, 6, 5])
    # shares 2.1, 1.8, 1.5 of 5 (0.3 of 18, rounded): 2, 2, 1.
    assert np.bincount(labels[validation_rows(labels, 0.3, 1)]).tolist() == [2, 2, 1]


def test_at_least_one_and_none():
    assert len(validation_rows(np.array([0, 0, 1, 1]), 0.01, 0)) == 1
    assert len(validation_rows(np.array([0, 0, 1, 1]), 0, 0)) == 0
    assert len(validation_rows(np.array([0, 1]), 0.5, 0)) == 0
