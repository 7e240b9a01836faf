"""Classification: the accuracy of classifiers on frozen and on fine-tuned features."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Sequence

import keras
import numpy as np
import scipy.linalg
import tensorflow as tf
from sklearn.base import ClassifierMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import nets
from dataloader import Data, Split, evaluation_batches
from dataloader.splitting import fraction_rows, validation_rows
from plugins import option
from registry import UserError
from targets.embeddings import Representation, embeddings, images_at_once, labelled, normalised
from targets.target import TARGETS, Material, Score, Target
from targets.training import Trainer, labelled_batches

FRACTIONS = (0.01, 0.1, 1.0)
INVERSE_REGULARISATIONS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
NEIGHBOURS = (1, 5, 20)
LEARNING_RATES = (1e-3, 1e-2)
HELD_OUT = 0.1
_ITERATIONS = 100
_TUNING = "fine_tuning_"


@TARGETS.register("classification")
class Classification(Target):
    """Top-1 of a linear probe, of nearest neighbours and of the fine-tuned encoder.

    Args:
        fine_tuning_steps: steps of each fine-tuning, of at most 32 images, regardless of the number
            of labels. If there are more than 32 labels for each step, the others are not used.
        fractions: fractions of the labels to fine-tune with.
    """

    needs_classes = True
    columns = {
        "linear_probe": "linear probe", "knn": "k-NN", "fine_tuning_1": "tuned, 1 %",
        "fine_tuning_10": "tuned, 10 %", "fine_tuning_100": "tuned, 100 %",
    }
    ranked = ("linear_probe", "fine_tuning_1", "fine_tuning_10")
    explanation = "Top-1 on the test images"

    fine_tuning_steps: int = option(200, minimum=1)
    fractions: tuple[float, ...] = option(FRACTIONS, above=0, maximum=1)

    @classmethod
    def columns_of(cls, metrics: Collection[str]) -> dict[str, str]:
        """The columns of `metrics`, including one for each fraction of the labels."""
        tuned = sorted(
            (each for each in metrics if each.startswith(_TUNING)),
            key=lambda each: float(each.removeprefix(_TUNING)),
        )
        others = super().columns_of([each for each in metrics if each not in tuned])
        return others | {each: f"tuned, {each.removeprefix(_TUNING)} %" for each in tuned}

    @classmethod
    def explain(cls, metrics: Collection[str]) -> str:
        tuned = any(metric.startswith(_TUNING) for metric in metrics)
        more = "; tuned: the whole encoder on this share of the labels" if tuned else ""
        return cls.explanation + more

    def check_material(self, material: Material) -> None:
        _train_and_held_out(material.data, seed=0)

    def score(self, encoder: Representation, material: Material, seed: int) -> Score:
        return Score(classification(
            encoder, material.data, seed=seed, fractions=self.fractions,
            steps=self.fine_tuning_steps,
        ))


def classification(
    encoder: Representation,
    data: Data,
    *,
    seed: int = 0,
    fractions: Sequence[float] = FRACTIONS,
    steps: int = 200,
    learning_rates: Sequence[float] = LEARNING_RATES,
    batch_size: int = 32,
) -> dict[str, float]:
    """Measure the test top-1 of three kinds of classifier built on an encoder.

    - ``linear_probe``: logistic regression on the frozen, standardized embedding.
    - ``knn``: a vote of the nearest neighbours, by cosine similarity of embeddings.
    - ``fine_tuning_1``, ``_10``, ``_100``: the whole encoder with a linear layer, trained on that
      percentage of the labels. Only for a `nets.Encoder`; a copy is trained.

    The regularisation, the number of neighbours and the learning rate are chosen on the validation
    images, or on a tenth of the training images if there are none. Every encoder gets the same
    candidates. The first two classifiers are then refitted with these images included.

    Args:
        encoder: the encoder to evaluate; it is not changed.
        data: the data set. Training images without a label are skipped.
        seed: random seed for the choice of labels and the order of the images. Every encoder gets
            the same labels.
        fractions: fractions of the training labels used in fine-tuning, in (0, 1]; stratified,
            with at least one label per class.
        steps: steps of fine-tuning, for every fraction.
        learning_rates: candidate initial learning rates of fine-tuning, decayed along a cosine.
            The best is chosen for each fraction.
        batch_size: images per fine-tuning step.

    Raises:
        UserError: a fraction is out of range, or no training image has a label.
    """
    train, held_out = _train_and_held_out(data, seed)
    features = [embeddings(encoder, split) for split in (train, held_out, data.test)]
    labels = [split.labels for split in (train, held_out, data.test)]
    metrics = {
        "linear_probe": _linear_probe(features, labels),
        "knn": _nearest_neighbours(features, labels),
    }
    if isinstance(encoder, nets.Encoder):
        tuning = _FineTuning(encoder, data.classes, steps, batch_size)
        for fraction in fractions:
            few = train.take(fraction_rows(train.labels, fraction, seed))
            best = -1.0
            for rate in learning_rates:
                tuning.train(few, rate, seed, data.default_flip)
                score = tuning.accuracy(held_out)
                if score > best:
                    best = score
                    metrics[f"{_TUNING}{100 * fraction:g}"] = tuning.accuracy(data.test)
    return metrics


def _train_and_held_out(data: Data, seed: int) -> tuple[Split, Split]:
    """The images to train classifiers on, and those to choose their hyper-parameter on."""
    train = labelled(data.train)
    if not len(train):
        raise UserError(
            f"{data.name} has no labelled training images, which classification needs"
        )
    if len(data.validation):
        return train, data.validation
    held_out = validation_rows(train.labels, HELD_OUT, seed)
    if not len(held_out):
        raise UserError(
            f"{data.name} has one labelled training image of each class and no validation images; "
            "classification needs a class of two, or validation images, to choose by"
        )
    return train.take(np.setdiff1d(np.arange(len(train)), held_out)), train.take(held_out)


def _linear_probe(features: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> float:
    """Top-1 of logistic regression, with its regularisation chosen on the second part."""
    scale = StandardScaler().fit(features[0])
    scaled = [scale.transform(part) for part in features]

    # None starts from the solution of another: the chosen one is refitted, and would not.
    candidates = (
        LogisticRegression(C=inverse, max_iter=_ITERATIONS) for inverse in INVERSE_REGULARISATIONS
    )
    # One thread is faster than several that compete with TensorFlow's.
    with warnings.catch_warnings(), threadpool_limits(1):
        # Stopping short of the optimum acts as a regularisation, which validation judges.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return _best(candidates, _rotated(scaled), labels)


def _rotated(features: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Project the features onto the span of the first two parts, if it has fewer dimensions.

    The weights of a linear classifier with an L2 penalty lie in this span, so the result is the
    same, only faster.
    """
    learned = np.concatenate(features[:2])
    if learned.shape[1] <= learned.shape[0]:
        return list(features)
    # In place: NumPy's would need some eight times as much memory, in double precision.
    basis = scipy.linalg.qr(learned.T, mode="economic", overwrite_a=True, check_finite=False)[0]
    return [part @ basis for part in features]


