"""Classification: how well the classes can be told by the features, frozen and fine-tuned."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence

import keras
import numpy as np
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
        fine_tuning_steps: steps of each fine-tuning with labels, whatever their number.
        fractions: of the labels, to fine-tune with.
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
        """One for each fraction of the labels too."""
        columns = super().columns_of(metrics)
        for metric in sorted(set(metrics) - set(cls.columns)):
            if metric.startswith(_TUNING):
                columns[metric] = f"tuned, {metric.removeprefix(_TUNING)} %"
        return columns

    @classmethod
    def explain(cls, metrics: Collection[str]) -> str:
        tuned = any(metric.startswith(_TUNING) for metric in metrics)
        more = "; tuned: the whole encoder on this share of the labels" if tuned else ""
        return cls.explanation + more

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
    """Top-1 on the test images of three classifiers that are built on an encoder.

    - ``linear_probe``: logistic regression on the frozen, standardized embedding;
    - ``knn``: the nearest neighbours by the embedding's cosine;
    - ``fine_tuning_1``, ``_10``, ``_100``: the whole encoder with a linear layer, trained on so
      many percent of the labels. Only for a `nets.Encoder`, of which a copy is trained.

    Regularisation, number of neighbours and learning rate are chosen on the validation images, or
    on a tenth of the training images where there are none, from as many for every encoder. The
    first two classifiers then learn from these images too.

    Args:
        encoder: what is judged; it is not changed.
        data: training images without a label are passed over.
        seed: of the choice of labels and of the order of the images. The labels chosen are the
            same for every encoder.
        fractions: of the training labels that fine-tuning sees, in (0, 1]; stratified, at least
            one of each class.
        steps: of fine-tuning, whatever the fraction.
        learning_rates: of fine-tuning, falling along a cosine; one is chosen for each fraction.
        batch_size: images a step of fine-tuning.

    Raises:
        UserError: a fraction out of its range, or no labelled training image.
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
            scores = []
            for rate in learning_rates:
                tuning.train(few, rate, seed, data.default_flip)
                scores.append((tuning.accuracy(held_out), tuning.accuracy(data.test)))
            # The first of equal ones.
            metrics[f"{_TUNING}{100 * fraction:g}"] = max(scores, key=lambda pair: pair[0])[1]
    return metrics


def _train_and_held_out(data: Data, seed: int) -> tuple[Split, Split]:
    """What classifiers learn from, and what their one hyper-parameter is chosen on."""
    train = labelled(data.train)
    if not len(train):
        raise UserError(f"{data.name} has no labelled training image: classification needs some")
    if len(data.validation):
        return train, data.validation
    held_out = validation_rows(train.labels, HELD_OUT, seed)
    return train.take(np.setdiff1d(np.arange(len(train)), held_out)), train.take(held_out)


def _linear_probe(features: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> float:
    """Top-1 of logistic regression; its regularisation is chosen on the second part."""
    scale = StandardScaler().fit(features[0])
    scaled = [scale.transform(part) for part in features]

    def candidates() -> Iterator[LogisticRegression]:
        # Each begins where the one before it, more strongly regularised, has ended.
        regression = LogisticRegression(max_iter=_ITERATIONS, warm_start=True)
        for inverse in INVERSE_REGULARISATIONS:
            yield regression.set_params(C=inverse)

    # Threads that wait for each other take longer than one, where TensorFlow has some too.
    with warnings.catch_warnings(), threadpool_limits(1):
        # An optimum that is not quite reached is another regularisation, chosen or not.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return _best(candidates(), _rotated(scaled), labels)


def _rotated(features: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The features in the space that the first two parts span, where that has fewer dimensions.

    The weights of a linear classifier with an L2 penalty lie in it, so that nothing changes but
    the time that is taken.
    """
    learned = np.concatenate(features[:2])
    if learned.shape[1] <= learned.shape[0]:
        return list(features)
    basis = np.linalg.qr(learned.T)[0]
    return [part @ basis for part in features]


def _nearest_neighbours(features: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> float:
    """Top-1 of the vote of the nearest by cosine; their number is chosen on the second part."""
    # Of fewer images all vote.
    numbers = dict.fromkeys(min(number, len(features[0])) for number in NEIGHBOURS)
    candidates = (KNeighborsClassifier(number, algorithm="brute") for number in numbers)
    with threadpool_limits(1):
        return _best(candidates, [normalised(part) for part in features], labels)


def _best(
    candidates: Iterable[ClassifierMixin],
    features: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
) -> float:
    """Top-1 on the last part of the candidate that, learned from the first part, is best on the
    second (the first of equal ones), learned from both."""
    (train, held_out, test), (y_train, y_held_out, y_test) = features, labels
    best, chosen = -1.0, None
    for candidate in candidates:
        score = candidate.fit(train, y_train).score(held_out, y_held_out)
        if score > best:
            best, chosen = score, clone(candidate)
    chosen.fit(np.concatenate([train, held_out]), np.concatenate([y_train, y_held_out]))
    return float(chosen.score(test, y_test))


class _FineTuning:
    """A copy of an encoder with a linear layer, trained from the same start again and again."""

    def __init__(
        self, encoder: nets.Encoder, classes: int, steps: int, batch_size: int
    ):
        self._encoder = nets.copy_encoder(encoder)
        self._steps, self._batch_size = steps, batch_size
        model = self._encoder.model
        # Zeros: all classes are alike at first, whatever the seed.
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
