"""LogitStd: soft logits that are compared whatever their mean and their spread."""

from __future__ import annotations

import tensorflow as tf

from distillers.loss import Combination
from distillers.method import Method
from distillers.reading import Logits
from distillers.registration import register
from op_util.divergence import softened_divergence
from op_util.vectors import z_score
from plugins import option


@register("LogitStd")
class LogitStd(Method):
    """Sun, Ren, Li, Wang & Cao, "Logit standardization in knowledge distillation", CVPR 2024.

    Defaults are those of the authors' code for CIFAR-100: base temperature 2 and weight 9.
    Departures: the main loss has its full weight; theirs is 0.1 (as mdistiller's in KD), with which
    students of few steps learn the labels slowly. The gradient is clipped (see `Combination.CLIP`);
    the authors add the losses.

    Args:
        temperature: T, the base temperature, divides the standardized logits of both networks.
        weight: of this loss.
        clip: the largest norm of this loss's gradient, as a multiple of the weighted main loss's;
            1e9 with a main_weight of 0.1 adds the losses unclipped, as the authors do.
        main_weight: weight of the main loss.
    """

    paper = "Sun et al., CVPR 2024, arXiv 2403.01427"
    reads = Logits()
    combination = Combination.CLIP

    temperature: float = option(2.0, above=0)
    weight: float = option(9.0, above=0)
    clip: float = option(1.0, above=0)
    main_weight: float = option(1.0, minimum=0)

    def loss(self, teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
        """``T^2 KL(softmax(Z(teacher) / T) || softmax(Z(student) / T))``, mean over the batch. Z(x)
        is each image's logits minus their mean, over their standard deviation."""
        return softened_divergence(z_score(teacher), z_score(student), self.temperature)
