"""LiteRT (formerly TensorFlow Lite) in floating point, for phones and small computers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiment.export import litert_files
from experiment.export.format import FORMATS, Format

if TYPE_CHECKING:
    from experiment.export.format import Predict
    from experiment.export.material import Material


@FORMATS.register("litert")
class LiteRT(Format):
    """``student.tflite``, float32, of operations that are built into LiteRT."""

    file = "student.tflite"
    runtime = "ai_edge_litert"
    packages = litert_files.PACKAGES

    def convert(self, material: Material, path: Path) -> None:
        litert_files.write(material.serving_model(), path, self.name)

    def open(self, path: Path, threads: int) -> Predict:
        return litert_files.open_file(path, threads)


@FORMATS.register("litert-float16")
class LiteRTFloat16(LiteRT):
    """``student-float16.tflite``: weights in float16, half the size. Computes in float32 where the
    processor has no float16."""

    file = "student-float16.tflite"
    tolerance = 0.02

    def convert(self, material: Material, path: Path) -> None:
        import tensorflow as tf

        litert_files.write(
            material.serving_model(), path, self.name,
            optimizations=[tf.lite.Optimize.DEFAULT], types=[tf.float16],
        )
