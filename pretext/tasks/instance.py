"""Instance discrimination: find the two views that show the same image."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from op_util.metric_learning import nt_xent
from plugins import option
from pretext.heads import dense
from pretext.registration import TASKS
from pretext.task import Images
from pretext.two_views import TwoViewTask

_PROJECTION = 64


@TASKS.register("instance")
class Instance(TwoViewTask):
    """Chen et al., "A simple framework for contrastive learning of visual representations"
    (SimCLR), ICML 2020.

    Each image has two views, cropped, mirrored and recoloured at random. The task is to find the
    second view among all views of the batch (NT-Xent).

    Args:
        temperature: temperature of NT-Xent (0.5 in the paper on CIFAR-10).
    """

    paper = "Chen et al., ICML 2020, arXiv 2002.05709"

    temperature: float = option(0.5, above=0)

    def build(
        self, images: Images, feature_shape: Sequence[int], width: int
    ) -> tuple[keras.layers.Layer, keras.layers.Layer]:
        return (
            dense("instance_neck", feature_shape[-1], width),
            dense("instance_head", width, _PROJECTION),
        )

    def loss(self, output: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """NT-Xent over the global batch."""
        return nt_xent(output, self.temperature)