def _nearest_neighbours(features: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> float:
    """Top-1 of a vote of nearest neighbours, with their number chosen on the second part."""
    # If there are fewer images than neighbours, all of them vote.
    numbers = dict.fromkeys(min(number, len(features[0])) for number in NEIGHBOURS)
    candidates = (KNeighborsClassifier(number, algorithm="brute") for number in numbers)
    with threadpool_limits(1):
        return _best(candidates, [normalised(part) for part in features], labels)


def _best(
    candidates: Iterable[ClassifierMixin],
    features: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
) -> float:
    """Fit the candidates on part 1, pick the best on part 2, refit it on both, test it on part 3.

    The first of equally good candidates is picked. Returns top-1 on part 3.
    """
    (train, held_out, test), (y_train, y_held_out, y_test) = features, labels
    best, chosen = -1.0, None
    for candidate in candidates:
        score = candidate.fit(train, y_train).score(held_out, y_held_out)
        if score > best:
            best, chosen = score, clone(candidate)
    chosen.fit(np.concatenate([train, held_out]), np.concatenate([y_train, y_held_out]))
    return float(chosen.score(test, y_test))


class _FineTuning:
    """A copy of an encoder with a linear layer. Each training starts from the same weights."""

    def __init__(
        self, encoder: nets.Encoder, classes: int, steps: int, batch_size: int
    ):
        self._encoder = nets.trainable_copy(encoder)
        self._steps, self._batch_size = steps, batch_size
        model = self._encoder.model
        # With zeros, all classes are equally likely at first, whatever the seed.
        self._head = keras.layers.Dense(classes, kernel_initializer="zeros", dtype="float32")
        self._head.build(model.output["embedding"].shape)
        trained = model.trainable_variables + self._head.trainable_variables
        self._trainer = Trainer(self._loss, trained, model.non_trainable_variables, steps)

    def _logits(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        images = self._encoder.standardize(images)
        return self._head(self._encoder.model(images, training=training)["embedding"])

    def _loss(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels, self._logits(images, training=True)
            )
        )

    def train(self, split: Split, learning_rate: float, seed: int, flip: bool) -> None:
        batches = labelled_batches(
            split, self._batch_size, steps=self._steps, seed=seed, flip=flip
        )
        self._trainer.train(batches, learning_rate)

    def accuracy(self, split: Split) -> float:
        right = [
            np.argmax(self._logits(batch["image"]), axis=1) == batch["label"].numpy()
            for batch in evaluation_batches(split, images_at_once(split.image_shape))
        ]
        return float(np.mean(np.concatenate(right)))
