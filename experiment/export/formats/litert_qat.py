"""LiteRT in int8, of a student from quantisation-aware training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiment.export import litert_files
from experiment.export.format import FORMATS
from experiment.export.formats.litert import LiteRT

if TYPE_CHECKING:
    from experiment.export.material import Material

_CALIBRATION = 100


@FORMATS.register("litert-qat")
class LiteRTQuantizationAware(LiteRT):
    """``student-qat.tflite``: the student of ``--quantize int8``, with the weights and ranges that
    it learned. Images go in and probabilities come out as for ``litert-int8``.

    Training images calibrate only what comes before and after the network.
    """

    file = "student-qat.tflite"
    tolerance = None
    source = "quantized"

    @property
    def calibrates_on(self) -> int:
        return _CALIBRATION

    def convert(self, material: Material, path: Path) -> None:
        from nets import with_rounded_weights

        rounded = material.with_student(with_rounded_weights(material.student))
        model = rounded.serving_model(for_integers=True)
        litert_files.write_int8(model, path, self.name, material.calibration)
