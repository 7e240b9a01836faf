"""Barlow Twins: two views agree in each dimension, and the dimensions are uncorrelated."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from op_util.redundancy import barlow_twins
from plugins import option
from pretext.heads import dense
from pretext.registration import TASKS
from pretext.task import Images
from pretext.two_views import TwoViewTask


@TASKS.register("barlow_twins")
class BarlowTwins(TwoViewTask):
    """Zbontar et al., "Barlow Twins: self-supervised learning via redundancy reduction", ICML 2021.

    Departures: the paper's projector has three layers with batch normalisation; here neck and head
    are a dense layer each, with a ReLU between. The views are those of `instance`, without blur and
    solarisation.

    Args:
        redundancy: lambda, the weight of the correlations between different dimensions.
        projection: number of dimensions in which the views are compared (8192 in the paper).
    """

    paper = "Zbontar et al., ICML 2021, arXiv 2103.03230"

    redundancy: float = option(5e-3, minimum=0)
    projection: int = option(256, minimum=2, maximum=65536)

    def build(
        self, images: Images, feature_shape: Sequence[int], width: int
    ) -> tuple[keras.layers.Layer, keras.layers.Layer]:
        return (
            dense("barlow_twins_neck", feature_shape[-1], width),
            dense("barlow_twins_head", width, self.projection),
        )

    def loss(self, output: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """Equation 1, over the global batch."""
        return barlow_twins(*tf.unstack(output, axis=1), self.redundancy)
