"""The classifiers of teacher and student, for methods that compare more than their logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from nets.classifiers import averages_for_logits, classifier_of
from nets.keras_graph import producer
from registry import UserError


def classifier_kernel(method: str, network: str, logits: Any) -> Callable[[], tf.Tensor | None]:
    """What gives the present kernel ``[classes, features]`` of the layer that makes the logits.

    Args:
        method, network: names for messages, such as ``"WKD_L"`` and ``"teacher"``.
        logits: ``[B, classes]``. Where they are not symbolic, the function gives None.

    Raises:
        UserError: the logits do not come from a dense layer without an activation.
    """
    made_by = producer(logits)
    if made_by is None:
        return lambda: None
    layer = classifier_of(logits)
    if layer is None:
        raise UserError(
            f"{method} reads the kernel of the dense layer that makes the {network}'s logits, and "
            f"they come from {made_by.name!r} ({type(made_by).__name__}): end the network in a "
            "Dense layer without activation, or choose another method"
        )
    return lambda: tf.transpose(tf.convert_to_tensor(layer.kernel))


def check_pooled(method: str, network: str, maps: Any, logits: Any) -> None:
    """Raise UserError unless symbolic logits are those of `maps`, averaged over positions."""
    made_by = producer(maps)
    if made_by is None or averages_for_logits(logits, maps):
        return
    raise UserError(
        f"{method} needs class activation maps: in the {network}, the dense layer that makes the "
        f"logits has to follow GlobalAveragePooling2D of the last tap, and {made_by.name!r} is not "
        "followed so: tap the layer before the pooling, or choose another method"
    )
