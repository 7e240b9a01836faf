"""SimSiam: each view predicts the other, without negatives."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from nets.layers import batch_normalization
from op_util.metric_learning import finds_partner
from op_util.redundancy import negative_cosine
from plugins import option
from pretext.heads import dense
from pretext.registration import TASKS
from pretext.task import Images
from pretext.two_views import TwoViewTask


def predictor(name: str, width: int, hidden: int) -> keras.Sequential:
    """A model that predicts the other view's h from h ``[..., width]``, in float32.

    It consists of a dense layer, batch normalisation, ReLU and another dense layer.
    """
    return keras.Sequential(
        [
            keras.Input((width,)),
            keras.layers.Dense(
                hidden, use_bias=False, kernel_initializer="he_normal", dtype="float32",
                name=f"{name}_hidden",
            ),
            batch_normalization(f"{name}_bn", dtype="float32"),
            keras.layers.Activation("relu", dtype="float32", name=f"{name}_relu"),
            keras.layers.Dense(width, dtype="float32", name=f"{name}_output"),
        ],
        name=name,
    )


@TASKS.register("simsiam")
class SimSiam(TwoViewTask):
    """Chen & He, "Exploring simple Siamese representation learning", CVPR 2021.

    The head is the paper's predictor. The neck is one dense layer; the paper's projector has three,
    each with batch normalisation.

    Args:
        hidden: width of the predictor's hidden layer, by default a quarter of h's as in the paper.
    """

    paper = "Chen & He, CVPR 2021, arXiv 2011.10566"

    hidden: int = option(32, minimum=1, maximum=65536)

    def build(
        self, images: Images, feature_shape: Sequence[int], width: int
    ) -> tuple[keras.layers.Layer, keras.layers.Layer]:
        return (
            dense("simsiam_neck", feature_shape[-1], width),
            predictor("simsiam_head", width, self.hidden),
        )

    def predict(
        self, head: keras.layers.Layer, h: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The predictions p and the projections z, both ``[B, 2, width]``."""
        flat = tf.reshape(h, [-1, h.shape[-1]])
        return tf.reshape(head(flat, training=training), tf.shape(h)), h

    def loss(self, output: tuple[tf.Tensor, tf.Tensor], target: tf.Tensor) -> tf.Tensor:
        """``1 + D(p1, z2) / 2 + D(p2, z1) / 2`` with D the negative cosine (equation 2).

        The 1 makes the loss positive, because some balances divide by it. The gradient is the
        paper's.
        """
        (p1, p2), (z1, z2) = (tf.unstack(part, axis=1) for part in output)
        return 1 + (negative_cosine(p1, z2) + negative_cosine(p2, z1)) / 2

    def score(self, output: tuple[tf.Tensor, tf.Tensor], target: tf.Tensor) -> tf.Tensor:
        """1 if the second projection nearest to an image's first is the image's own, else 0."""
        return tf.cast(finds_partner(output[1]), tf.float32)
