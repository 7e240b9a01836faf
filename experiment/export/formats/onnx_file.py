"""ONNX, the format that most servers and browsers run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiment.export.format import FORMATS, Format, refusal
from plugins import option

if TYPE_CHECKING:
    from experiment.export.format import Predict
    from experiment.export.material import Material


@FORMATS.register("onnx")
class Onnx(Format):
    """``student.onnx``, float32, for ONNX Runtime.

    Args:
        opset: the version of ONNX' operations; not given: what the converter takes for stable.
    """

    file = "student.onnx"
    runtime = "onnxruntime"
    packages = {"tf2onnx": "tf2onnx", "onnx": "onnx", "onnxruntime": "onnxruntime"}

    opset: int | None = option(None, minimum=9, maximum=18)

    def convert(self, material: Material, path: Path) -> None:
        import numpy as np

        model = material.serving_model()
        model(np.zeros((1, *material.image_shape), "uint8"))  # Keras exports what was called
        try:
            model.export(str(path), format="onnx", verbose=False, opset_version=self.opset)
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise refusal(error, self.name) from error

    def open(self, path: Path, threads: int) -> Predict:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        (image,) = session.get_inputs()
        return lambda images: session.run(None, {image.name: images})[0]
