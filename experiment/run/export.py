"""The trained network as a SavedModel for serving: raw images in, answers out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from experiment.run.folder import replacing
from nets import Standardize, class_lines, copy_model, is_narrow
from registry import UserError

# What a SavedModel is made of, for `folder.RunFolder.directory`.
CLASSES = "classes.txt"
FILES = ("saved_model.pb", "fingerprint.pb", "variables/variables.*", "assets/*", CLASSES)

_NO_IMAGES = (
    "every value of these images is 0 or 1; expected uint8 in 0..255: multiply floats in 0..1 by "
    "255 and round them"
)


def classification(logits: tf.Tensor) -> dict[str, tf.Tensor]:
    """From logits [N,classes]: ``probabilities`` float32 [N,classes], ``classes`` int32 [N]."""
    probabilities = tf.nn.softmax(tf.cast(logits, tf.float32))
    return {
        "probabilities": probabilities,
        "classes": tf.argmax(probabilities, axis=-1, output_type=tf.int32),
    }


def named_classification(names: Sequence[str]) -> Callable[[Any], dict[str, tf.Tensor]]:
    """`classification`, with the ``names`` of the classes besides: strings [N].

    Args:
        names: in the order of the logits.
    """

    def outputs(logits: tf.Tensor) -> dict[str, tf.Tensor]:
        found = classification(logits)
        return {**found, "names": tf.gather(tf.constant(list(names)), found["classes"])}

    return outputs


class _Serving(tf.Module):
    """Holds the weights and nothing else: what a SavedModel's root holds is saved, and a Keras
    model that was trained holds its optimizer, its metrics and whatever was made an attribute."""

    def __init__(self, weights: Sequence[Any]):
        super().__init__()
        self.weights = [variable.value for variable in weights]


def export_saved_model(
    model: keras.Model,
    directory: str | os.PathLike,
    *,
    image_shape: Sequence[int],
    mean: Sequence[float],
    deviation: Sequence[float],
    size: Sequence[int] | None = None,
    reverses: bool = False,
    outputs: Callable[[Any], dict[str, tf.Tensor]] = classification,
    class_names: Sequence[str] | None = None,
) -> None:
    """Write a float32 SavedModel of `model`, entirely or not at all.

    Its ``serving_default`` takes ``image`` uint8 [N,H,W,C], any N >= 1, normalises it as
    ``(image - mean) / deviation``, runs the network in inference mode (dropout off, batch
    normalisation with its moving statistics) and returns what `outputs` makes of it. A batch
    without a value above 1 is refused: it is of floats in 0..1 that were cast, or of nothing.
    Call it outside of a distribution strategy's scope; the model may be of one. `check_export`
    then compares what was written with the model.

    Args:
        model: functional, from float images [N,H,W,C]; any dtype policy, its weights are used in
            float32.
        directory: for TensorFlow Serving a number within the model's folder, such as ``export/1``;
            replaced where it exists.
        image_shape: (H, W, C).
        mean: of each channel, in 0..255 units.
        deviation: likewise, positive.
        size: (H, W) that the model takes, where it is another: images are resized to it.
        reverses: whether channels are reversed before (see `nets.Standardize`).
        outputs: from what the model returns to named tensors; `classification` takes logits.
        class_names: in the order of the logits, written to ``classes.txt``, a line each.

    Raises:
        ValueError: the model takes images of another shape, or `mean` and `deviation` do not have
            one number a channel.
    """
    height, width, channels = image_shape
    if len(mean) != channels or len(deviation) != channels:
        raise ValueError(
            f"{len(mean)} means and {len(deviation)} deviations; expected {channels}, one a channel"
        )
    expected = model.input_shape
    taken = (*(size or (height, width)), channels)
    if len(expected) != 4 or any(
        have not in (None, given) for have, given in zip(expected[1:], taken, strict=True)
    ):
        raise ValueError(f"the model takes images of shape {tuple(expected[1:])}, not {taken}")
    clone = copy_model(model, dtype="float32", fuse=False)
    prepare = Standardize(tuple(mean), tuple(deviation), taken[:2], reverses)
    signature = tf.TensorSpec([None, height, width, channels], tf.uint8, name="image")

    @tf.function(input_signature=[signature])
    def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
        # TensorFlow casts NumPy's floats without a word: those in 0..1 become black.
        tf.debugging.Assert(tf.reduce_max(image) > 1, [_NO_IMAGES])
        return outputs(clone(prepare(image), training=False))

    with replacing(directory) as partial:
        tf.saved_model.save(
            _Serving(clone.variables), str(partial), signatures={"serving_default": serve},
            options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
        )
        if class_names is not None:
            (partial / CLASSES).write_text(class_lines(class_names), encoding="utf-8")


class ExportCheck(NamedTuple):
    """How an export compares with the model that was scored.

    Attributes:
        images: how many both were given.
        agreement: share of the images in 0..1 for which each integer output, such as the class,
            is the same; None where there is no such output.
        difference: the largest difference of any other output, divided by that output's largest
            absolute value.
    """

    images: int
    agreement: float | None
    difference: float


def check_export(
    directory: str | os.PathLike,
    model: keras.Model,
    images: np.ndarray,
    *,
    prepare: Callable[[tf.Tensor], tf.Tensor],
    outputs: Callable[[Any], dict[str, tf.Tensor]] = classification,
    batch_size: int = 64,
) -> ExportCheck:
    """Load an export again and compare it with the model that was scored, image by image.

    The export computes in float32. Where `model` does too, no image's outputs may differ by more
    than 0.5 % of the largest output; where it computes in a narrower type, nine in ten images'
    outputs have to be within 10 %.

    Args:
        directory: what `export_saved_model` wrote.
        model: the model as it was scored, of any dtype policy.
        images: raw, uint8 [N,H,W,C], N >= 1: test images, say a few hundred.
        prepare: from raw images to the model's input, as in scoring.
        outputs: as given to `export_saved_model`.
        batch_size: images at a time.

    Raises:
        UserError: the export answers otherwise than the model.
    """
    serve = tf.saved_model.load(str(directory)).signatures["serving_default"]
    served: list[dict[str, np.ndarray]] = []
    scored: list[dict[str, np.ndarray]] = []
    for start in range(0, len(images), batch_size):
        batch = tf.constant(images[start : start + batch_size])
        if tf.reduce_max(batch) <= 1:  # black, which the export refuses
            continue
        served.append({key: np.asarray(value) for key, value in serve(image=batch).items()})
        given = outputs(model(prepare(batch), training=False))
        scored.append({key: np.asarray(value) for key, value in given.items()})
    count = sum(len(next(iter(each.values()))) for each in scored)
    if not count:
        return ExportCheck(0, None, 0.0)
    same, apart = np.ones(count, bool), np.zeros(count)
    has_classes = False
    for key in scored[0]:
        ours, theirs = (np.concatenate([each[key] for each in part]) for part in (served, scored))
        if theirs.dtype.kind in "iub":
            has_classes = True
            same &= (ours == theirs).reshape(count, -1).all(axis=1)
        elif theirs.dtype.kind == "f":
            apart = np.maximum(apart, _differences(ours, theirs))
    found = ExportCheck(
        count, float(same.mean()) if has_classes else None, float(apart.max())
    )
    narrow = is_narrow(model)
    if np.quantile(apart, 0.9, method="higher") > 0.1 if narrow else apart.max() > 0.005:
        agreement = f", the same class for {100 * same.mean():.0f} %" if has_classes else ""
        raise UserError(
            f"the export in {directory} does not answer as the model that was scored: on "
            f"{count} images its outputs differ by up to {100 * apart.max():.3g} % of the "
            f"largest one{agreement}; do not serve it, use the .keras file"
        )
    return found


def _differences(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Each image's largest difference [N], relative to the largest entry of `theirs`; infinite
    where something is not finite."""
    ours, theirs = (each.reshape(len(theirs), -1).astype("float64") for each in (ours, theirs))
    largest = max(np.abs(theirs).max(initial=0, where=np.isfinite(theirs)), np.finfo("f4").tiny)
    return np.nan_to_num(np.abs(ours - theirs).max(axis=1) / largest, nan=np.inf, posinf=np.inf)
