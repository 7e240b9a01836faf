"""Linear probe, nearest neighbours and fine-tuning."""

import dataclasses

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

import targets
from dataloader.splitting import fraction_rows
from registry import UserError
from targets.classification import Classification, _best, _FineTuning, _rotated
from tests.targets import small


def test_metrics_of_an_encoder_which_is_not_changed():
    encoder, data = small.encoder(), small.data()
    before = small.weights(encoder)
    figures = targets.classification(encoder, data, steps=120, fractions=(0.05, 1.0))
    assert list(figures) == ["linear_probe", "knn", "fine_tuning_5", "fine_tuning_100"]
    assert all(0 <= value <= 1 for value in figures.values())
    assert figures["linear_probe"] > 0.9 and figures["fine_tuning_100"] > 0.8
    for old, new in zip(before, small.weights(encoder), strict=True):
        np.testing.assert_array_equal(old, new)


def test_fractions_are_columns_in_the_order_of_their_size():
    metrics = ["fine_tuning_20", "linear_probe", "fine_tuning_5", "fine_tuning_100"]
    columns = list(Classification.columns_of(metrics).values())
    assert columns[-3:] == ["tuned, 5 %", "tuned, 20 %", "tuned, 100 %"]


def test_an_encoder_that_was_saved_frozen_is_fine_tuned_all_the_same():
    data, encoder = small.data(), small.encoder()
    encoder.model.trainable = False
    tuning = _FineTuning(encoder, 4, steps=10, batch_size=16)
    kernel = np.array(tuning._encoder.model.weights[0])
    tuning.train(data.train, 0.1, seed=0, flip=False)
    assert np.abs(kernel - tuning._encoder.model.weights[0]).max() > 1e-3
    assert not encoder.model.trainable_variables


def test_pixels_are_not_fine_tuned_and_unlabelled_images_are_skipped():
    data = small.data()
    few = data.train.labels.copy()
    few[8:] = -1
    unlabelled = dataclasses.replace(data, train=dataclasses.replace(data.train, labels=few))
    figures = targets.classification(targets.raw_pixels((16, 16, 3)), unlabelled)
    assert list(figures) == ["linear_probe", "knn"]
    nothing = dataclasses.replace(
        data, train=dataclasses.replace(data.train, labels=np.full(80, -1))
    )
    with pytest.raises(UserError, match="no labelled training image"):
        targets.classification(targets.raw_pixels((16, 16, 3)), nothing)


def test_one_image_of_each_class_leaves_none_to_choose_by():
    data = small.data()
    first = np.unique(data.train.labels, return_index=True)[1]
    few = dataclasses.replace(
        data, train=data.train.take(first), validation=data.validation.take(np.zeros(0, np.int64))
    )
    with pytest.raises(UserError, match="one labelled training image of each class"):
        targets.classification(targets.raw_pixels((16, 16, 3)), few)
    with pytest.raises(UserError, match="one labelled training image of each class"):
        Classification().check_material(targets.Material(few))
    Classification().check_material(targets.Material(data))


def test_neighbours_equal_a_loop():
    """One nearest neighbour by cosine. All classes are far apart in angle, so nothing is chosen."""
    data = small.data()
    encoder = small.encoder(seed=5)
    train, held_out, test = (
        encoder(split.images(range(len(split))))["embedding"].numpy()
        for split in (data.train, data.validation, data.test)
    )
    known = np.concatenate([train, held_out])
    labels = np.concatenate([data.train.labels, data.validation.labels])

    def accuracy(points, truth, reference, names, count):
        right = 0
        for point, label in zip(points, truth, strict=True):
            cosines = reference @ point / np.linalg.norm(reference, axis=1)
            votes = np.bincount(names[np.argsort(-cosines)[:count]], minlength=4)
            right += votes.argmax() == label
        return right / len(points)

    chosen = [accuracy(held_out, data.validation.labels, train, data.train.labels, k)
              for k in (1, 5, 20)]
    best = (1, 5, 20)[int(np.argmax(chosen))]
    figures = targets.classification(encoder, data, fractions=())
    assert figures["knn"] == pytest.approx(accuracy(test, data.test.labels, known, labels, best))


def test_the_best_candidate_is_refitted_on_both_parts():
    class Candidate:
        def __init__(self, size=0):
            self.size = size

        def get_params(self, deep=True):
            return {"size": self.size}

        def fit(self, features, labels):
            self.seen = len(features)
            return self

        def score(self, features, labels):
            return {(1, 3): 0.2, (2, 3): 0.7, (3, 3): 0.7}.get((self.size, self.seen), self.seen)

    parts = [np.zeros([3, 1]), np.zeros([2, 1]), np.zeros([4, 1])]
    labels = [np.zeros(3), np.zeros(2), np.zeros(4)]
    assert _best((Candidate(size) for size in (1, 2, 3)), parts, labels) == 5


def test_rotating_features_does_not_change_an_l2_regularised_classifier():
    random = np.random.default_rng(0)
    parts = [random.normal(size=[count, 50]) for count in (20, 10, 15)]
    labels = random.integers(3, size=20)
    rotated = _rotated(parts)
    assert rotated[0].shape == (20, 30)
    options = {"C": 0.1, "tol": 1e-10, "max_iter": 5000}
    plain = LogisticRegression(**options).fit(parts[0], labels)
    turned = LogisticRegression(**options).fit(rotated[0], labels)
    np.testing.assert_allclose(
        turned.decision_function(rotated[2]), plain.decision_function(parts[2]), atol=1e-6
    )
    # scikit-learn minimises the loss of L2-regularised logistic regression.
    def loss(flat):
        weights, bias = flat[:150].reshape(3, 50), flat[150:]
        scores = parts[0] @ weights.T + bias
        return (logsumexp(scores, axis=1) - scores[range(20), labels]).sum() * 0.1 + (
            weights**2
        ).sum() / 2
    least = minimize(loss, np.zeros(153), options={"gtol": 1e-7}).fun
    found = loss(np.concatenate([plain.coef_.ravel(), plain.intercept_]))
    assert found == pytest.approx(least, rel=1e-6)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 1.0])
def test_fractions_are_stratified_with_at_least_one_label_per_class(fraction):
    labels = np.repeat([0, 1, 2], [100, 30, 4])
    random = np.random.default_rng(0).permutation(len(labels))
    labels = labels[random]
    rows = fraction_rows(labels, fraction, seed=3)
    counts = np.bincount(labels[rows], minlength=3)
    assert counts.tolist() == [max(1, round(fraction * count)) for count in (100, 30, 4)]
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, fraction_rows(labels, fraction, seed=3))
    assert fraction == 1 or (rows != fraction_rows(labels, fraction, seed=4)).any()


def test_a_larger_fraction_contains_a_smaller_one():
    labels = np.arange(90) % 3
    few, many = (set(fraction_rows(labels, fraction, 0)) for fraction in (0.1, 0.5))
    assert few < many


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5, float("nan")])
def test_fractions_out_of_range_are_refused(fraction):
    with pytest.raises(UserError, match="above 0, at most 1"):
        fraction_rows(np.zeros(3, int), fraction, 0)
