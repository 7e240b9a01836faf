"""Stratified rows, counted by hand."""

import numpy as np
import pytest

from dataloader.splitting import few_rows, rows_for_testing, validation_rows


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


@pytest.mark.parametrize(("number", "expected"), [
    (16, [10, 5, 1]),
    (8, [5, 2, 1]),  # shares 5, 2.5, 0.5: each has one, and the first gets no more than its share
    (4, [2, 1, 1]),
    (3, [1, 1, 1]),  # shares 1.9, 0.9, 0.2: each has one
    (2, [1, 1, 0]),  # fewer than classes: 1.25, 0.6, 0.1
    (1, [1, 0, 0]),
])
def test_few_images_are_of_all_classes(number, expected):
    labels = np.array([0] * 10 + [1] * 5 + [2])
    chosen = few_rows(labels, number, 0)
    assert np.bincount(labels[chosen], minlength=3).tolist() == expected
    assert len(chosen) == number and (np.diff(chosen) > 0).all()


def test_few_images_depend_on_the_seed_and_are_among_more_of_them():
    labels = np.repeat([0, 2], [60, 40])  # a class without images is passed over
    few = few_rows(labels, 10, 3)
    assert np.bincount(labels[few]).tolist() == [6, 0, 4]
    np.testing.assert_array_equal(few, few_rows(labels, 10, 3))
    assert set(few) < set(few_rows(labels, 50, 3)) and set(few) != set(few_rows(labels, 10, 4))


def test_of_equal_classes_the_seed_chooses_those_of_which_there_are_images():
    labels = np.repeat(np.arange(20), 5)
    chosen = [set(labels[few_rows(labels, 4, seed)]) for seed in range(5)]
    assert {len(each) for each in chosen} == {4} and len(set.union(*chosen)) > 8
    more = np.bincount(labels[few_rows(labels, 30, 0)])  # one and a half of each
    assert sorted(more) == [1] * 10 + [2] * 10 and more.tolist() != sorted(more, reverse=True)


def test_classes_with_too_few_images_for_all_take_turns():
    """By their numbers, those of the last would never be tested."""
    labels = np.repeat(np.arange(100), 3)
    tested = [set(labels[rows_for_testing(labels, 0.2, seed)]) for seed in range(3)]
    assert [len(classes) for classes in tested] == [60] * 3
    assert tested[0] != tested[1] != tested[2]
    assert all(any(label >= 60 for label in classes) for classes in tested)
