"""VICReg's terms, with the tasks in place of the views."""

from __future__ import annotations

import itertools

import tensorflow as tf

from op_util.redundancy import vicreg
from plugins import option
from pretext.registration import REGULARIZERS
from pretext.regularizer import Regularizer


def variance_covariance(
    embeddings: tf.Tensor, invariance: float, variance: float, covariance: float
) -> tf.Tensor:
    """VICReg's loss of ``sqrt(width) e_a`` and ``sqrt(width) e_b``, averaged over tasks a < b.

    The factor gives each dimension a standard deviation of 1 if the images are spread evenly over
    the sphere. See `op_util.redundancy.vicreg`.

    Args:
        embeddings: e, ``[B, T, width]`` of length 1, T at least 2.
        invariance, variance, covariance: weights of VICReg's three terms.

    Returns:
        A float32 scalar.
    """
    scale = tf.sqrt(tf.cast(embeddings.shape[-1], embeddings.dtype))
    pairs = list(itertools.combinations(tf.unstack(scale * embeddings, axis=1), 2))
    losses = [vicreg(*pair, invariance, variance, covariance) for pair in pairs]
    return tf.add_n(losses) / len(losses)


@REGULARIZERS.register("variance_covariance")
class VarianceCovariance(Regularizer):
    """Bardes et al., "VICReg", ICLR 2022, applied between tasks.

    All tasks' embeddings of an image are alike, each dimension varies over the images, and the
    dimensions are uncorrelated.

    The defaults are the paper's 25, 25 and 1, divided by 25, to make the regularizer's weight
    comparable with that of other regularizers.

    Args:
        invariance: weight of the squared distance between two tasks' embeddings of an image.
        variance: weight of the penalty on standard deviations below 1.
        covariance: weight of the covariances between dimensions.
    """

    paper = "Bardes et al., ICLR 2022, arXiv 2105.04906"

    invariance: float = option(1.0, minimum=0)
    variance: float = option(1.0, minimum=0)
    covariance: float = option(0.04, minimum=0)

    def __call__(self, embeddings: tf.Tensor) -> tf.Tensor:
        return variance_covariance(
            embeddings, self.invariance, self.variance, self.covariance
        )
