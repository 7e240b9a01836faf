"""Maps of embeddings, and the choice of images for them."""

import numpy as np
import pytest

from registry import UserError
from targets.embeddings import embeddings, plane_map, rows_of_all_classes
from tests.targets import small


@pytest.mark.parametrize("is_sorted", [True, False])
def test_rows_of_all_classes_are_as_balanced_as_possible(is_sorted):
    labels = np.repeat([5, 2, 7], [40, 3, 20])  # data sorted by class
    if not is_sorted:
        labels = np.random.default_rng(0).permutation(labels)
    rows = rows_of_all_classes(labels, 13)
    counts = {label: np.sum(labels[rows] == label) for label in (5, 2, 7)}
    assert counts == {5: 5, 2: 3, 7: 5}
    assert np.all(np.diff(rows) > 0)
    for label in (5, 2, 7):  # the first images of each class
        own = np.flatnonzero(labels == label)
        np.testing.assert_array_equal(rows[labels[rows] == label], own[: counts[label]])
    np.testing.assert_array_equal(rows_of_all_classes(labels, 100), np.arange(63))


def test_equal_embeddings_lie_on_one_point():
    for value in (0, 3):
        points = plane_map(np.full([20, 5], value, np.float32))
        assert points.shape == (20, 2) and not points.any()


def test_embeddings_that_are_no_numbers_are_refused():
    encoder = small.encoder(batch_norm=False)
    encoder.model.trainable_variables[-1].assign([np.nan] + 11 * [0])
    with pytest.raises(UserError, match="encoder small: the embeddings of 7 of 7 images") as caught:
        embeddings(encoder, small.split(7, 4, seed=0))
    assert "\n" not in str(caught.value)
