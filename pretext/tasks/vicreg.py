"""VICReg: two views are alike, every dimension varies, and the dimensions are uncorrelated."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from op_util.redundancy import vicreg
from plugins import option
from pretext.heads import dense
from pretext.registration import TASKS
from pretext.task import Images
from pretext.two_views import TwoViewTask


@TASKS.register("vicreg")
class VICReg(TwoViewTask):
    """Bardes, Ponce & LeCun, "VICReg: variance-invariance-covariance regularization for
    self-supervised learning", ICLR 2022.

    Departures: the paper's projector has three layers with batch normalisation; here neck and head
    are a dense layer each, with a ReLU between. The views are those of `instance`, without blur and
    solarisation.

    Args:
        invariance: weight of the views' mean squared distance (the paper's lambda).
        variance: weight of the penalty on standard deviations below 1 (mu).
        covariance: weight of the covariances between dimensions (nu).
        projection: number of dimensions in which the views are compared (8192 in the paper).
    """

    paper = "Bardes et al., ICLR 2022, arXiv 2105.04906"

    invariance: float = option(25.0, minimum=0)
    variance: float = option(25.0, minimum=0)
    covariance: float = option(1.0, minimum=0)
    projection: int = option(256, minimum=2, maximum=65536)

    def build(
        self, images: Images, feature_shape: Sequence[int], width: int
    ) -> tuple[keras.layers.Layer, keras.layers.Layer]:
        return (
            dense("vicreg_neck", feature_shape[-1], width),
            dense("vicreg_head", width, self.projection),
        )

    def loss(self, output: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """Equation 6, over the global batch."""
        return vicreg(
            *tf.unstack(output, axis=1), self.invariance, self.variance, self.covariance
        )
