"""Writing and running LiteRT files, what its formats share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiment.export.format import UnfitError, refusal

if TYPE_CHECKING:
    import keras

    from experiment.export.format import Predict

PACKAGES = {"ai_edge_litert": "ai-edge-litert"}
# What the converter's error says of operations that it has no kernel for.
_WITHOUT_KERNEL = (
    re.compile(r"(?:Custom|TF Select) ops: ([\w, ]+)"),
    re.compile(r"'(?:tf|tfl)\.(\w+)' op"),
    re.compile(r"[Qq]uantization not yet supported for op: '?(\w+)"),
)


def write(
    model: keras.Model, path: Path, name: str, *, types: Sequence[Any] = (), **settings: Any
) -> None:
    """Convert a model to a LiteRT file of built-in operations alone.

    Args:
        model: from images to probabilities.
        path: to write to, a ``.tflite``.
        name: of the format, for error messages.
        types: dtypes of the weights; none: float32.
        **settings: attributes of `tf.lite.TFLiteConverter`.

    Raises:
        UnfitError: LiteRT has no kernel for something that the model computes.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert_phase import ConverterError

    target = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS], "supported_types": list(types)}
    target |= settings.pop("target_spec", {})
    try:
        model.export(str(path), format="litert", verbose=False, target_spec=target, **settings)
    except (ConverterError, RuntimeError, ValueError) as error:
        raise _refusal(error, name) from error


def write_int8(model: keras.Model, path: Path, name: str, calibration: np.ndarray) -> None:
    """Convert a model to a LiteRT file that computes in int8 alone.

    Args:
        model: from images of float32 to probabilities.
        path: to write to.
        name: of the format, for error messages.
        calibration: images uint8 ``[N, H, W, C]``, by which ranges are measured where no fake
            quantisation states them.

    Raises:
        UnfitError: LiteRT has no int8 kernel for something that the model computes.
    """
    import tensorflow as tf

    def images() -> Iterator[list[np.ndarray]]:
        for image in calibration:
            yield [image[np.newaxis].astype("float32")]

    write(
        model, path, name,
        optimizations=[tf.lite.Optimize.DEFAULT],
        inference_input_type=tf.uint8,
        inference_output_type=tf.uint8,
        target_spec={"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]},
        representative_dataset=images,
    )
    floats = float_tensors(path)
    if floats:
        raise UnfitError(
            f"{name}: {len(floats)} tensors of the file are still floating point, such as "
            f"{floats[0]!r}: LiteRT has no int8 kernel for what computes them; use the format "
            "litert-float16, or other layers"
        )


def float_tensors(path: Path) -> list[str]:
    """The names of the tensors in a LiteRT file that are not integers."""
    tensors = _interpreter(path, 1).get_tensor_details()
    return [each["name"] for each in tensors if np.issubdtype(each["dtype"], np.floating)]


def open_file(path: Path, threads: int) -> Predict:
    """See `format.Format.open`."""
    interpreter = _interpreter(path, threads)
    image, probabilities = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero = probabilities["quantization"]

    def predict(images: np.ndarray) -> np.ndarray:
        if tuple(interpreter.get_input_details()[0]["shape"]) != images.shape:
            interpreter.resize_tensor_input(image["index"], images.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(image["index"], images)
        interpreter.invoke()
        found = interpreter.get_tensor(probabilities["index"])
        return (found.astype("float32") - zero) * scale if scale else found

    return predict


def _interpreter(path: Path, threads: int) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    return interpreter


def _refusal(error: Exception, name: str) -> Exception:
    """What to raise for the error that the converter raised."""
    for pattern in _WITHOUT_KERNEL:
        found = pattern.search(str(error))
        if found:
            return UnfitError(
                f"{name}: LiteRT has no built-in kernel for {found[1].strip()}, which the network "
                "computes: use other layers, or the format onnx"
            )
    return refusal(error, name)
